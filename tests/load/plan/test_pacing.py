"""When requests are due: arithmetic on elapsed time, so all of it is exact, or statistics of seeded randomness."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean, pvariance
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kabench.load.plan.pacing import Ramp, Stage, constant_arrivals, poisson_arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator

levels = st.one_of(st.just(0.0), st.floats(0.01, 1e5))
stages = st.builds(Stage, duration_s=st.floats(0.01, 1e4), level=levels)
ramps = st.builds(Ramp, levels, st.lists(stages, max_size=5))

TWO_STAGES = Ramp(100, [Stage(10, 500), Stage(30, 2000)])


def before(end_s: float, times: Iterator[float]) -> list[float]:
    return list(itertools.takewhile(lambda time_s: time_s < end_s, times))


# -- the level and the area under it


@pytest.mark.parametrize(
    ("elapsed_s", "level", "area"),
    [(0, 100, 0), (5, 300, 1000), (10, 500, 3000), (25, 1250, 16_125), (40, 2000, 40_500), (100, 2000, 160_500)],
)
def test_a_level_leads_linearly_from_stage_to_stage_and_stays_at_the_last(
    elapsed_s: float, level: float, area: float
) -> None:
    assert TWO_STAGES.level_at(elapsed_s) == level
    assert TWO_STAGES.area_at(elapsed_s) == area
    assert TWO_STAGES.duration_s == 40


def test_without_stages_the_level_is_flat_and_lasts_no_time() -> None:
    ramp = Ramp(2000)
    assert ramp.duration_s == 0
    assert [ramp.level_at(elapsed_s) for elapsed_s in (0, 1, 1e6)] == [2000, 2000, 2000]
    assert [ramp.area_at(elapsed_s) for elapsed_s in (0, 1, 1e6)] == [0, 2000, 2e9]


@given(ramps, st.floats(0, 1), st.floats(0, 1))
def test_the_area_is_the_integral_of_the_level(ramp: Ramp, begin: float, length: float) -> None:
    begin_s = begin * (ramp.duration_s + 1)
    end_s = begin_s + length * (ramp.duration_s + 1)
    corners = [at for at in ramp._starts if begin_s < at < end_s]
    edges = [begin_s, *corners, end_s]
    trapezoids = sum(
        (right - left) * (ramp.level_at(left) + ramp.level_at(right)) / 2 for left, right in itertools.pairwise(edges)
    )
    assert ramp.area_at(end_s) - ramp.area_at(begin_s) == pytest.approx(trapezoids, rel=1e-6, abs=1e-6 * (1 + end_s))


@given(ramps, st.floats(0, 1.2))
def test_time_of_is_the_inverse_of_area_at(ramp: Ramp, part: float) -> None:
    area = part * (ramp.area_at(ramp.duration_s) + 1)
    at_s = ramp.time_of(area)
    if math.isinf(at_s):
        assert area >= ramp.area_at(ramp.duration_s + 1e9) * (1 - 1e-12)
    else:
        assert at_s >= 0
        assert ramp.area_at(at_s) == pytest.approx(area, rel=1e-9, abs=1e-9)


@given(ramps, st.lists(st.floats(0, 1.2), min_size=2, max_size=20))
def test_more_is_never_due_earlier(ramp: Ramp, parts: list[float]) -> None:
    whole = ramp.area_at(ramp.duration_s) + 1
    times = [ramp.time_of(part * whole) for part in sorted(parts)]
    for earlier, later in itertools.pairwise(times):
        assert later == earlier == math.inf or later >= earlier - 1e-9 * (1 + earlier)


def test_the_smallest_number_there_is_is_due_at_the_beginning() -> None:
    assert Ramp(0, [Stage(4, 0.5)]).time_of(5e-324) == 0.0


def test_a_ramp_that_is_flat_at_zero_never_gets_anywhere() -> None:
    for ramp in (Ramp(0), Ramp(0, [Stage(10, 0)])):
        assert ramp.area_at(1e6) == 0
        assert ramp.time_of(1) == math.inf
        assert ramp.time_of(1e-9) == math.inf


def test_what_a_ramp_to_zero_does_not_reach_is_never_due() -> None:
    ramp = Ramp(100, [Stage(10, 0)])
    assert ramp.time_of(499) == pytest.approx(10 - math.sqrt(0.2))
    assert ramp.time_of(500) == 10
    assert ramp.time_of(501) == math.inf
    assert len(before(10, constant_arrivals(ramp, itertools.count()))) == 500


def test_a_pause_in_the_middle_is_a_pause() -> None:
    ramp = Ramp(10, [Stage(10, 0), Stage(5, 0), Stage(10, 10)])
    due = before(25, constant_arrivals(ramp, itertools.count()))
    assert len(due) == 100
    assert not [at for at in due if 10 < at < 15]
    assert sum(at <= 10 for at in due) in (50, 51)  # the one that is due at the end of the first stage, or after it


def test_a_ramp_from_zero_begins_slowly() -> None:
    ramp = Ramp(0, [Stage(10, 100)])
    assert before(10, constant_arrivals(ramp, itertools.count())) == pytest.approx(
        [math.sqrt(number / 5) for number in range(500)]
    )


# -- arrivals at equal distances


@pytest.mark.parametrize("rate", [1, 3, 120 / 60, 2000, 0.25])
def test_a_constant_rate_is_due_at_its_multiples(rate: float) -> None:
    times = list(itertools.islice(constant_arrivals(Ramp(rate), itertools.count()), 5000))
    assert times == [number / rate for number in range(5000)]


@pytest.mark.parametrize(("rate", "seconds", "number"), [(2000, 10, 20_000), (2, 60, 120), (7, 3, 21), (0.5, 10, 5)])
def test_a_rate_over_a_time_is_that_many_requests(rate: float, seconds: float, number: int) -> None:
    assert len(before(seconds, constant_arrivals(Ramp(rate), itertools.count()))) == number


@given(ramps, st.integers(1, 17), st.integers(1, 300))
def test_workers_together_are_due_exactly_when_one_alone_would_be(ramp: Ramp, workers: int, number: int) -> None:
    alone = list(itertools.islice(constant_arrivals(ramp, itertools.count()), number))
    shared = [
        list(itertools.islice(constant_arrivals(ramp, itertools.count(index, workers)), number))
        for index in range(workers)
    ]
    by_turns = [shared[place % workers][place // workers] for place in range(number)]
    assert by_turns == alone


small_stages = st.lists(st.builds(Stage, duration_s=st.floats(0.01, 5), level=st.floats(0, 50)), min_size=1, max_size=4)


@given(st.floats(0, 50), small_stages, st.integers(1, 5))
def test_as_many_are_due_as_there_is_area(start: float, given: list[Stage], workers: int) -> None:
    ramp = Ramp(start, given)
    whole = ramp.area_at(ramp.duration_s)
    assume(abs(whole - round(whole)) > 1e-6)
    due = [
        len(before(ramp.duration_s, constant_arrivals(ramp, itertools.count(index, workers))))
        for index in range(workers)
    ]
    assert sum(due) == math.ceil(whole)


# -- arrivals at random

SEEDS = 400


def counts_of_seeds(ramp: Ramp, begin_s: float, end_s: float, workers: int = 1) -> list[int]:
    return [
        sum(
            at >= begin_s
            for index in range(workers)
            for at in before(end_s, poisson_arrivals(ramp, random.Random(f"{seed}-{index}"), workers))
        )
        for seed in range(SEEDS)
    ]


def are_poisson(counts: list[int], mean: float) -> None:
    """Mean and variance are those of a Poisson distribution, within five standard errors of each."""
    assert fmean(counts) == pytest.approx(mean, abs=5 * math.sqrt(mean / len(counts)))
    standard_error = mean * math.sqrt((2 + 1 / mean) / len(counts))
    assert pvariance(counts) == pytest.approx(mean, abs=5 * standard_error)


@pytest.mark.parametrize("workers", [1, 3])
def test_counts_of_random_arrivals_are_poisson_however_many_workers_make_them(workers: int) -> None:
    are_poisson(counts_of_seeds(Ramp(50), 0, 4, workers), 200)


def test_random_arrivals_follow_a_ramp() -> None:
    ramp = Ramp(0, [Stage(4, 100), Stage(2, 0)])
    for begin_s, end_s, mean in ((0, 2, 50), (2, 4, 150), (4, 6, 100)):
        are_poisson(counts_of_seeds(ramp, begin_s, end_s), mean)


@pytest.mark.parametrize("workers", [1, 4])
def test_gaps_between_random_arrivals_are_exponential(workers: int) -> None:
    rate, number = 250.0, 20_000
    own = poisson_arrivals(Ramp(rate), random.Random(7), workers)
    times = [0.0, *itertools.islice(own, number)]
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    farthest = max(
        abs((place + 0.5) / number - (1 - math.exp(-gap * rate / workers))) for place, gap in enumerate(gaps)
    )
    assert farthest < 1.95 / math.sqrt(number)  # Kolmogorov and Smirnov's test at 0.1 %


@pytest.mark.parametrize("workers", [1, 3])
def test_the_gaps_between_random_arrivals_begin_with_the_run(workers: int) -> None:
    source = random.Random(7)
    expected = itertools.accumulate(source.expovariate(1.0) * workers / 5 for _ in range(20))
    due = poisson_arrivals(Ramp(5), random.Random(7), workers)
    assert list(itertools.islice(due, 20)) == pytest.approx(list(expected))


def test_one_worker_alone_is_due_as_often_as_the_rate_says() -> None:
    alone, one = poisson_arrivals(Ramp(5), random.Random(7)), poisson_arrivals(Ramp(5), random.Random(7), 1)
    assert list(itertools.islice(alone, 20)) == list(itertools.islice(one, 20))


def test_random_arrivals_come_from_the_source_they_are_given() -> None:
    first, again, other = (
        list(itertools.islice(poisson_arrivals(Ramp(5), random.Random(seed)), 50)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first == sorted(first)
