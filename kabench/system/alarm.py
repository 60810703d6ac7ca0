"""An alarm that wakes an event loop at an exact time.

Event loops count timers in steps of 1 ms, which on a delay of 5 ms is an error of up to a fifth. Linux's timerfd
(timerfd_create(2)) has nanoseconds, so there a timerfd wakes the loop; elsewhere the loop's own timers do, with their
steps. No alarm goes off early.
"""

from __future__ import annotations

import ctypes
import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_TIMER_FLAG_ABSOLUTE = 1
_CLOCK_MONOTONIC = 1
_CLOSE_ON_EXEC_NON_BLOCKING = 0o2000000 | 0o4000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("it_interval", _TimeSpec), ("it_value", _TimeSpec))


class Alarm(Protocol):
    """Calls back at or after the time of `perf_counter` that it was last set to.

    The callback must set it again before it returns; until then, it may keep going off.
    """

    def set(self, at: float) -> None:
        """Set it to go off at `at`, and not before."""

    def close(self) -> None:
        """Release it; it does not go off any more."""


class _TimerFdAlarm:
    """An alarm of a timerfd, through `os` from Python 3.13 and through libc before.

    `perf_counter` is CLOCK_MONOTONIC on Linux, so its times are the timer's. Setting the timer again also clears that
    it has gone off, so there is nothing to read from it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        if sys.version_info >= (3, 13):
            self._fd = os.timerfd_create(_CLOCK_MONOTONIC, flags=os.TFD_CLOEXEC | os.TFD_NONBLOCK)
            fd = self._fd

            def set_time(at: float) -> None:
                os.timerfd_settime(fd, flags=os.TFD_TIMER_ABSTIME, initial=at)

        else:
            libc = ctypes.CDLL(None, use_errno=True)
            self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, _CLOSE_ON_EXEC_NON_BLOCKING)
            if self._fd < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create")
            settime = libc.timerfd_settime
            settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
            fd = self._fd
            spec = _TimerSpec()
            address = ctypes.addressof(spec)
            self._spec = spec

            def set_time(at: float) -> None:
                seconds = int(at)
                spec.it_value.tv_sec = seconds
                spec.it_value.tv_nsec = int((at - seconds) * 1e9)
                settime(fd, _TIMER_FLAG_ABSOLUTE, address, None)

        self.set = set_time
        loop.add_reader(self._fd, wake)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class _LoopAlarm:
    """An alarm of the event loop's own timers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        self.close()
        self._handle = self._loop.call_later(max(0.0, at - perf_counter()), self._wake)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def make_alarm(loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> Alarm:
    """Return the most exact alarm that this system has."""
    if sys.platform == "linux":
        try:
            return _TimerFdAlarm(loop, wake)
        except (OSError, AttributeError):  # a kernel or libc without timerfd
            pass
    return _LoopAlarm(loop, wake)
