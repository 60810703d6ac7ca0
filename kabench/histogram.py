"""Latency distributions: counted in whole microseconds, kept in HdrHistograms (1 us to 1 h, 3 significant digits).

`Distribution` takes counts of values in bulk and keeps what a histogram would round (sum, extremes, the ten buckets of
the published benchmark) exactly. Adding distributions up is exact too, so workers' results merge without loss.
"""

from __future__ import annotations

import io
import math
import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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

_SUB_BUCKET_BITS = 11
"""An HdrHistogram of three digits counts values below 2^11 one by one, and above that by their highest 11 bits."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TimesOfAll:
    """Percentiles, in seconds, of all requests that were due, as if the unanswered had been slower than every answer.

    A percentile that falls among the unanswered is None; `at_least_s` has its name then, and the time that it is above:
    the longest answer, or how long those requests had waited when they were given up, if that is more.
    """

    answered_pct: float | None = None
    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    p99_99: float | None = None
    max: float | None = None
    at_least_s: dict[str, float] = field(default_factory=dict)


PERCENTILES = {"p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99, "p99_9": 99.9, "p99_99": 99.99}
"""The percentiles of all figures, by name."""

_PERCENTILES_AND_MAX = PERCENTILES | {"max": 100}


def _cell(value_us: int) -> int:
    """Return the lowest value of the histogram's cell that a value falls into."""
    bits = value_us.bit_length() - _SUB_BUCKET_BITS
    return value_us if bits <= 0 else value_us >> bits << bits


def _highest_in(cell: int) -> int:
    """Return the highest value of a cell, given by its lowest."""
    bits = cell.bit_length() - _SUB_BUCKET_BITS
    return cell if bits <= 0 else cell + (1 << bits) - 1


class Distribution:
    """Latencies in microseconds. Values above an hour count as an hour.

    Only the cells of the histogram that hold a value take memory, since there may be hundreds of distributions.
    """

    def __init__(self) -> None:
        self._cells: defaultdict[int, int] = defaultdict(int)
        self._buckets = [0] * len(BUCKET_NAMES)
        self.count = 0
        self.sum_us = 0
        self._sum_of_squares = 0
        self._min_us = HIGHEST_US
        self._max_us = 0

    def add(self, values: Iterable[tuple[int, int]]) -> None:
        """Add (value in us, how often) pairs."""
        cells, buckets = self._cells, self._buckets
        least_us, most_us = self._min_us, self._max_us
        for value, times in values:
            value_us = min(HIGHEST_US, value)
            cells[_cell(value_us)] += times
            buckets[bisect_right(_BUCKET_EDGES_US, value_us)] += times
            self.count += times
            part = value_us * times
            self.sum_us += part
            self._sum_of_squares += value_us * part
            if value_us < least_us:
                least_us = value_us
            if value_us > most_us:
                most_us = value_us
        self._min_us, self._max_us = least_us, most_us

    def add_encoded(self, encoded: str, stats: LatencyStats) -> None:
        """Add an encoded histogram whose exact figures are `stats`; the buckets stay as they are.

        Raises `ValueError` for text that is not an encoded histogram.
        """
        times = 0
        for highest_us, count in decoded_cells(encoded):
            self._cells[_cell(highest_us)] += count
            times += count
        if not times or stats.mean is None:
            return
        mean_us, deviation_us = stats.mean * 1e6, (stats.stdev or 0.0) * 1e6
        self.count += times
        self.sum_us += round(mean_us * times)
        self._sum_of_squares += round((deviation_us * deviation_us + mean_us * mean_us) * times)
        self._min_us = min(self._min_us, round((stats.min or 0.0) * 1e6))
        self._max_us = max(self._max_us, round((stats.max or 0.0) * 1e6))

    def add_all(self, other: Distribution) -> None:
        """Add all values of another distribution."""
        for cell, times in other._cells.items():
            self._cells[cell] += times
        self._buckets = [mine + its for mine, its in zip(self._buckets, other._buckets, strict=True)]
        self.count += other.count
        self.sum_us += other.sum_us
        self._sum_of_squares += other._sum_of_squares
        self._min_us = min(self._min_us, other._min_us)
        self._max_us = max(self._max_us, other._max_us)

    def without(self, part: Distribution) -> Distribution:
        """Return this distribution without the values of a part of it. Its extremes are as exact as its cells."""
        rest = Distribution()
        for cell, times in self._cells.items():
            left = times - part._cells.get(cell, 0)
            if left:
                rest._cells[cell] = left
        rest._buckets = [mine - its for mine, its in zip(self._buckets, part._buckets, strict=True)]
        rest.count = self.count - part.count
        rest.sum_us = self.sum_us - part.sum_us
        rest._sum_of_squares = self._sum_of_squares - part._sum_of_squares
        if rest._cells:
            rest._min_us = max(self._min_us, min(rest._cells))
            rest._max_us = min(self._max_us, _highest_in(max(rest._cells)))
        return rest

    def stats(self) -> LatencyStats:
        """Return the figures of this distribution."""
        if not self.count:
            return LatencyStats()
        mean = self.sum_us / self.count
        variance = max(0.0, self._sum_of_squares / self.count - mean * mean)
        ranks = [_rank(self.count, percent) for percent in PERCENTILES.values()]
        return LatencyStats(
            mean=round(mean / 1e6, 9),
            stdev=round(math.sqrt(variance) / 1e6, 9),
            min=self._min_us / 1e6,
            max=self._max_us / 1e6,
            **dict(zip(PERCENTILES, self._at_ranks_s(ranks), strict=True)),
        )

    def percentile_s(self, percent: float) -> float | None:
        """Return the value in seconds that `percent` of all do not exceed; None where there are none."""
        return self._at_ranks_s([_rank(self.count, percent)])[0] if self.count else None

    def _at_ranks_s(self, ranks: Sequence[int]) -> list[float]:
        """Return the values at ascending ranks, from 1, in seconds. (hdrhistogram itself rounds the rank.)"""
        found: list[float] = []
        seen = 0
        for cell in sorted(self._cells):
            seen += self._cells[cell]
            while len(found) < len(ranks) and seen >= ranks[len(found)]:
                found.append(min(_highest_in(cell), self._max_us) / 1e6)
            if len(found) == len(ranks):
                break
        return found

    def with_unanswered(self, unanswered: int, waits: Distribution) -> TimesOfAll:
        """Return percentiles over these answers and `unanswered` more requests.

        `waits` has how long those had waited when they were given up, as far as that is known.
        """
        count = self.count + unanswered
        if not count:
            return TimesOfAll()
        ranks = {name: _rank(count, percent) for name, percent in _PERCENTILES_AND_MAX.items()}
        values = dict(
            zip(ranks, self._at_ranks_s([rank for rank in ranks.values() if rank <= self.count]), strict=False)
        )
        beyond = {name: rank - self.count for name, rank in ranks.items() if rank > self.count}
        waited = waits._at_ranks_s([min(rank, waits.count) for rank in beyond.values()] if waits.count else [])
        bounds = waited or [0.0] * len(beyond)
        longest_s = self._max_us / 1e6
        at_least = {name: max(longest_s, wait_s) for name, wait_s in zip(beyond, bounds, strict=True)}
        return TimesOfAll(answered_pct=round(100 * self.count / count, 6), **values, at_least_s=at_least)

    def buckets(self) -> dict[str, int]:
        """Return how many values fall into each of the ten buckets, exactly."""
        return dict(zip(BUCKET_NAMES, self._buckets, strict=True))

    def encoded(self) -> str:
        """Return the HdrHistogram in its V2 compressed form, base64."""
        histogram = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
        for cell, times in self._cells.items():
            histogram.record_value(cell, times)
        encoded: bytes = histogram.encode()
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
