"""The open model through a `Client`: a task for each request, or a thread for each request in flight.

As with users (`client_users`), a request is counted once, whatever the client raises or returns, and under the
recorder's lock.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, cast

from kabench.load.clients.contract import checked_answer, close_client, socket_counts
from kabench.load.clients.errors import NOT_REACHED, described, kind_of
from kabench.load.schedules.clients import SharedRequests, call_into
from kabench.load.schedules.open import Arrivals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from kabench.load.clients.contract import Client
    from kabench.load.figures.answer import Answer
    from kabench.load.figures.messages import SocketCounts
    from kabench.load.figures.recorder import Recorder
    from kabench.load.plan.source import Request
    from kabench.load.schedules.schedule import ScheduleSetup

_MOST_THREADS = 512
"""The most threads of the open model: more do not make a client any faster."""


@dataclass(frozen=True, slots=True, eq=False)
class _Due:
    """A request in flight: when it was due (`at`), and where it counts."""

    request: Request
    target: int
    at: float
    recorder: Recorder

    def record_unanswered(self, kind: str, now: float) -> None:
        """Count the request as unanswered. Call it under the recorder's lock."""
        self.recorder.record_unanswered(kind, now - self.at, was_sent=None, target=self.target)


class _ClientArrivals(Arrivals):
    """Requests of the open model through a client. `_in_flight` has each of them, with where it counts."""

    def __init__(self, setup: ScheduleSetup, client: Client, source: Iterator[tuple[Request, int]]) -> None:
        super().__init__(setup)
        self._client = client
        self._requests = SharedRequests(source)
        self._loop = asyncio.get_running_loop()
        self._in_flight: dict[_Due, None] = {}
        self._is_given_up = False

    def _send(self, due_at: float, now: float, recorder: Recorder) -> None:  # noqa: ARG002
        request, target = self._requests.next()
        due = _Due(request, target, due_at, recorder)
        with recorder.lock:
            self._in_flight[due] = None
        self._begin(due)

    def _begin(self, due: _Due) -> None:
        raise NotImplementedError

    def _note_sent(self, due: _Due) -> None:
        with due.recorder.lock:
            if not self._is_given_up:
                due.recorder.record_lag(perf_counter() - due.at)

    def _succeeded(self, answer: Answer, due: _Due) -> None:
        now = perf_counter()
        with due.recorder.lock:
            if not self._is_given_up:
                del self._in_flight[due]
                due.recorder.record_undivided(answer, now - due.at, due.target)

    def _failed(self, error: BaseException, due: _Due) -> None:
        kind = kind_of(error)
        now = perf_counter()
        with due.recorder.lock:
            if not self._is_given_up:
                del self._in_flight[due]
                due.record_unanswered(kind, now)
        if kind in NOT_REACHED:
            self._refused(described(error, due.request))

    def _ended(self, now: float) -> None:
        if not self._is_given_up:
            self._request_ended(now)

    def _give_up(self, kind: str, now: float) -> None:
        with self.recorder.lock, self.warmup_recorder.lock:
            self._is_given_up = True
            for due in self._in_flight:
                due.record_unanswered(kind, now)

    def socket_counts(self) -> SocketCounts:
        """Return what the client says of its sockets."""
        return socket_counts(self._client, self.finished_requests)

    async def close(self) -> None:
        """Close the client."""
        await close_client(self._client)


class TaskArrivals(_ClientArrivals):
    """Requests that are sent by a task each."""

    def __init__(self, setup: ScheduleSetup, client: Client, source: Iterator[tuple[Request, int]]) -> None:
        super().__init__(setup, client, source)
        self._tasks: set[asyncio.Task[None]] = set()

    def _begin(self, due: _Due) -> None:
        task = self._loop.create_task(self._run(due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, due: _Due) -> None:
        self._note_sent(due)
        try:
            answer = checked_answer(await cast("Awaitable[object]", self._client.send(due.request)))
        except (Exception, asyncio.CancelledError) as error:
            self._failed(error, due)
        else:
            self._succeeded(answer, due)
        self._ended(perf_counter())

    def _give_up(self, kind: str, now: float) -> None:
        super()._give_up(kind, now)
        for task in list(self._tasks):
            task.cancel()


class ThreadArrivals(_ClientArrivals):
    """Requests that are sent by threads: one for each request in flight, up to a limit."""

    def __init__(self, setup: ScheduleSetup, client: Client, source: Iterator[tuple[Request, int]]) -> None:
        super().__init__(setup, client, source)
        self._max_in_flight = min(self._max_in_flight, _MOST_THREADS)
        self._due: queue.SimpleQueue[_Due] = queue.SimpleQueue()
        self._threads = 0

    def _begin(self, due: _Due) -> None:
        self._due.put(due)
        if self._threads < self.in_flight:
            self._threads += 1
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            due = self._due.get()
            if self._is_given_up:
                return
            self._note_sent(due)
            try:
                answer = checked_answer(self._client.send(due.request))
            except BaseException as error:  # even what would end the thread
                self._failed(error, due)
            else:
                self._succeeded(answer, due)
            call_into(self._loop, self._ended, perf_counter())
