"""`DelayQueue`: calls back after delays that are what they say.

Event loops count timers in steps of 1 ms, which on a delay of 5 ms is an error of up to a fifth. Linux's timerfd
(timerfd_create(2)) has nanoseconds, so there one timerfd a queue, set to the earliest deadline, wakes the loop;
elsewhere the loop's own timers do, with their steps. Nothing is ever called early.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import sys
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

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


class _Alarm(Protocol):
    """Wakes the loop at a time of `perf_counter`."""

    def set(self, at: float) -> None: ...

    def close(self) -> None: ...


class _TimerFdAlarm:
    """An alarm of a timerfd, through `os` from Python 3.13 and through libc before.

    `perf_counter` is CLOCK_MONOTONIC on Linux, so its times are the timer's. Setting the timer anew also clears that it
    has gone off, so there is nothing to read from it.
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


_FAR_OFF_S = 3600.0

ItemT = TypeVar("ItemT")


class DelayQueue(Generic[ItemT]):
    """Items that come due: `due(item)` is called for each at its time, in order of time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[ItemT], None]) -> None:
        self._due = due
        self._heap: list[tuple[float, int, ItemT]] = []
        self._count = 0
        self._alarm_at = inf
        self._alarm: _Alarm
        if sys.platform == "linux":
            try:
                self._alarm = _TimerFdAlarm(loop, self._wake)
            except (OSError, AttributeError):  # a kernel or libc without it
                self._alarm = _LoopAlarm(loop, self._wake)
        else:
            self._alarm = _LoopAlarm(loop, self._wake)

    def push(self, at: float, item: ItemT) -> None:
        """Have `item` come due at a time of `perf_counter`."""
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, item))
        if at < self._alarm_at:
            self._alarm_at = at
            self._alarm.set(at)

    def close(self) -> None:
        """Forget everything."""
        self._heap.clear()
        self._alarm.close()

    def _wake(self) -> None:
        heap = self._heap
        now = perf_counter()
        while heap and heap[0][0] <= now:
            self._due(heapq.heappop(heap)[2])
        if heap:
            self._alarm_at = heap[0][0]
            self._alarm.set(self._alarm_at)
        else:
            self._alarm_at = inf
            self._alarm.set(now + _FAR_OFF_S)
