"""`Dispatcher`: starts each request of the open model when it is due, whatever became of earlier ones.

It knows times, a clock and an alarm, but neither sockets nor answers. When an alarm goes off late, all that is due by
then is started at once, each with the time it was due; so lateness is measured and no request is lost.
"""

from __future__ import annotations

import itertools
import math
import operator
import random
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from kabench.load.plan.pacing import Ramp, constant_arrivals, poisson_arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.load.plan.plan import LoadPlan
    from kabench.load.plan.share import Share
    from kabench.system.alarm import Alarm

_BATCH = 64
"""The most requests started before the event loop gets its turn, so that answers are read even while many are due."""

_LEAST_SLEEP_S = 0.0001
"""Between two wake-ups. Without it, each request would cost one at 100 000 requests/s. It shows in the lag."""

_FAR_OFF_S = 3600.0
_ROUNDING = 1e-6
_LEAST_BEFORE_S = 1e-6
"""A request of the warm-up is due at least this long before its end: a difference that a clock can show."""


class Times(Protocol):
    """Times in order, and how many are left of them."""

    def __iter__(self) -> Iterator[float]:
        """Return an iterator over the times."""

    def rest(self) -> int:
        """Return how many times are left."""


class DueTimes:
    """The times at which requests of a worker are due, in seconds from the end of the warm-up; before it, below 0.

    The warm-up has the first rate that is not 0.
    """

    def __init__(self, plan: LoadPlan, share: Share) -> None:
        self._numbers: Iterator[int] | None = None
        if plan.arrivals == "constant":
            self._numbers = _numbers(plan.ramp, share, plan.ends_after_s, plan.total)
            self._times = constant_arrivals(plan.ramp, self._numbers)
        else:
            self._times = _at_random(plan, share, plan.ramp, plan.ends_after_s, "load")
            if plan.total is not None:
                self._times = itertools.islice(self._times, share.of(plan.total))
        if plan.warmup_s:
            self._times = itertools.chain(_warmup_times(plan, share), self._times)

    def __iter__(self) -> Iterator[float]:
        return self._times

    def rest(self) -> int:
        """Return how many times are left. Random ones are counted one by one."""
        return sum(1 for _ in self._times) if self._numbers is None else operator.length_hint(self._numbers)


def _warmup_times(plan: LoadPlan, share: Share) -> Iterator[float]:
    ramp = Ramp(next(level for level in (plan.rate, *(stage.level for stage in plan.stages)) if level))
    if plan.arrivals == "constant":
        times = constant_arrivals(ramp, _numbers(ramp, share, plan.warmup_s, None))
    else:
        times = _at_random(plan, share, ramp, plan.warmup_s, "warm-up")
    return (min(time_s - plan.warmup_s, -_LEAST_BEFORE_S) for time_s in times)


def _numbers(ramp: Ramp, share: Share, ends_after_s: float | None, total: int | None) -> Iterator[int]:
    """Return the numbers of a worker's requests. All workers together have as many as the area, or the total, says.

    The end is a number and not a time, so that no rounding of times adds a request.
    """
    whole = math.ceil(ramp.area_at(ends_after_s) - _ROUNDING) if ends_after_s is not None else total or 0
    return iter(range(share.index, whole, share.workers))


def _at_random(plan: LoadPlan, share: Share, ramp: Ramp, ends_after_s: float | None, what: str) -> Iterator[float]:
    times = poisson_arrivals(ramp, random.Random(f"{plan.seed}-{share.index}-{what}"), share.workers)
    return times if ends_after_s is None else itertools.takewhile(lambda time_s: time_s < ends_after_s, times)


class Dispatcher:
    """Calls `start(due_at, now)` for each of `times`.

    The clock and the alarm are arguments, so that tests can make time up. `make_alarm` gets what the alarm is to call.
    """

    def __init__(
        self,
        times: Times,
        start: Callable[[float, float], None],
        make_alarm: Callable[[Callable[[], None]], Alarm],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._given = times
        self._times = iter(times)
        self._start = start
        self._clock = clock
        self._alarm = make_alarm(self.wake)
        self._zero = 0.0
        self._next_at = inf
        self._is_ended = False
        self._has_more = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing more is to be started."""
        return self._next_at == inf

    def begin(self, zero: float) -> None:
        """Begin with the first time; times count from `zero`."""
        self._zero = zero
        self._next_at = zero + next(self._times, inf)
        self._set_alarm(self._clock())

    def _set_alarm(self, now: float) -> None:
        self._alarm.set(min(max(self._next_at, now + _LEAST_SLEEP_S), now + _FAR_OFF_S))

    def wake(self) -> None:
        """Start what is due."""
        now = self._clock()
        next_at, zero, times, start, clock = self._next_at, self._zero, self._times, self._start, self._clock
        left = _BATCH
        while next_at <= now and left:
            left -= 1
            start(next_at, now)
            next_at = zero + next(times, inf)
            now = clock()
        if self._is_ended:
            return
        self._next_at = next_at
        if next_at <= now:
            self._alarm.set(now)  # as soon as the event loop has had its turn
        else:
            self._set_alarm(now)

    def end(self) -> None:
        """Start nothing more, except what is due now."""
        self.wake()
        self._has_more = self._next_at < inf
        self.stop()

    def stop(self) -> None:
        """Start nothing more."""
        if not self._is_ended:
            self._is_ended = True
            self._alarm.close()
            self._next_at = inf

    def count_rest(self) -> int:
        """Return how many were left at the `end`; after the first call, 0."""
        rest = 1 + self._given.rest() if self._has_more else 0
        self._has_more = False
        return rest
