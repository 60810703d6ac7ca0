"""The open model with a made-up clock: what is started when, how late, and that nothing due is ever forgotten."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kabench.load import LoadPlan
from kabench.load.figures.messages import SocketCounts
from kabench.load.figures.recorder import Recorder
from kabench.load.plan.pacing import Stage
from kabench.load.plan.share import Share
from kabench.load.schedules.dispatcher import Dispatcher, DueTimes
from kabench.load.schedules.open import Arrivals
from kabench.load.schedules.schedule import ScheduleSetup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ZERO = 1000.0
BATCH = 64
ROUNDING_S = 1e-9


class GivenTimes:
    """Times that a test gives."""

    def __init__(self, times: Iterable[float]) -> None:
        self._times = iter(times)

    def __iter__(self) -> Iterator[float]:
        return self._times

    def rest(self) -> int:
        return sum(1 for _ in self._times)


class MadeUpTime:
    """A clock that goes when it is told to, and an alarm that goes off by it."""

    def __init__(self) -> None:
        self.now = ZERO
        self.alarm_at = inf
        self.alarms: list[float] = []
        self.is_closed = False
        self._wake: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    def make_alarm(self, wake: Callable[[], None]) -> MadeUpTime:
        self._wake = wake
        return self

    def set(self, at: float) -> None:
        assert not self.is_closed, "an alarm that is closed cannot be set"
        self.alarm_at = at
        self.alarms.append(at)

    def close(self) -> None:
        assert not self.is_closed, "an alarm is closed once"
        self.is_closed = True
        self.alarm_at = inf

    def go_off(self) -> None:
        """Let the time come that the alarm was set to, if it is not over, and wake."""
        self.now = max(self.now, self.alarm_at)
        self.alarm_at = inf
        self._wake()

    def go_on_until(self, end: float) -> None:
        while self.alarm_at <= end:
            self.go_off()
        self.now = max(self.now, end)


@dataclass
class Started:
    """What a dispatcher has started: when each was due, and when it was started. `costs_s` is what each takes."""

    time: MadeUpTime
    costs_s: float = 0.0
    due: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def __call__(self, due_at: float, now: float) -> None:
        self.due.append(due_at - ZERO)
        self.late.append(now - due_at)
        self.time.now += self.costs_s


def dispatching(times: Iterable[float], costs_s: float = 0.0) -> tuple[MadeUpTime, Started, Dispatcher]:
    time = MadeUpTime()
    started = Started(time, costs_s)
    return time, started, Dispatcher(GivenTimes(times), started, time.make_alarm, time.clock)


# -- starting


def test_each_is_started_at_its_time() -> None:
    times = [0.0, 0.5, 0.75, 2.0]
    time, started, dispatcher = dispatching(times)
    dispatcher.begin(ZERO)
    assert not started.due  # not before the alarm goes off, even what is due at once
    for number, at in enumerate(times, 1):
        time.go_on_until(ZERO + at + 0.0001)
        assert started.due == times[:number]
    assert max(started.late) <= 0.0001 + ROUNDING_S
    assert dispatcher.is_idle


@given(st.lists(st.floats(0, 100), max_size=300), st.floats(0, 0.1))
def test_none_is_started_early_and_none_is_left_out(given: list[float], costs_s: float) -> None:
    times = sorted(given)
    time, started, dispatcher = dispatching(times, costs_s)
    dispatcher.begin(ZERO)
    time.go_on_until(ZERO + 200)
    assert started.due == pytest.approx(times, abs=ROUNDING_S)
    assert min(started.late, default=0) >= 0
    assert dispatcher.is_idle


def test_the_alarm_is_set_to_the_next_and_no_more_often_than_every_tenth_of_a_millisecond() -> None:
    time, started, dispatcher = dispatching(number / 1_000_000 for number in range(100_000))
    dispatcher.begin(ZERO)
    time.go_on_until(ZERO + 0.2)
    assert len(started.due) == 100_000
    to_wait = [at for at in time.alarms if at < inf]
    assert len(set(to_wait)) <= 1002
    time, started, dispatcher = dispatching([0.25, 7.5])
    dispatcher.begin(ZERO)
    assert time.alarm_at == ZERO + 0.25
    time.go_on_until(ZERO + 1)
    assert time.alarm_at == ZERO + 7.5


def test_a_clock_that_jumps_makes_all_of_them_late_by_what_they_are() -> None:
    time, started, dispatcher = dispatching(number / 10 for number in range(100))
    dispatcher.begin(ZERO)
    time.go_on_until(ZERO + 2.05)
    assert len(started.due) == 21
    time.now = ZERO + 5.0  # the process was stopped, or the event loop was busy
    time.go_off()
    assert len(started.due) == 51
    assert started.late[21:] == pytest.approx([5.0 - number / 10 for number in range(21, 51)])
    time.go_on_until(ZERO + 10.0)
    assert len(started.due) == 100
    assert max(started.late[51:]) <= 0.0001 + ROUNDING_S


def test_others_get_their_turn_after_a_batch() -> None:
    time, started, dispatcher = dispatching([0.0] * 200)
    dispatcher.begin(ZERO)
    counts = []
    while not dispatcher.is_idle:
        counts.append(-len(started.due))
        time.go_off()
        counts[-1] += len(started.due)
        assert time.alarm_at == time.now or dispatcher.is_idle  # again at once, but through the loop
    assert counts == [BATCH, BATCH, BATCH, 200 - 3 * BATCH]


def test_what_becomes_due_while_others_are_started_is_started_with_them() -> None:
    time, started, dispatcher = dispatching((number / 100 for number in range(10)), costs_s=0.02)
    dispatcher.begin(ZERO)
    time.go_off()
    assert len(started.due) == 10
    assert started.late == pytest.approx([number * 0.01 + started.late[0] for number in range(10)])


def test_waiting_for_long_or_forever_sets_an_alarm_that_can_be_set() -> None:
    time, started, dispatcher = dispatching([0.0, 10_000.0])
    dispatcher.begin(ZERO)
    time.go_on_until(ZERO + 20_000)
    assert started.due == [0.0, 10_000.0]
    assert all(at < inf for at in time.alarms)


# -- ending


def test_the_end_counts_what_was_due_and_was_not_started() -> None:
    time, started, dispatcher = dispatching(number / 100 for number in range(300))
    dispatcher.begin(ZERO)
    time.go_on_until(ZERO + 0.5)
    begun = len(started.due)
    time.now = ZERO + 3.0  # nothing could be started for as long as this
    dispatcher.end()
    assert len(started.due) == begun + BATCH  # what is due now is still started, as far as one batch goes
    assert dispatcher.count_rest() == 300 - begun - BATCH
    assert dispatcher.count_rest() == 0
    assert time.is_closed
    assert dispatcher.is_idle


@given(st.lists(st.floats(0, 10), max_size=300), st.lists(st.floats(0, 12), max_size=10))
def test_started_and_not_started_add_up_whenever_the_loop_comes_to_it(given: list[float], wakes: list[float]) -> None:
    time, started, dispatcher = dispatching(sorted(given))
    dispatcher.begin(ZERO)
    for at in sorted(wakes):
        time.now = max(time.now, ZERO + at)
        if time.alarm_at <= time.now:
            time.go_off()
    dispatcher.end()
    assert len(started.due) + dispatcher.count_rest() == len(given)


def test_after_stopping_nothing_is_started() -> None:
    time, started, dispatcher = dispatching(number / 10 for number in range(100))
    dispatcher.begin(ZERO)
    time.go_on_until(ZERO + 1.05)
    dispatcher.stop()
    begun = len(started.due)
    time.now = ZERO + 5
    dispatcher.wake()
    assert len(started.due) == begun
    dispatcher.stop()
    dispatcher.end()
    assert dispatcher.count_rest() == 0


def test_one_that_is_started_may_stop_the_dispatcher() -> None:
    time = MadeUpTime()
    dispatcher = Dispatcher(GivenTimes([0.0, 0.0, 5.0]), lambda *_: dispatcher.stop(), time.make_alarm, time.clock)
    dispatcher.begin(ZERO)
    time.go_off()
    assert dispatcher.is_idle
    assert time.alarm_at == inf


def test_to_stop_early_takes_no_longer_the_more_is_still_to_come() -> None:
    """Ctrl-C in the first minute of a day at 5000/s must not count what the rest of the day would have brought."""
    drawn = itertools.count()

    def a_day() -> Iterator[float]:
        while (number := next(drawn)) < 432_000_000:
            if number > 100_000:
                raise AssertionError("it goes through all that was to come")
            yield number / 5000

    time, started, dispatcher = dispatching(a_day())
    dispatcher.begin(ZERO)
    time.go_on_until(ZERO + 1)
    dispatcher.stop()
    assert len(started.due) == pytest.approx(5000, abs=2)


# -- what is due


def times_of(plan: LoadPlan, share: Share | None = None) -> list[float]:
    return list(DueTimes(plan, share or Share()))


def test_a_rate_has_ten_seconds_unless_told_otherwise() -> None:
    assert times_of(LoadPlan(rate=20)) == pytest.approx([number / 20 for number in range(200)])


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ({"rate": 100, "duration_s": 3.0}, 300),
        ({"rate": 100, "total": 37}, 37),
        ({"rate": 0, "stages": (Stage(10, 50), Stage(10, 50))}, 250 + 500),
        ({"rate": 100, "stages": (Stage(10, 0),)}, 500),
        ({"rate": 2 / 60, "duration_s": 60.0}, 2),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_stop_rules_end_it_whatever_the_workers(given: dict[str, Any], number: int, workers: int) -> None:
    plan = LoadPlan(workers=workers, **given)
    together = sorted(time for index in range(workers) for time in times_of(plan, Share(index, workers)))
    assert len(together) == number
    assert together == times_of(LoadPlan(**given))


@pytest.mark.parametrize("workers", [1, 4])
def test_random_arrivals_stop_at_an_exact_total(workers: int) -> None:
    plan = LoadPlan(rate=1000, arrivals="poisson", total=1234, workers=workers)
    assert sum(len(times_of(plan, Share(index, workers))) for index in range(workers)) == 1234


def test_the_seed_decides_what_is_random_and_workers_differ() -> None:
    def times(seed: int, index: int) -> list[float]:
        return times_of(LoadPlan(rate=50, arrivals="poisson", seed=seed, workers=2), Share(index, 2))

    assert times(1, 0) == times(1, 0)
    assert times(1, 0) != times(2, 0)
    assert times(1, 0) != times(1, 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_warm_up_comes_before_at_the_first_rate_and_changes_nothing_after(workers: int) -> None:
    given: dict[str, Any] = {"rate": 40, "total": 70, "workers": workers}
    warm = [time for index in range(workers) for time in times_of(LoadPlan(warmup_s=2, **given), Share(index, workers))]
    cold = [time for index in range(workers) for time in times_of(LoadPlan(**given), Share(index, workers))]
    early = sorted(time for time in warm if time < 0)
    assert early == pytest.approx([number / 40 - 2 for number in range(80)])
    assert sorted(time for time in warm if time >= 0) == sorted(cold)
    assert len(cold) == 70


def test_a_warm_up_of_a_ramp_from_zero_has_the_first_rate_that_is_not() -> None:
    plan = LoadPlan(rate=0, stages=(Stage(1, 0), Stage(1, 30)), warmup_s=1)
    assert sum(time < 0 for time in times_of(plan)) == 30


def test_a_random_warm_up_is_at_random_and_does_not_repeat_itself() -> None:
    times = times_of(LoadPlan(rate=500, arrivals="poisson", duration_s=2, warmup_s=2))
    early = [time + 2 for time in times if time < 0]
    late = [time for time in times if time >= 0]
    assert 850 < len(early) < 1150  # 1000, and five standard deviations
    assert early != late[: len(early)]


@pytest.mark.parametrize("a_minute", [23, 31, 62, 66, 100, 120])
def test_a_rate_a_minute_is_that_many_in_a_minute(a_minute: int) -> None:
    """In binary, 23 / (23 / 60) is not 60: no rounding may put a request more into the warm-up, or the run."""
    times = times_of(LoadPlan(rate=a_minute / 60, duration_s=60.0, warmup_s=60.0))
    assert sum(100_000.0 + time < 100_000.0 for time in times) == a_minute  # on a clock that shows 10^5 s
    assert sum(100_000.0 + time >= 100_000.0 for time in times) == a_minute


# -- started or not started


class ScriptedArrivals(Arrivals):
    """Arrivals whose answers come after given times, on a made-up clock."""

    def __init__(self, plan: LoadPlan, answers_s: Iterable[float]) -> None:
        super().__init__(ScheduleSetup(plan, Share(), Recorder(), self._note))
        self._dispatcher.stop()
        self.time = MadeUpTime()
        self._dispatcher = Dispatcher(DueTimes(plan, Share()), self._start, self.time.make_alarm, self.time.clock)
        self._answers_s = iter(answers_s)
        self.answers_at: list[float] = []
        self.started_at: list[float] = []
        self.most_in_flight = 0
        self.over_at: list[float] = []

    def _note(self, now: float) -> None:
        self.over_at.append(now)

    def _send(self, due_at: float, now: float, recorder: Recorder) -> None:
        self.started_at.append(now)
        recorder.record_lag(now - due_at)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        heapq.heappush(self.answers_at, now + next(self._answers_s))

    def go_on_until(self, end: float) -> None:
        while min([self.time.alarm_at, *self.answers_at[:1]]) <= end:
            if self.answers_at and self.answers_at[0] <= self.time.alarm_at:
                self.time.now = max(self.time.now, heapq.heappop(self.answers_at))
                self._request_ended(self.time.now)
            else:
                self.time.go_off()
        self.time.now = max(self.time.now, end)

    def _give_up(self, kind: str, now: float) -> None:
        self.answers_at.clear()

    def socket_counts(self) -> SocketCounts:
        return SocketCounts()

    async def close(self) -> None:
        pass


def carried_out(plan: LoadPlan, answers_s: Iterable[float]) -> ScriptedArrivals:
    """Arrivals of a plan, to the end of the last answer."""

    async def carry_out() -> ScriptedArrivals:
        arrivals = ScriptedArrivals(plan, answers_s)
        arrivals.time.now = ZERO - plan.warmup_s
        arrivals.begin(ZERO)
        if plan.ends_after_s is not None:
            arrivals.go_on_until(ZERO + plan.ends_after_s)
            arrivals.end(arrivals.time.now)
        arrivals.go_on_until(ZERO + 10**6)
        return arrivals

    return asyncio.run(carry_out())


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1, 400),
    st.integers(1, 20),
    st.lists(st.floats(0, 5), min_size=1, max_size=50),
    st.sampled_from(["constant", "poisson"]),
    st.sampled_from([{"duration_s": 1.0}, {"total": 123}, {"stages": (Stage(0.5, 300), Stage(0.5, 0))}]),
)
def test_all_that_was_due_was_started_or_counted_as_not_started(
    rate: float, cap: int, answers_s: list[float], arrivals: Any, ends: dict[str, Any]
) -> None:
    plan = LoadPlan(rate=rate, max_in_flight=cap, arrivals=arrivals, **ends)
    due = len(times_of(plan))
    done = carried_out(plan, itertools.cycle(answers_s))
    assert len(done.started_at) + done.recorder.not_started == due
    assert done.most_in_flight <= cap
    assert done.in_flight == 0
    assert len(done.over_at) == 1


def test_requests_start_whatever_became_of_those_before() -> None:
    plan = LoadPlan(rate=10, duration_s=2)
    quick, slow = (carried_out(plan, itertools.repeat(answer_s)) for answer_s in (0.001, 60))
    assert slow.started_at == quick.started_at == pytest.approx([ZERO + number / 10 for number in range(20)], abs=0.001)
    assert slow.recorder.not_started == 0


def test_over_the_cap_nothing_is_started_until_an_answer_comes() -> None:
    done = carried_out(LoadPlan(rate=10, duration_s=2, max_in_flight=1), itertools.repeat(0.45))
    assert done.started_at == pytest.approx([ZERO + at for at in (0, 0.5, 1.0, 1.5)], abs=0.001)
    assert done.recorder.not_started == 16


def test_what_is_not_started_in_the_warm_up_is_not_counted() -> None:
    plan = LoadPlan(rate=10, duration_s=1, warmup_s=1, max_in_flight=1)
    done = carried_out(plan, itertools.repeat(0.95))
    assert (done.recorder.not_started, done.warmup_recorder.not_started) == (9, 9)


def test_a_total_is_over_when_its_last_answer_has_come() -> None:
    done = carried_out(LoadPlan(rate=10, total=3), iter([5.0, 1.0, 0.5]))
    assert done.over_at == pytest.approx([ZERO + 5.0], abs=0.001)
