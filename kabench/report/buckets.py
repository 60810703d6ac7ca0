"""Latency histograms as rows of label, count and share: the benchmark's ten buckets, or ones that fit the data."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_ROWS = 12
_TAIL_SHARE = 0.005
_WIDE_RATIO = 30
_NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOG_STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A row of a histogram. `share` is the row's part of all counts."""

    label: str
    count: int
    share: float


def named_buckets(counts: Mapping[str, int]) -> list[Bucket]:
    """Return rows from counts by name, as a record holds them."""
    total = sum(counts.values())
    return [Bucket(name, count, count / total if total else 0.0) for name, count in counts.items()]


def fitted_buckets(cells: Sequence[tuple[int, int]]) -> list[Bucket]:
    """Return up to a dozen rows with round limits, from the fastest value to nearly the slowest. The last is the tail.

    `cells` are (highest value in us, count) pairs in order. Limits are evenly spaced, or, if the slowest is more
    than thirty times the fastest, in steps of 1, 2, 5.
    """
    rows = buckets_between(fitted_edges(cells), cells)
    while rows and not rows[0].count:
        rows.pop(0)
    while rows and not rows[-1].count:
        rows.pop()
    return rows


def fitted_edges(cells: Sequence[tuple[int, int]], most_rows: int = _MOST_ROWS) -> list[int]:
    """Return limits of rows that fit the data, in us."""
    total = sum(count for _, count in cells)
    if not total:
        return []
    low, high = cells[0][0], _tail_begins(cells, total)
    is_wide = high > _WIDE_RATIO * max(low, 1)
    return _log_edges(low, high, most_rows) if is_wide else _even_edges(low, high, most_rows)


def buckets_between(edges: Sequence[int], cells: Sequence[tuple[int, int]]) -> list[Bucket]:
    """Return rows with these limits, in us."""
    total = sum(count for _, count in cells)
    if not edges:
        return []
    counts = [0] * (len(edges) + 1)
    for value, count in cells:
        counts[bisect_right(edges, value)] += count
    labels = [f"<{_milliseconds(edge)}ms" for edge in edges] + [f">={_milliseconds(edges[-1])}ms"]
    return [Bucket(label, count, count / total if total else 0.0) for label, count in zip(labels, counts, strict=True)]


def _tail_begins(cells: Sequence[tuple[int, int]], total: int) -> int:
    """Return the value above which only the slowest few lie."""
    left = total * _TAIL_SHARE
    for value, count in reversed(cells):
        left -= count
        if left < 0:
            return value
    return cells[0][0]


def _even_edges(low: int, high: int, most_rows: int) -> list[int]:
    span = max(high - low, 10)
    magnitude = 10 ** math.floor(math.log10(span / (most_rows - 2)))
    step = next(max(1, round(nice * magnitude)) for nice in _NICE_STEPS if span / (nice * magnitude) <= most_rows - 2)
    first = (low // step + 1) * step
    return list(range(first, high + step + 1, step))


def _log_edges(low: int, high: int, most_rows: int) -> list[int]:
    edges: list[int] = []
    decade = 10 ** math.floor(math.log10(max(low, 1)))
    while not edges or edges[-1] <= high:
        edges += [round(step * decade) for step in _LOG_STEPS if step * decade > low]
        decade *= 10
    within = [edge for edge in edges if edge <= high]
    edges = edges[: len(within) + 1]
    return edges if len(edges) < most_rows else edges[:: math.ceil(len(edges) / (most_rows - 1))]


def _milliseconds(value_us: int) -> str:
    return f"{value_us / 1000:g}"
