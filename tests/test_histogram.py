from __future__ import annotations

import math
import random
import re
import statistics

import pytest

from kabench.histogram import (
    BUCKET_NAMES,
    Distribution,
    LatencyStats,
    decoded_cells,
    percentile_distribution,
    percentile_of,
)


def distribution(values_us: list[int]) -> Distribution:
    made = Distribution()
    made.add((value, 1) for value in values_us)
    return made


def test_nothing_recorded_is_nothing_known() -> None:
    assert Distribution().stats() == LatencyStats()


def test_figures_are_right_within_three_digits_and_sums_and_extremes_exactly() -> None:
    values = [int(random.Random(7).lognormvariate(9, 1)) for _ in range(20_000)]
    stats = distribution(values).stats()
    assert stats.mean == pytest.approx(statistics.fmean(values) / 1e6, abs=1e-9)
    assert stats.stdev == pytest.approx(statistics.pstdev(values) / 1e6, abs=1e-8)
    assert (stats.min, stats.max) == (min(values) / 1e6, max(values) / 1e6)
    ordered = sorted(values)
    for name, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("p99_9", 99.9)):
        true = ordered[math.ceil(len(ordered) * percent / 100) - 1] / 1e6
        assert getattr(stats, name) == pytest.approx(true, rel=0.002)


@pytest.mark.parametrize(
    ("values_us", "percent", "expected_us"),
    [
        ([1, 2, 3], 50, 2),  # the rank is 1.5: the second is the first value that half of all do not exceed
        ([1, 2, 3, 4], 50, 2),
        ([1, 2, 3, 4], 50.1, 3),
        ([1, 2, 3, 4], 75, 3),
        ([1, 2, 3, 4], 99.99, 4),
        ([1, 2, 3, 4], 100, 4),
        ([1, 2, 3, 4], 0, 1),
        (list(range(1, 1001)), 99.9, 999),  # 1000 * 99.9 / 100 is a little more than 999 in floating point
        ([1], 50, 1),
    ],
)
def test_a_percentile_is_the_value_of_the_nearest_rank(values_us: list[int], percent: float, expected_us: int) -> None:
    assert distribution(values_us).percentile_s(percent) == expected_us / 1e6


def test_all_percentiles_of_a_distribution_are_those_of_their_nearest_ranks() -> None:
    stats = distribution(list(range(1, 2001))).stats()
    figures = (stats.p50, stats.p75, stats.p90, stats.p95, stats.p99, stats.p99_9, stats.p99_99)
    assert figures == (0.001, 0.0015, 0.0018, 0.0019, 0.00198, 0.001998, 0.002)


@pytest.mark.parametrize(("percent", "expected"), [(50, 500), (99, 990), (99.9, 999), (100, 1000), (0, 1)])
def test_a_percentile_of_counts_is_the_value_of_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile_of(dict.fromkeys(range(1, 1001), 1), percent) == expected


def test_no_percentile_is_above_the_maximum() -> None:
    stats = distribution([10_001]).stats()
    assert stats.p99_99 == stats.max == 0.010001


@pytest.mark.parametrize(
    ("value_us", "name"),
    [
        (0, "<10ms"),
        (9_999, "<10ms"),
        (10_000, "<15ms"),
        (49_999, "<50ms"),
        (50_000, "<100ms"),
        (199_999, "<200ms"),
        (200_000, ">=200ms"),
        (10**10, ">=200ms"),
    ],
)
def test_the_ten_buckets_are_exact_at_their_limits(value_us: int, name: str) -> None:
    buckets = distribution([value_us]).buckets()
    assert tuple(buckets) == BUCKET_NAMES
    assert [bucket for bucket, count in buckets.items() if count] == [name]


def test_adding_in_parts_is_adding_at_once() -> None:
    values = [random.Random(3).randrange(1, 5_000_000) for _ in range(60_000)]
    parts = Distribution()
    for at in range(0, len(values), 7_000):
        parts.add((value, 1) for value in values[at : at + 7_000])
    whole = distribution(values)
    assert parts.encoded() == whole.encoded()
    assert parts.stats() == whole.stats()


@pytest.mark.parametrize("values", [[1_000_000, 3_000_000], [0, 0], [0, 3_600_000_000]])
def test_adding_an_encoded_histogram_and_its_figures_is_adding_its_values(values: list[int]) -> None:
    part = distribution(values)
    whole = Distribution()
    for _ in range(2):
        whole.add_encoded(part.encoded(), part.stats())
    assert whole.stats() == distribution(values * 2).stats()
    assert (whole.count, whole.sum_us) == (2 * len(values), 2 * sum(values))
    assert list(decoded_cells(whole.encoded())) == list(decoded_cells(distribution(values * 2).encoded()))


def test_adding_an_empty_histogram_changes_nothing() -> None:
    whole = distribution([1000, 3000])
    whole.add_encoded(Distribution().encoded(), LatencyStats())
    assert whole.stats() == distribution([1000, 3000]).stats()


def test_the_text_of_a_histogram_is_in_milliseconds_throughout() -> None:
    made = Distribution()
    made.add([(1_000, 10), (3_000, 10)])
    text = percentile_distribution(made.encoded())
    numbers = dict(re.findall(r"(Mean|StdDeviation|Max) *= *([0-9.]+)", text))
    assert {name: round(float(number), 2) for name, number in numbers.items()} == {
        "Mean": 2.0,
        "StdDeviation": 1.0,
        "Max": 3.0,
    }


def test_an_encoded_histogram_has_every_value() -> None:
    made = Distribution()
    made.add([(0, 3), (1500, 2), (40_000, 5), (10**11, 1)])
    cells = list(decoded_cells(made.encoded()))
    assert sum(count for _, count in cells) == 11
    assert cells[0] == (0, 3)
    assert cells[1] == (1500, 2)


@pytest.mark.parametrize("text", ["", "x", "AAAA", "HISTFAAA"])
def test_what_is_no_histogram_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="HdrHistogram"):
        list(decoded_cells(text))


def test_a_percentile_of_counts() -> None:
    counts = {5: 50, 7: 49, 100: 1}
    assert [percentile_of(counts, percent) for percent in (0, 50, 50.1, 99, 99.5, 100)] == [5, 5, 7, 7, 100, 100]
