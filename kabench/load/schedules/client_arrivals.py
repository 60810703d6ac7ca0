"""The open model through a `Client`: a task for each request, or a thread for each request in flight.

As with users (`client_users`), a request is counted once, whatever the client raises or returns, and under the
recorder's lock.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING, cast

from kabench.load.clients.contract import checked_answer, close_client, socket_counts
from kabench.load.clients.errors import NOT_REACHED, described, kind_of
from kabench.load.schedules.clients import SharedRequests, call_into
from kabench.load.schedules.open import Arrivals
from kabench.load.schedules.schedule import CUT_OFF

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from kabench.load.clients.contract import Client
    from kabench.load.figures.messages import SocketCounts
    from kabench.load.figures.recorder import Recorder
    from kabench.load.plan.source import Request
    from kabench.load.schedules.schedule import ScheduleSetup

_MOST_THREADS = 512
"""The most threads of the open model: more do not make a client any faster."""


class _ClientArrivals(Arrivals):
    """Requests of the open model through a client. `_unanswered` counts those in flight for each recorder."""

    def __init__(self, setup: ScheduleSetup, client: Client, source: Iterator[Request]) -> None:
        super().__init__(setup)
        self._client = client
        self._requests = SharedRequests(source)
        self._loop = asyncio.get_running_loop()
        self._unanswered: Counter[Recorder] = Counter()
        self._is_given_up = False

    def _send(self, due_at: float, now: float, recorder: Recorder) -> None:  # noqa: ARG002
        with recorder.lock:
            self._unanswered[recorder] += 1
        self._begin(due_at, recorder)

    def _begin(self, due_at: float, recorder: Recorder) -> None:
        raise NotImplementedError

    def _note_sent(self, due_at: float, recorder: Recorder) -> None:
        with recorder.lock:
            if not self._is_given_up:
                recorder.record_lag(perf_counter() - due_at)

    def _succeeded(self, answer: tuple[int, bytes], due_at: float, recorder: Recorder) -> None:
        now = perf_counter()
        with recorder.lock:
            if not self._is_given_up:
                self._unanswered[recorder] -= 1
                recorder.record_undivided(*answer, now - due_at)

    def _failed(self, error: BaseException, request: Request, recorder: Recorder) -> None:
        kind = kind_of(error)
        with recorder.lock:
            if not self._is_given_up:
                self._unanswered[recorder] -= 1
                recorder.record_error(kind)
        if kind in NOT_REACHED:
            self._refused(described(error, request))

    def _ended(self, now: float) -> None:
        if not self._is_given_up:
            self._request_ended(now)

    def _give_up(self, *, counted: bool) -> None:
        with self.recorder.lock, self.warmup_recorder.lock:
            self._is_given_up = True
            for recorder, times in self._unanswered.items() if counted else ():
                for _ in range(times):
                    recorder.record_error(CUT_OFF)

    def socket_counts(self) -> SocketCounts:
        """Return what the client says of its sockets."""
        return socket_counts(self._client, self.finished_requests)

    async def close(self) -> None:
        """Close the client."""
        await close_client(self._client)


class TaskArrivals(_ClientArrivals):
    """Requests that are sent by a task each."""

    def __init__(self, setup: ScheduleSetup, client: Client, source: Iterator[Request]) -> None:
        super().__init__(setup, client, source)
        self._tasks: set[asyncio.Task[None]] = set()

    def _begin(self, due_at: float, recorder: Recorder) -> None:
        task = self._loop.create_task(self._run(due_at, recorder))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, due_at: float, recorder: Recorder) -> None:
        request = self._requests.next()
        self._note_sent(due_at, recorder)
        try:
            answer = checked_answer(await cast("Awaitable[tuple[int, bytes]]", self._client.send(request)))
        except (Exception, asyncio.CancelledError) as error:
            self._failed(error, request, recorder)
        else:
            self._succeeded(answer, due_at, recorder)
        self._ended(perf_counter())

    def _give_up(self, *, counted: bool) -> None:
        super()._give_up(counted=counted)
        for task in list(self._tasks):
            task.cancel()


class ThreadArrivals(_ClientArrivals):
    """Requests that are sent by threads: one for each request in flight, up to a limit."""

    def __init__(self, setup: ScheduleSetup, client: Client, source: Iterator[Request]) -> None:
        super().__init__(setup, client, source)
        self._max_in_flight = min(self._max_in_flight, _MOST_THREADS)
        self._due: queue.SimpleQueue[tuple[float, Recorder]] = queue.SimpleQueue()
        self._threads = 0

    def _begin(self, due_at: float, recorder: Recorder) -> None:
        self._due.put((due_at, recorder))
        if self._threads < self.in_flight:
            self._threads += 1
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            due_at, recorder = self._due.get()
            if self._is_given_up:
                return
            request = self._requests.next()
            self._note_sent(due_at, recorder)
            try:
                answer = checked_answer(self._client.send(request))
            except BaseException as error:  # even what would end the thread
                self._failed(error, request, recorder)
            else:
                self._succeeded(answer, due_at, recorder)
            call_into(self._loop, self._ended, perf_counter())
