from __future__ import annotations

import math
import random
import statistics

import pytest

from kabench.histogram import BUCKET_NAMES, Distribution, LatencyStats, decoded_cells, percentile_of


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
