"""`Sender`: a process beside a locust worker that sends for the users of one class, at kabench's speed."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import gevent
import gevent.event
import gevent.lock
import msgspec

from kabench.distributed.exits import CANNOT_START, COULD_NOT_MEASURE
from kabench.load.figures.messages import (
    NOTHING_YET,
    STOP,
    Counts,
    Done,
    Failed,
    Go,
    Level,
    Levelled,
    Ready,
    Second,
    Up,
    decode,
    encode,
)
from kabench.load.workers.local import WORKER_COMMAND
from kabench.system.child import end_child, ending, start_child, write_line

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from kabench.load.figures.messages import Task

_START_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 5.0


class Sender:
    """Sends for all users that have joined and not left.

    It calls `seconds` after each second: with its latencies, the totals so far, the totals of this second alone, and
    the time of its end since the epoch. It calls `failed` with why it cannot go on, and the exit code for that.
    """

    def __init__(
        self,
        seconds: Callable[[list[Counts], Second, Second, float], None],
        failed: Callable[[str, int], None],
    ) -> None:
        self._seconds = seconds
        self._failed = failed
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: gevent.Greenlet | None = None
        self._starting = gevent.lock.RLock()
        self._is_up = gevent.event.Event()
        self._is_ready = self._is_ending = False
        self._began_at = 0.0
        self._users = self._number = 0
        self._leaving: deque[tuple[int, Callable[[], None]]] = deque()
        self._abort = False
        self._is_telling = False
        self._counts: list[Counts] = []
        self._last = NOTHING_YET
        self.has_begun = False
        self.event_loop = "unknown"

    def prepare(self) -> None:
        """Start the process, so that it is running when it is needed."""
        with self._starting:  # other greenlets go on while a process starts, and a test may begin
            if self._process is None:
                self._is_up.clear()
                self._process = start_child(WORKER_COMMAND)
                self._listener = gevent.spawn(self._listen, self._process)

    def wait_until_up(self) -> None:
        """Wait until the process has started."""
        self._is_up.wait(_START_TIMEOUT_S)

    def begin(self, task: Task) -> None:
        """Begin a test."""
        self.prepare()
        self._is_ready = self._is_ending = self._abort = False
        self._users = self._number = 0
        self._leaving.clear()
        self._last = NOTHING_YET
        self._counts.clear()
        self.has_begun = True
        self._tell(encode(task))

    def join(self) -> None:
        """Add a user."""
        self._users += 1
        self._tell_level_soon()

    def leave(self, done: Callable[[], None]) -> None:
        """Remove a user. `done` is called when the user's last request has ended."""
        self._users -= 1
        if self._process is None:
            done()
            return
        self._leaving.append((self._number + 1, done))
        self._tell_level_soon()

    def give_up(self, *, is_new: bool) -> None:
        """Give up the requests of users who have left. With `is_new`, a user leaves with this call."""
        self._users -= is_new
        self._abort = True
        self._tell_level_soon()

    def _tell_level_soon(self) -> None:
        """Tell the process the number of users soon: once for many users who come and go at the same time."""
        if not self._is_telling:
            self._is_telling = True
            gevent.spawn(self._tell_level)

    def _tell_level(self) -> None:
        self._is_telling = False
        if self._is_ready and not self._is_ending:
            self._number += 1
            self._tell(encode(Level(self._users, self._number, self._abort)))
            self._abort = False

    def _tell(self, line: bytes) -> None:
        if self._process is not None:
            write_line(self._process, line)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        why = None
        is_done = False
        for line in process.stdout or ():
            try:
                message = decode(line)
            except msgspec.DecodeError:
                break  # cut off in the middle: the process is dying
            match message:
                case Up():
                    self._is_up.set()
                case Ready() if self._process is process:  # else the process was ended before it had begun
                    self.event_loop = message.event_loop
                    self._is_ready = True
                    self._began_at = time.time()
                    self._tell(encode(Go(time.monotonic())))
                    self._tell_level()
                case Counts():
                    self._counts.append(message)
                case Second():
                    counts, self._counts = self._counts, []
                    new, self._last = message.since(self._last), message
                    self._seconds(counts, message, new, self._began_at + message.elapsed_s)
                case Levelled():
                    self._note_levelled(message.number)
                case Done():
                    is_done = True
                case Failed():
                    why = message.why
        self._is_ready = False
        self._is_up.set()
        self._note_levelled(None)
        end_child(process)
        if self._process is process:
            self._process = None
        if not is_done and not self._is_ending:
            if why is not None:
                self._failed(why, CANNOT_START)
            else:
                self._failed(f"kabench's process died ({ending(process)})", COULD_NOT_MEASURE)

    def _note_levelled(self, number: int | None) -> None:
        while self._leaving and (number is None or self._leaving[0][0] <= number):
            self._leaving.popleft()[1]()

    def finish(self) -> None:
        """End the test. When this returns, all that was measured has been handed over."""
        if self.has_begun:
            self.has_begun = False
            self._end()

    def _end(self) -> None:
        self._is_ending = True
        if self._is_ready:
            self._tell(STOP)
        elif self._process is not None:
            process, self._process = self._process, None
            end_child(process)
        if self._listener is not None:
            self._listener.join(timeout=_END_TIMEOUT_S)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._end()
