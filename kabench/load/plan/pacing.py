"""When requests are due, and how many users there are: pure functions of elapsed time. No clock, no waiting.

A `Ramp` is a level over time: requests a second in the open model, users in the closed one. It changes linearly from
stage to stage. In the open model the area under it is how many requests are due by then, so the n-th request is due
when the area reaches n: that is `time_of`, the inverse of `area_at`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Stage:
    """Reach `level` in `duration_s` seconds, from the level of the stage before."""

    duration_s: float
    level: float


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of a ramp: at `start_s`, the area is `area`, and the level is `level` and changes by `slope` a second."""

    start_s: float
    area: float
    level: float
    slope: float

    def area_after(self, seconds: float) -> float:
        return self.area + seconds * (self.level + self.slope * seconds / 2)


class Ramp:
    """A level that starts at `start`, changes linearly from stage to stage, and stays at the last."""

    def __init__(self, start: float, stages: Sequence[Stage] = ()) -> None:
        self._pieces: list[_Piece] = []
        at_s, area, level = 0.0, 0.0, start
        for stage in stages:
            piece = _Piece(at_s, area, level, (stage.level - level) / stage.duration_s)
            self._pieces.append(piece)
            at_s += stage.duration_s
            area = piece.area_after(stage.duration_s)
            level = stage.level
        self._pieces.append(_Piece(at_s, area, level, 0.0))
        self._starts = [piece.start_s for piece in self._pieces]
        self._areas = [piece.area for piece in self._pieces]

    @property
    def duration_s(self) -> float:
        """The seconds that all its stages last together."""
        return self._starts[-1]

    @property
    def is_level(self) -> bool:
        """Whether the level is the same all the time, and not 0."""
        return len(self._pieces) == 1 and self._pieces[0].level > 0

    def level_at(self, elapsed_s: float) -> float:
        """Return the level at a time."""
        piece = self._pieces[bisect_right(self._starts, elapsed_s) - 1]
        return piece.level + piece.slope * (elapsed_s - piece.start_s)

    def area_at(self, elapsed_s: float) -> float:
        """Return the area under the level until a time: the requests due by then, where the level is a rate."""
        piece = self._pieces[bisect_right(self._starts, elapsed_s) - 1]
        return piece.area_after(elapsed_s - piece.start_s)

    def time_of(self, area: float) -> float:
        """Return when the area reaches `area`, in seconds; infinity if it never does."""
        piece = self._pieces[bisect_right(self._areas, area) - 1]
        rest = area - piece.area
        if rest <= 0:
            return piece.start_s
        # level * x + slope / 2 * x^2 = rest, solved without the difference of two near numbers
        root = math.sqrt(max(0.0, piece.level * piece.level + 2 * piece.slope * rest))
        divisor = piece.level + root
        if divisor > 0:
            return piece.start_s + 2 * rest / divisor
        return piece.start_s if piece.slope > 0 else math.inf  # the rest is so small that the product was 0


def constant_arrivals(ramp: Ramp, numbers: Iterator[int]) -> Iterator[float]:
    """Return when the requests with these numbers are due. Numbers count from 0."""
    if ramp.is_level:
        return map(ramp.level_at(0.0).__rtruediv__, numbers)  # number / level, as `time_of` has it, in C
    return map(ramp.time_of, numbers)


def poisson_arrivals(ramp: Ramp, random_source: random.Random, workers: int = 1) -> Iterator[float]:
    """Yield when requests are due that come at random and independently, at this worker's part of the ramp's rate.

    The gaps are exponential in the area under the ramp (Cox and Lewis, The Statistical Analysis of Series of Events,
    2.3). Independent Poisson processes add up to one with the sum of their rates, so workers need not agree.
    """
    area = 0.0
    while True:
        area += random_source.expovariate(1.0) * workers
        yield ramp.time_of(area)
