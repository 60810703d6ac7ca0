"""Users and arrivals through a `Client`: tasks where its `send` is a coroutine function, threads elsewhere."""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import threading
from collections import Counter
from time import perf_counter, sleep
from typing import TYPE_CHECKING, cast

from kabench.load.arrivals import Arrivals
from kabench.load.clients import CONNECT_FAILED, described, is_async, kind_of, socket_counts
from kabench.load.crowd import PAUSE_AFTER_CONNECT_ERROR_S, Crowd, CrowdUser
from kabench.load.driver import CUT_OFF, Load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kabench.load.clients import Client
    from kabench.load.messages import SocketCounts
    from kabench.load.plan import LoadPlan
    from kabench.load.recorder import Recorder
    from kabench.load.share import Share
    from kabench.load.source import Request

_MOST_THREADS = 512
"""Of the open model: more do not make a client in threads any faster."""


async def close_client(client: Client) -> None:
    """Close a client, in whichever way it is closed."""
    closing = client.close()
    if inspect.isawaitable(closing):
        await closing


class _Requests:
    """The requests of one worker, for tasks and threads alike."""

    def __init__(self, source: Iterator[Request]) -> None:
        self._source = source
        self._lock = threading.Lock()

    def next(self) -> Request:
        """The next one."""
        with self._lock:
            return next(self._source)


class _ClientUser(CrowdUser):
    """A user of a client."""

    def __init__(self, client: Client, requests: _Requests, finished: Callable[[CrowdUser, float], None]) -> None:
        super().__init__(finished)
        self._client = client
        self._requests = requests
        self._is_given_up = False

    def _succeeded(self, answer: tuple[int, bytes], began_at: float) -> None:
        response_s = perf_counter() - began_at
        recorder = self._recorder
        with recorder.lock:
            if not self._is_given_up:
                recorder.record_undivided(*answer, response_s, response_s)

    def _failed(self, error: Exception) -> float:
        """Count an error; how long to pause before the next request."""
        kind = kind_of(error)
        recorder = self._recorder
        with recorder.lock:
            if not self._is_given_up:
                recorder.record_error(kind)
        if kind != CONNECT_FAILED:
            return 0.0
        self.refusal = described(error)
        return PAUSE_AFTER_CONNECT_ERROR_S

    def cut_off(self, now: float) -> None:
        """Count what is still under way as an error, and do not wait for it."""
        if not self.is_finished:
            with self._recorder.lock:
                self._is_given_up = True
                self._recorder.record_error(CUT_OFF)
            self.abort(now)

    def abort(self, now: float) -> None:
        """Send no more, and do not wait for what is under way."""
        self.stop()
        self._is_given_up = True
        self._finish(now)


class _TaskUser(_ClientUser):
    """A user who is a task."""

    def __init__(self, client: Client, requests: _Requests, finished: Callable[[CrowdUser, float], None]) -> None:
        super().__init__(client, requests, finished)
        self._task: asyncio.Task[None] | None = None

    def _start(self, now: float) -> None:  # noqa: ARG002
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while next(self._tickets, None) is not None:
            request = self._requests.next()
            began_at = perf_counter()
            try:
                answer = await cast("Awaitable[tuple[int, bytes]]", self._client.send(request))
            except Exception as error:
                await asyncio.sleep(self._failed(error))
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

    def __init__(self, client: Client, requests: _Requests, finished: Callable[[CrowdUser, float], None]) -> None:
        super().__init__(client, requests, finished)
        self._loop = asyncio.get_running_loop()

    def _start(self, now: float) -> None:  # noqa: ARG002
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while next(self._tickets, None) is not None:
            request = self._requests.next()
            began_at = perf_counter()
            try:
                answer = cast("tuple[int, bytes]", self._client.send(request))
            except Exception as error:
                pause_s = self._failed(error)
                if pause_s:
                    sleep(pause_s)
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

    def __init__(
        self,
        plan: LoadPlan,
        share: Share,
        recorder: Recorder,
        over: Callable[[float], None],
        client: Client,
        source: Iterator[Request],
    ) -> None:
        self._client = client
        self._requests = _Requests(source)
        self._make = _TaskUser if is_async(client) else _ThreadUser
        super().__init__(plan, share, recorder, over)

    def _make_user(self) -> CrowdUser:
        return self._make(self._client, self._requests, self._user_finished)

    def socket_counts(self) -> SocketCounts:
        """What the client says of its sockets."""
        return _counts(self, self._client)

    async def close(self) -> None:
        """Close the client."""
        await close_client(self._client)


def _counts(load: Load, client: Client) -> SocketCounts:
    return socket_counts(client, load.recorder.transactions + load.warmup_recorder.transactions)


class _ClientArrivals(Arrivals):
    """Requests of the open model through a client."""

    def __init__(
        self,
        plan: LoadPlan,
        share: Share,
        recorder: Recorder,
        over: Callable[[float], None],
        client: Client,
        source: Iterator[Request],
    ) -> None:
        super().__init__(plan, share, recorder, over)
        self._client = client
        self._requests = _Requests(source)
        self._is_given_up = False

    def _succeeded(self, answer: tuple[int, bytes], due_at: float, sent_at: float, recorder: Recorder) -> None:
        now = perf_counter()
        with recorder.lock:
            if not self._is_given_up:
                recorder.record_undivided(*answer, now - due_at, now - sent_at)

    def _failed(self, error: Exception, recorder: Recorder) -> None:
        kind = kind_of(error)
        with recorder.lock:
            if not self._is_given_up:
                recorder.record_error(kind)
        if kind == CONNECT_FAILED:
            self._refused(described(error))

    def socket_counts(self) -> SocketCounts:
        """What the client says of its sockets."""
        return _counts(self, self._client)

    async def close(self) -> None:
        """Close the client."""
        await close_client(self._client)


class TaskArrivals(_ClientArrivals):
    """Requests that are tasks."""

    def __init__(
        self,
        plan: LoadPlan,
        share: Share,
        recorder: Recorder,
        over: Callable[[float], None],
        client: Client,
        source: Iterator[Request],
    ) -> None:
        super().__init__(plan, share, recorder, over, client, source)
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[asyncio.Task[None], Recorder] = {}

    def _send(self, due_at: float, now: float, recorder: Recorder) -> None:  # noqa: ARG002
        task = self._loop.create_task(self._run(due_at, recorder))
        self._under_way[task] = recorder
        task.add_done_callback(self._done)

    async def _run(self, due_at: float, recorder: Recorder) -> None:
        request = self._requests.next()
        sent_at = perf_counter()
        recorder.record_lag(sent_at - due_at)
        try:
            answer = await cast("Awaitable[tuple[int, bytes]]", self._client.send(request))
        except Exception as error:
            self._failed(error, recorder)
        else:
            self._succeeded(answer, due_at, sent_at, recorder)

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._under_way.pop(task, None) is not None:
            self._ended_one(perf_counter())

    def _give_up(self, *, counted: bool) -> None:
        under_way = list(self._under_way.items())
        self._under_way.clear()
        for task, recorder in under_way:
            if counted:
                recorder.record_error(CUT_OFF)
            task.cancel()


class ThreadArrivals(_ClientArrivals):
    """Requests that are sent by threads, of which there are as many as are needed at once, up to a limit."""

    def __init__(
        self,
        plan: LoadPlan,
        share: Share,
        recorder: Recorder,
        over: Callable[[float], None],
        client: Client,
        source: Iterator[Request],
    ) -> None:
        super().__init__(plan, share, recorder, over, client, source)
        self._loop = asyncio.get_running_loop()
        self._max_in_flight = min(self._max_in_flight, _MOST_THREADS)
        self._due: queue.SimpleQueue[tuple[float, Recorder]] = queue.SimpleQueue()
        self._threads = 0
        self._unanswered: Counter[bool] = Counter()

    def _send(self, due_at: float, now: float, recorder: Recorder) -> None:  # noqa: ARG002
        self._unanswered[recorder is self.recorder] += 1
        self._due.put((due_at, recorder))
        if self._threads < self.in_flight:
            self._threads += 1
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            due_at, recorder = self._due.get()
            request = self._requests.next()
            sent_at = perf_counter()
            with recorder.lock:
                if self._is_given_up:
                    return
                recorder.record_lag(sent_at - due_at)
            try:
                answer = cast("tuple[int, bytes]", self._client.send(request))
            except Exception as error:
                self._failed(error, recorder)
            else:
                self._succeeded(answer, due_at, sent_at, recorder)
            ended = functools.partial(self._ended_in_thread, recorder)
            _tell(self._loop, ended, perf_counter())

    def _ended_in_thread(self, recorder: Recorder, now: float) -> None:
        if not self._is_given_up:
            self._unanswered[recorder is self.recorder] -= 1
            self._ended_one(now)

    def _give_up(self, *, counted: bool) -> None:
        with self.recorder.lock:
            self._is_given_up = True
        for recorder, is_measured in ((self.recorder, True), (self.warmup_recorder, False)):
            for _ in range(self._unanswered[is_measured] if counted else 0):
                recorder.record_error(CUT_OFF)


def client_load(
    plan: LoadPlan,
    share: Share,
    recorder: Recorder,
    over: Callable[[float], None],
    client: Client,
    source: Iterator[Request],
) -> Load:
    """The load of a plan through a client."""
    if not plan.is_open:
        return ClientUsers(plan, share, recorder, over, client, source)
    kind = TaskArrivals if is_async(client) else ThreadArrivals
    return kind(plan, share, recorder, over, client, source)
