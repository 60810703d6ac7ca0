"""Users and arrivals through a `Client`: tasks where its `send` is a coroutine function, threads elsewhere.

A client is somebody else's code: whatever it raises or returns, a request is counted once, and its user goes on.
Threads count under the recorder's lock, together with whether the request is still unanswered, so that a cut-off counts
none twice.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from time import perf_counter, sleep
from typing import TYPE_CHECKING, cast

from kabench.load.arrivals import Arrivals
from kabench.load.clients import NOT_REACHED, checked_answer, close_client, described, is_async, kind_of, socket_counts
from kabench.load.crowd import PAUSE_AFTER_CONNECT_ERROR_S, Crowd, CrowdUser
from kabench.load.driver import CUT_OFF, Load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kabench.load.clients import Client
    from kabench.load.driver import Setup
    from kabench.load.messages import SocketCounts
    from kabench.load.recorder import Recorder
    from kabench.load.source import Request

_MOST_THREADS = 512
"""Of the open model: more do not make a client in threads any faster."""


class _Requests:
    """The requests of one worker, for tasks and threads alike."""

    def __init__(self, source: Iterator[Request]) -> None:
        self._source = source
        self._lock = threading.Lock()

    def next(self) -> Request:
        """The next one."""
        with self._lock:
            return next(self._source)


# -- users -------------------------------------------------------------------------------------------------------------


class _ClientUser(CrowdUser):
    """A user of a client."""

    def __init__(self, client: Client, requests: _Requests, finished: Callable[[CrowdUser, float], None]) -> None:
        super().__init__(finished)
        self._client = client
        self._requests = requests
        self._is_unanswered = self._is_given_up = False
        self._loop = asyncio.get_running_loop()

    def _sends(self) -> float:
        with self._recorder.lock:
            self._is_unanswered = True
        return perf_counter()

    def _succeeded(self, answer: tuple[int, bytes], began_at: float) -> None:
        response_s = perf_counter() - began_at
        recorder = self._recorder
        with recorder.lock:
            if self._is_unanswered:
                self._is_unanswered = False
                recorder.record_undivided(*answer, response_s)
        self.refusal = None

    def _failed(self, error: BaseException, request: Request) -> float:
        """Count an error; how long to pause before the next request."""
        kind = kind_of(error)
        recorder = self._recorder
        with recorder.lock:
            if self._is_unanswered:
                self._is_unanswered = False
                recorder.record_error(kind)
        if kind not in NOT_REACHED:
            return 0.0
        self.refusal = described(error, request)
        return PAUSE_AFTER_CONNECT_ERROR_S

    def cut_off(self, now: float) -> None:
        """Count what is still under way as an error, and do not wait for it."""
        with self._recorder.lock:
            if self._is_unanswered:
                self._is_unanswered = False
                self._recorder.record_error(CUT_OFF)
        self.abort(now)

    def abort(self, now: float) -> None:
        """Send no more, and do not wait for what is under way."""
        self.stop()
        self._is_given_up = True
        if not self.is_finished:
            with self._recorder.lock:
                self._is_unanswered = False
            self._finish(now)


class _TaskUser(_ClientUser):
    """A user who is a task."""

    _task: asyncio.Task[None] | None = None

    def _start(self, now: float) -> None:  # noqa: ARG002
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        while next(self._tickets, None) is not None:
            request = self._requests.next()
            began_at = self._sends()
            try:
                answer = checked_answer(await cast("Awaitable[tuple[int, bytes]]", self._client.send(request)))
            except (Exception, asyncio.CancelledError) as error:
                if self._is_given_up:
                    return
                await asyncio.sleep(self._failed(error, request))
            else:
                self._succeeded(answer, began_at)
        self._finish(perf_counter())

    def abort(self, now: float) -> None:
        """Send no more, and cancel what is under way."""
        super().abort(now)
        if self._task is not None:
            self._task.cancel()


class _ThreadUser(_ClientUser):
    """A user who is a thread."""

    def _start(self, now: float) -> None:  # noqa: ARG002
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while next(self._tickets, None) is not None:
            request = self._requests.next()
            began_at = self._sends()
            try:
                answer = checked_answer(self._client.send(request))
            except BaseException as error:  # even what would end the thread
                sleep(self._failed(error, request))
            else:
                self._succeeded(answer, began_at)
        _tell(self._loop, self._finish, perf_counter())


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[float], None], now: float) -> None:
    """Call from a thread into the loop, if that has not ended."""
    try:
        loop.call_soon_threadsafe(what, now)
    except RuntimeError:
        return


class ClientUsers(Crowd):
    """Users who share one client."""

    def __init__(self, setup: Setup, client: Client, source: Iterator[Request]) -> None:
        self._client = client
        self._requests = _Requests(source)
        self._make = _TaskUser if is_async(client) else _ThreadUser
        super().__init__(setup)

    def _make_user(self) -> CrowdUser:
        return self._make(self._client, self._requests, self._user_finished)

    def socket_counts(self) -> SocketCounts:
        """What the client says of its sockets."""
        return socket_counts(self._client, self.finished_requests)

    async def close(self) -> None:
        """Close the client."""
        await close_client(self._client)


# -- arrivals ----------------------------------------------------------------------------------------------------------


class _ClientArrivals(Arrivals):
    """Requests of the open model through a client. `_unanswered` counts, for each recorder, those it is to hear of."""

    def __init__(self, setup: Setup, client: Client, source: Iterator[Request]) -> None:
        super().__init__(setup)
        self._client = client
        self._requests = _Requests(source)
        self._loop = asyncio.get_running_loop()
        self._unanswered: Counter[Recorder] = Counter()
        self._is_given_up = False

    def _send(self, due_at: float, now: float, recorder: Recorder) -> None:  # noqa: ARG002
        with recorder.lock:
            self._unanswered[recorder] += 1
        self._begin(due_at, recorder)

    def _begin(self, due_at: float, recorder: Recorder) -> None:
        raise NotImplementedError

    def _sends(self, due_at: float, recorder: Recorder) -> None:
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
            self._ended_one(now)

    def _give_up(self, *, counted: bool) -> None:
        with self.recorder.lock, self.warmup_recorder.lock:
            self._is_given_up = True
            for recorder, times in self._unanswered.items() if counted else ():
                for _ in range(times):
                    recorder.record_error(CUT_OFF)

    def socket_counts(self) -> SocketCounts:
        """What the client says of its sockets."""
        return socket_counts(self._client, self.finished_requests)

    async def close(self) -> None:
        """Close the client."""
        await close_client(self._client)


class TaskArrivals(_ClientArrivals):
    """Requests that are tasks."""

    def __init__(self, setup: Setup, client: Client, source: Iterator[Request]) -> None:
        super().__init__(setup, client, source)
        self._tasks: set[asyncio.Task[None]] = set()

    def _begin(self, due_at: float, recorder: Recorder) -> None:
        task = self._loop.create_task(self._run(due_at, recorder))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, due_at: float, recorder: Recorder) -> None:
        request = self._requests.next()
        self._sends(due_at, recorder)
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
    """Requests that are sent by threads, of which there are as many as are needed at once, up to a limit."""

    def __init__(self, setup: Setup, client: Client, source: Iterator[Request]) -> None:
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
            self._sends(due_at, recorder)
            try:
                answer = checked_answer(self._client.send(request))
            except BaseException as error:  # even what would end the thread
                self._failed(error, request, recorder)
            else:
                self._succeeded(answer, due_at, recorder)
            _tell(self._loop, self._ended, perf_counter())


def client_load(setup: Setup, client: Client, source: Iterator[Request]) -> Load:
    """The load of a plan through a client."""
    if not setup.plan.is_open:
        return ClientUsers(setup, client, source)
    kind = TaskArrivals if is_async(client) else ThreadArrivals
    return kind(setup, client, source)
