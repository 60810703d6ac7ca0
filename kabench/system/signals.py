"""The signals that tell a process to stop, and what a second one means.

Ctrl-C is SIGINT, service managers and CI runners send SIGTERM, and a terminal that goes away sends SIGHUP. Often two
come at once, because a terminal signals a whole group of processes, and a runner its child as well. So a signal within
half a second of the first belongs to it. A later one comes from a user who waits no longer.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SAME_WITHIN_S = 0.5
INTERRUPTED = 130
"""The exit code of a process that ends at once: a shell's own for SIGINT."""


def stop_signals() -> list[signal.Signals]:
    """Return SIGINT, SIGTERM, and SIGHUP unless it is ignored, as nohup has it."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        numbers.append(hang_up)
    return numbers


class StopRequest:
    """Decides what a signal means: the first calls `stop`, one that comes later than half a second after it `leave`."""

    def __init__(
        self, stop: Callable[[], None], leave: Callable[[], None], clock: Callable[[], float] = monotonic
    ) -> None:
        self._stop = stop
        self._leave = leave
        self._clock = clock
        self._came_at: float | None = None

    @property
    def came(self) -> bool:
        """Whether a signal has come."""
        return self._came_at is not None

    def signalled(self) -> None:
        """Do what a signal asks for that has just come."""
        now = self._clock()
        if self._came_at is None:
            self._came_at = now
            self._stop()
        elif now - self._came_at > SAME_WITHIN_S:
            self._leave()


def leave_at_once() -> None:
    """End the process. Its children end with their standard input."""
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def stopping(stop: Callable[[], None], leave: Callable[[], None] = leave_at_once) -> Iterator[None]:
    """Have signals call `stop`, and `leave` if they are insistent, while the context lasts.

    If one has come, that goes on to the end of the process: a signal that belongs to it may still be on its way.
    """
    request = StopRequest(stop, leave)

    def handle(_: int, __: FrameType | None) -> None:
        request.signalled()

    before = {number: signal.signal(number, handle) for number in stop_signals()}
    try:
        yield
    finally:
        if request.came:
            atexit.register(_ignore, list(before))  # Python's own end takes a moment, without our handlers
        else:
            for number, handler in before.items():
                signal.signal(number, handler)


def _ignore(numbers: list[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
