"""The closed model through a `Client`: users are tasks where its `send` is a coroutine function, threads elsewhere.

A client is somebody else's code: whatever it raises or returns, a request is counted once, and the user goes on. Under
the recorder's lock, a thread counts a request and notes that it is answered, so that a cut-off cannot count it again.
"""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter, sleep
from typing import TYPE_CHECKING, cast

from kabench.load.clients.contract import checked_answer, close_client, is_async, socket_counts
from kabench.load.clients.errors import NOT_REACHED, described, kind_of
from kabench.load.schedules.clients import SharedRequests, call_into
from kabench.load.schedules.closed import PAUSE_AFTER_CONNECT_ERROR_S, User, Users

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kabench.load.clients.contract import Client
    from kabench.load.figures.answer import Answer
    from kabench.load.figures.messages import SocketCounts
    from kabench.load.plan.source import Request
    from kabench.load.schedules.schedule import ScheduleSetup


class _ClientUser(User):
    """A user of a client."""

    def __init__(self, client: Client, requests: SharedRequests, finished: Callable[[User, float], None]) -> None:
        super().__init__(finished)
        self._client = client
        self._requests = requests
        self._is_unanswered = self._is_given_up = False
        self._target = 0
        self._began_at = 0.0
        self._loop = asyncio.get_running_loop()

    def _next_request(self) -> Request:
        """Return the next request, which counts as sent from now on."""
        request, target = self._requests.next()
        with self._recorder.lock:
            self._target = target
            self._is_unanswered = True
            self._began_at = perf_counter()
        return request

    def _succeeded(self, answer: Answer) -> None:
        response_s = perf_counter() - self._began_at
        recorder = self._recorder
        with recorder.lock:
            if self._is_unanswered:
                self._is_unanswered = False
                recorder.record_undivided(answer, response_s, self._target)
        self.refusal = None

    def _count_unanswered(self, kind: str, now: float) -> None:
        """Count the request in flight, if it is not counted yet."""
        recorder = self._recorder
        with recorder.lock:
            if self._is_unanswered:
                self._is_unanswered = False
                recorder.record_unanswered(kind, now - self._began_at, was_sent=None, target=self._target)

    def _failed(self, error: BaseException, request: Request) -> float:
        """Count an error, and return how many seconds to pause before the next request."""
        kind = kind_of(error)
        self._count_unanswered(kind, perf_counter())
        if kind not in NOT_REACHED:
            return 0.0
        self.refusal = described(error, request)
        return PAUSE_AFTER_CONNECT_ERROR_S

    def give_up(self, kind: str, now: float) -> None:
        """Send no more, count the request in flight as unanswered, of this kind, and do not wait for it."""
        self.stop()
        self._is_given_up = True
        self._count_unanswered(kind, now)
        if not self.is_finished:
            self._finish(now)


class _TaskUser(_ClientUser):
    """A user that is a task."""

    _task: asyncio.Task[None] | None = None

    def _start(self, now: float) -> None:  # noqa: ARG002
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        while next(self._tickets, None) is not None:
            request = self._next_request()
            try:
                answer = checked_answer(await cast("Awaitable[object]", self._client.send(request)))
            except (Exception, asyncio.CancelledError) as error:
                if self._is_given_up:
                    return
                await asyncio.sleep(self._failed(error, request))
            else:
                self._succeeded(answer)
        self._finish(perf_counter())

    def give_up(self, kind: str, now: float) -> None:
        """Send no more, count the request in flight as unanswered, of this kind, and cancel it."""
        super().give_up(kind, now)
        if self._task is not None:
            self._task.cancel()


class _ThreadUser(_ClientUser):
    """A user that is a thread."""

    def _start(self, now: float) -> None:  # noqa: ARG002
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while next(self._tickets, None) is not None:
            request = self._next_request()
            try:
                answer = checked_answer(self._client.send(request))
            except BaseException as error:  # even what would end the thread
                sleep(self._failed(error, request))
            else:
                self._succeeded(answer)
        call_into(self._loop, self._finish, perf_counter())


class ClientUsers(Users):
    """Users that share one client."""

    def __init__(self, setup: ScheduleSetup, client: Client, source: Iterator[tuple[Request, int]]) -> None:
        self._client = client
        self._requests = SharedRequests(source)
        self._make = _TaskUser if is_async(client) else _ThreadUser
        super().__init__(setup)

    def _make_user(self) -> User:
        return self._make(self._client, self._requests, self._user_finished)

    def socket_counts(self) -> SocketCounts:
        """Return what the client says of its sockets."""
        return socket_counts(self._client, self.finished_requests)

    async def close(self) -> None:
        """Close the client."""
        await close_client(self._client)
