"""`DelayQueue`: calls back after exact delays, and never early."""

from __future__ import annotations

import heapq
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Generic, TypeVar

from kabench.system.alarm import make_alarm

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_FAR_OFF_S = 3600.0

ItemT = TypeVar("ItemT")


class DelayQueue(Generic[ItemT]):
    """Calls `due(item)` for each item at its time, in the order of their times."""

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[ItemT], None]) -> None:
        self._due = due
        self._heap: list[tuple[float, int, ItemT]] = []
        self._count = 0
        self._alarm_at = inf
        self._alarm = make_alarm(loop, self._wake)

    def push(self, at: float, item: ItemT) -> None:
        """Set `item` to come due at `at`, a time of `perf_counter`."""
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
