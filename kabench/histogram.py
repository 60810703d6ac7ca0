"""Latency distributions: counted in whole microseconds, kept in HdrHistograms (1 us to 1 h, 3 significant digits).

`Distribution` takes counts of values in bulk and keeps what a histogram would round (sum, extremes, the ten buckets of
the published benchmark) exactly. Adding distributions up is exact too, so workers' results merge without loss.
"""

from __future__ import annotations

import io
import math
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hdrh.histogram import HdrHistogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LOWEST_US = 1
_US_PER_MS = 1000
_ROUNDING = 1e-9
HIGHEST_US = 3_600_000_000
SIGNIFICANT_DIGITS = 3

BUCKET_EDGES_MS = (10, 15, 20, 30, 40, 50, 100, 150, 200)
"""The buckets of agentkeepalive's published benchmark."""

BUCKET_NAMES = (*(f"<{edge}ms" for edge in BUCKET_EDGES_MS), f">={BUCKET_EDGES_MS[-1]}ms")
_BUCKET_EDGES_US = tuple(edge * 1000 for edge in BUCKET_EDGES_MS)

_UNSCALED = re.compile(r"(StdDeviation *= *)([0-9.]+)")
"""The figure that hdrhistogram writes in the histogram's own unit, unlike the rest of its text."""

_FOLD_ABOVE = 20_000
"""Distinct values that are counted one by one before they go into the histogram, which has fewer cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyStats:
    """A distribution in figures, in seconds; all None where nothing was recorded. `stdev` is the population's."""

    mean: float | None = None
    stdev: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    p99_99: float | None = None


_PERCENTILES = {"p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99, "p99_9": 99.9, "p99_99": 99.99}


def _new_histogram() -> Any:  # hdrhistogram has no types
    return HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)


class Distribution:
    """Latencies in microseconds. Values above an hour count as an hour."""

    def __init__(self) -> None:
        self._histogram = _new_histogram()
        self._unfolded: Counter[int] = Counter()
        self._buckets = [0] * len(BUCKET_NAMES)
        self.count = 0
        self.sum_us = 0
        self._sum_of_squares = 0
        self._min_us = HIGHEST_US
        self._max_us = 0

    def add(self, values: Iterable[tuple[int, int]]) -> None:
        """Add (value in us, how often) pairs."""
        for value, times in values:
            value_us = min(value, HIGHEST_US)
            self._unfolded[value_us] += times
            self._buckets[bisect_right(_BUCKET_EDGES_US, value_us)] += times
            self.count += times
            self.sum_us += value_us * times
            self._sum_of_squares += value_us * value_us * times
            self._min_us = min(self._min_us, value_us)
            self._max_us = max(self._max_us, value_us)
        if len(self._unfolded) > _FOLD_ABOVE:
            self._fold()

    def add_encoded(self, encoded: str, stats: LatencyStats) -> None:
        """Add an encoded histogram whose exact figures are `stats`; the buckets stay as they are.

        Raises `ValueError` for text that is not an encoded histogram.
        """
        before = self._histogram.get_total_count()
        try:
            self._histogram.decode_and_add(encoded.encode("ascii"))
        except Exception as error:  # as in decoded_cells
            raise ValueError(f"not an encoded HdrHistogram ({type(error).__name__})") from None
        times = self._histogram.get_total_count() - before
        if not times or stats.mean is None:
            return
        mean_us, deviation_us = stats.mean * 1e6, (stats.stdev or 0.0) * 1e6
        self.count += times
        self.sum_us += round(mean_us * times)
        self._sum_of_squares += round((deviation_us * deviation_us + mean_us * mean_us) * times)
        self._min_us = min(self._min_us, round((stats.min or 0.0) * 1e6))
        self._max_us = max(self._max_us, round((stats.max or 0.0) * 1e6))

    def _fold(self) -> None:
        record = self._histogram.record_value
        for value, times in self._unfolded.items():
            record(value, times)
        self._unfolded.clear()

    def stats(self) -> LatencyStats:
        """Return the figures of this distribution."""
        if not self.count:
            return LatencyStats()
        self._fold()
        mean = self.sum_us / self.count
        variance = max(0.0, self._sum_of_squares / self.count - mean * mean)
        percentiles = dict(zip(_PERCENTILES, self._percentiles_s(list(_PERCENTILES.values())), strict=True))
        return LatencyStats(
            mean=round(mean / 1e6, 9),
            stdev=round(math.sqrt(variance) / 1e6, 9),
            min=self._min_us / 1e6,
            max=self._max_us / 1e6,
            **percentiles,
        )

    def percentile_s(self, percent: float) -> float | None:
        """Return the value in seconds that `percent` of all do not exceed; None where there are none."""
        return self._percentiles_s([percent])[0] if self.count else None

    def _percentiles_s(self, percents: Sequence[float]) -> list[float]:
        """Return percentiles, asked for in ascending order, in one pass. (hdrhistogram itself rounds the rank.)"""
        self._fold()
        histogram = self._histogram
        ranks = [_rank(self.count, percent) for percent in percents]
        found: list[float] = []
        seen = 0
        for index in range(histogram.counts_len):
            seen += histogram.get_count_at_index(index)
            while seen >= ranks[len(found)]:
                value_us = histogram.get_highest_equivalent_value(histogram.get_value_from_index(index))
                found.append(min(value_us, self._max_us) / 1e6)
                if len(found) == len(ranks):
                    return found
        return found

    def buckets(self) -> dict[str, int]:
        """Return how many values fall into each of the ten buckets, exactly."""
        return dict(zip(BUCKET_NAMES, self._buckets, strict=True))

    def encoded(self) -> str:
        """Return the HdrHistogram in its V2 compressed form, base64."""
        self._fold()
        encoded: bytes = self._histogram.encode()
        return encoded.decode("ascii")


def decoded_cells(encoded: str) -> Iterator[tuple[int, int]]:
    """Yield the cells of an encoded histogram as (highest value in us, count) pairs, in order.

    Raises `ValueError` for text that is not an encoded histogram.
    """
    try:
        histogram = HdrHistogram.decode(encoded.encode("ascii"))
    except Exception as error:  # hdrhistogram raises whatever its decoder trips over
        raise ValueError(f"not an encoded HdrHistogram ({type(error).__name__})") from None
    for cell in histogram.get_recorded_iterator():
        yield cell.value_iterated_to, cell.count_added_in_this_iter_step


def percentile_distribution(encoded: str) -> str:
    """Return HdrHistogram's percentile text, in milliseconds (an `.hgrm` file), of an encoded one of microseconds."""
    out = io.BytesIO()
    HdrHistogram.decode(encoded.encode("ascii")).output_percentile_distribution(out, _US_PER_MS)
    text = out.getvalue().decode("ascii")
    return _UNSCALED.sub(lambda found: f"{found[1]}{float(found[2]) / _US_PER_MS:12.3f}", text)


def _rank(count: int, percent: float) -> int:
    """Return the nearest rank: the smallest that at least `percent` of `count` values do not exceed, from 1."""
    return max(1, math.ceil(count * percent / 100 - _ROUNDING))


def percentile_of(counts: dict[int, int], percent: float) -> int:
    """Return the smallest value that at least `percent` of the counted values do not exceed. `counts` is not empty."""
    rank = _rank(sum(counts.values()), percent)
    seen = 0
    value = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= rank:
            break
    return value
