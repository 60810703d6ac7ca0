"""A worker: `python -m kabench.load.workers`, a process that makes its share of the load through one agent.

It runs the clock of a load: when to begin, to measure, to end and to cut off. The schedule sends, the recorder counts,
and once a second the worker says what was counted. `figures.messages` says how to speak to a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import warnings
from pathlib import Path
from time import monotonic, perf_counter, process_time
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import msgspec

from kabench.agent import CertificateError, ConnectError, ConnectTimeoutError, InsecureTlsWarning, TlsError
from kabench.load.clients.specs import is_own, peer_version
from kabench.load.figures.environment import max_rss_mb
from kabench.load.figures.messages import (
    STOP,
    Done,
    Failed,
    Go,
    Level,
    Levelled,
    Message,
    Progress,
    Ready,
    Second,
    Task,
    Up,
    encode,
)
from kabench.load.figures.recorder import recorder_for
from kabench.load.plan.share import Share
from kabench.load.schedules.factory import schedule_for
from kabench.load.schedules.schedule import CUT_OFF
from kabench.load.schedules.steered import SteeredUsers
from kabench.result import INTERRUPTED
from kabench.system.limits import allow_open_sockets
from kabench.system.loop import loop_name, run

if TYPE_CHECKING:
    from collections.abc import Callable

_PROGRESS_EVERY_S = 0.1
_TICKS_PER_SECOND = 10
_LOOK_FOR_ANSWERS_EVERY_S = 0.01
_LOOK_FOR_OVERDUE_EVERY_S = 0.05
_CONNECT_ERRORS = {error.kind for error in (ConnectError, ConnectTimeoutError, TlsError, CertificateError)}
_CLOSE_PATIENCE_S = 1.0
_NOBODY_LISTENS = 3
_MOST_UNCOLLECTED = 500_000
"""Objects that a run may leave uncollected before a pause for them is better than the memory."""


class _Timer:
    """Calls `what` at a time of `perf_counter`, and not before, although the event loop's timers have coarse steps."""

    def __init__(self, loop: asyncio.AbstractEventLoop, at: float, what: Callable[[], None]) -> None:
        self._loop = loop
        self._at = at
        self._what = what
        self._handle = loop.call_later(max(0.0, at - perf_counter()), self._look)

    def _look(self) -> None:
        early_s = self._at - perf_counter()
        if early_s > 0:
            self._handle = self._loop.call_later(early_s, self._look)
        else:
            self._what()

    def cancel(self) -> None:
        """Do not call any more."""
        self._handle.cancel()


class Worker:
    """Makes one worker's load, and says how it goes."""

    def __init__(self, task: Task) -> None:
        self._loop = asyncio.get_running_loop()
        self._plan = task.plan
        self._recorder = recorder_for(task.plan, task.plan.target_names(task.url).all)
        self._load = schedule_for(task, Share(task.index, task.plan.workers), self._recorder, self._is_over)
        if isinstance(self._load, SteeredUsers):
            self._load.levelled = self._say_levelled
        self._over = asyncio.Event()
        self._interrupted = False
        self._has_begun = self._is_cut_off = False
        self._is_measuring = not task.plan.warmup_s
        self._tick_timer: _Timer | None = None
        self._timers: list[_Timer] = []
        self._ticks = 0
        self._zero = self._load_ended_at = self._ended_at = self._cpu_at_zero = 0.0

    async def work(self, at: float) -> None:
        """Begin the load at a time of the monotonic clock, and make the whole of it."""
        await asyncio.sleep(max(0.0, at - monotonic()))
        begins_at = perf_counter()
        self._zero = begins_at + self._plan.warmup_s
        self._ended_at = self._load_ended_at = self._zero
        self._cpu_at_zero = process_time()
        self._has_begun = True
        self._tick_timer = self._at(begins_at + _PROGRESS_EVERY_S, self._tick)
        if self._plan.warmup_s:
            self._timers.append(self._at(self._zero, self._measure))
        if self._plan.time_limit_s is not None and not isinstance(self._load, SteeredUsers):
            self._timers.append(self._at(self._zero + self._plan.time_limit_s, self._time_is_over))
        if not self._interrupted:
            self._load.begin(self._zero)
            self._look_for_overdue()
            await self._over.wait()
        for timer in (*self._timers, self._tick_timer):
            timer.cancel()
        self._say_second(self._ended_at)
        self._say(Done(self._interrupted, self._load_ended_at - self._zero, self._why_unreachable()))
        await self._close()

    async def _close(self) -> None:
        """Close the schedule. If its client hangs, the process ends anyway: all that was measured has been said."""
        leaving = threading.Timer(_CLOSE_PATIENCE_S, _leave, (0,))
        leaving.daemon = True
        leaving.start()
        await self._load.close()
        leaving.cancel()

    def _at(self, at: float, what: Callable[[], None]) -> _Timer:
        return _Timer(self._loop, at, what)

    def hear(self, line: bytes) -> None:
        """Do what a line says."""
        if line == STOP:
            self.interrupt()
        elif isinstance(self._load, SteeredUsers):
            level = msgspec.json.decode(line, type=Level)
            self._load.set_users(level.users, level.number, perf_counter(), abort=level.abort)

    def _say_levelled(self, number: int) -> None:
        self._say(Levelled(number))

    def interrupt(self) -> None:
        """Stop now, and give up what is in flight."""
        self._interrupted = True
        if self._has_begun:
            self._load.give_up(INTERRUPTED, perf_counter())

    def _measure(self) -> None:
        self._cpu_at_zero = process_time()
        self._ticks = 0
        self._is_measuring = True
        self._load.measure()

    def _time_is_over(self) -> None:
        now = perf_counter()
        self._load_ended_at = now
        self._load.end(now)
        self._look_for_answers(self._load.finished_requests)
        self._loop.call_later(self._plan.grace_s, self._patience_is_over)

    def _look_for_overdue(self) -> None:
        """Give up the requests that have taken too long, again and again: a timer for each would cost it time."""
        limit_s = self._plan.total_timeout_s
        if limit_s is not None and not self._over.is_set():
            self._load.give_up_overdue(perf_counter())
            self._loop.call_later(min(_LOOK_FOR_OVERDUE_EVERY_S, limit_s / 10), self._look_for_overdue)

    def _look_for_answers(self, before: int) -> None:
        """Note when the last answer came of the requests that were in flight when time was over."""
        finished = self._load.finished_requests
        if finished != before:
            self._load_ended_at = perf_counter()
        if not self._over.is_set():
            self._loop.call_later(_LOOK_FOR_ANSWERS_EVERY_S, self._look_for_answers, finished)

    def _patience_is_over(self) -> None:
        self._is_cut_off = True
        self._load.give_up(CUT_OFF, perf_counter())

    def _is_over(self, now: float) -> None:
        self._ended_at = max(now, self._zero)
        if not self._is_cut_off:
            self._load_ended_at = self._ended_at
        self._over.set()

    def _tick(self) -> None:
        self._ticks += 1
        now = perf_counter()
        elapsed_s = now - self._zero
        if self._is_measuring and self._ticks % _TICKS_PER_SECOND == 0:
            self._say_second(now)
        else:
            recorder = self._recorder if self._is_measuring else self._load.warmup_recorder
            with recorder.lock:
                totals = recorder.totals()
            self._say(Progress.of(elapsed_s, totals, self._load.socket_counts()))
        if not self._has_reached_anybody() and self._load.has_got_nowhere:
            self._load.give_up(CUT_OFF, now)
        if gc.get_count()[0] > _MOST_UNCOLLECTED:
            gc.collect()
        next_at = self._zero + (self._ticks + 1) * _PROGRESS_EVERY_S if self._is_measuring else now + _PROGRESS_EVERY_S
        self._tick_timer = self._at(next_at, self._tick)

    def _has_reached_anybody(self) -> bool:
        return self._load.has_been_answered or bool(self._load.socket_counts().created)

    def _why_unreachable(self) -> str | None:
        """Return why no socket could ever be opened, if that is what happened; else None."""
        if (
            self._has_reached_anybody()
            or self._interrupted
            or not self._load.error_kinds <= {*_CONNECT_ERRORS, CUT_OFF}
        ):
            return None
        return self._load.refusal

    def _say_second(self, now: float) -> None:
        with self._recorder.lock:
            taken, totals = self._recorder.take_counts(), self._recorder.totals()
            of_targets = self._recorder.totals_of_targets()
        for counts in taken:
            self._say(counts)
        self._say(
            Second(
                elapsed_s=now - self._zero,
                totals=totals,
                sockets=self._load.socket_counts(),
                cpu_s=process_time() - self._cpu_at_zero,
                max_rss_mb=max_rss_mb(),
                targets=of_targets,
            )
        )

    @staticmethod
    def _say(message: Message) -> None:
        _say(message)


def _say(message: Message) -> None:
    try:
        _out.write(encode(message))
        _out.flush()
    except BrokenPipeError:
        _leave(_NOBODY_LISTENS)


_out: BinaryIO
"""The stream for messages. It is not standard output any more, because a client may print there what it likes."""


def _take_over_output() -> None:
    global _out  # a process has only one
    _out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _leave(code: int) -> NoReturn:
    """End at once, whatever threads there are."""
    os._exit(code)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    _say(Up())
    line = sys.stdin.buffer.readline()
    warnings.simplefilter("ignore", InsecureTlsWarning)  # the report says it instead; urllib3's own is next
    warnings.filterwarnings("ignore", "Unverified HTTPS request")
    try:
        task = msgspec.json.decode(line, type=Task)
        worker = Worker(task)
    except Exception as error:  # a user's own factory raises what it likes
        _say(Failed(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"))
        return
    _say(Ready(loop_name(loop), peer_version(task.agent)))
    go = sys.stdin.buffer.readline()
    if not go:
        return
    begins_at = 0.0
    if go == STOP:
        worker.interrupt()
    else:
        begins_at = msgspec.json.decode(go, type=Go).at
    threading.Thread(target=_listen, args=(loop, worker), daemon=True).start()
    _keep_collections_out(task.agent)
    await worker.work(begins_at)


def _keep_collections_out(agent: str) -> None:
    """Keep garbage collections from pausing the load. kabench's own agents make no cycles, but other clients may."""
    gc.collect()
    gc.freeze()
    if is_own(agent):
        gc.disable()


def _listen(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
    """Hear the lines of standard input, and its end. This runs in a thread, as a client may block the event loop."""
    for line in sys.stdin.buffer:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(worker.hear, line)
    _leave(_NOBODY_LISTENS)


def main() -> None:
    """Take a task from standard input and carry it out."""
    allow_open_sockets()
    _take_over_output()
    sys.path.append(str(Path.cwd()))  # for a user's own client; at the end, so that it hides no other module
    run(_main())
    _leave(0)
