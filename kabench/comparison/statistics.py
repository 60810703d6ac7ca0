"""The arithmetic of a comparison: scipy's rank tests on logarithms, the intervals that belong to them, and Holm's.

A sample has one figure a trial, never one a request: the requests of a trial share its machine, its moment and its
sockets, and thousands of them say no more about the next trial than one does.

Figures of interleaved trials come in pairs that were measured one after the other, so what the machine does slowly is
in both and goes out of their ratio: Wilcoxon's signed-rank test (1945). Records that were made apart are no pairs: the
test of Mann and Whitney (1947). Neither asks how the noise is distributed. The interval is that of the ratios which the
same test would not reject, its middle the estimate of Hodges and Lehmann (1963).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEVEL = 0.05
"""How often, at most, a comparison of equals may find a difference in anything."""

_EXACT_UP_TO = 50
"""Pairs; above that the normal distribution is as good, as scipy has it."""

_RESAMPLES = 1000
"""Groupings that are tried where figures tie, all of them; where there are more, the normal distribution is as good."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of two sides, one a trial, all above 0; in pairs if they were measured in turn."""

    base: Floats
    other: Floats
    is_paired: bool

    @property
    def shifts(self) -> Floats:
        """The logarithms of all ratios that the estimate is the median of."""
        base, other = np.log(self.base), np.log(self.other)
        if not self.is_paired:
            return np.asarray(np.subtract.outer(other, base).ravel())
        differences = other - base
        first, second = np.triu_indices(len(differences))
        return np.asarray((differences[first] + differences[second]) / 2)

    def differs_anywhere(self) -> bool:
        """Whether any figure of one side differs from that of the other."""
        if self.is_paired:
            return bool(np.any(self.base != self.other))
        return len(np.unique(np.concatenate((self.base, self.other)))) > 1

    def p_above(self, log_ratio: float) -> float:
        """How probable figures at least as far above this ratio are, if the true one is not above it."""
        return self._p(log_ratio, "greater")

    def p_below(self, log_ratio: float) -> float:
        """How probable figures at least as far below this ratio are, if the true one is not below it."""
        return self._p(log_ratio, "less")

    def p_value(self) -> float:
        """How probable figures at least as far from equal are, if the sides are (two-sided).

        Figures that are equal speak for neither side: each is held against the difference.
        """
        return min(1.0, 2 * min(self.p_above(_NOTHING), self.p_below(-_NOTHING)))

    def is_above(self) -> bool:
        """Whether the other side is the one with the higher figures, as the test sees it."""
        return self.p_above(_NOTHING) < self.p_below(-_NOTHING)

    def least_p_value(self) -> float:
        """The smallest p-value that figures which differ in as many trials could have."""
        if self.is_paired:
            return min(1.0, 2.0 ** (1 - int(np.count_nonzero(self.base != self.other))))
        return least_p_value(len(self.base), len(self.other), is_paired=False)

    def ratio(self) -> float:
        """The estimate of the ratio of the other side to the base."""
        with np.errstate(over="ignore"):
            return float(np.exp(np.median(self.shifts)))

    def interval(self, level: float) -> tuple[float, float] | None:
        """The ratios that are not rejected at this level; None where there are too few figures to reject any."""
        edges = np.unique(np.round(self.shifts, _DIGITS))
        if max(self.p_above(edges[0] - 1.0), self.p_below(edges[-1] + 1.0)) > level / 2:
            return None
        low = _first(len(edges), lambda index: self.p_above(edges[index] + _NOTHING) > level / 2)
        high = (
            len(edges)
            - 1
            - _first(len(edges), lambda index: self.p_below(edges[len(edges) - 1 - index] - _NOTHING) > level / 2)
        )
        with np.errstate(over="ignore"):
            return float(np.exp(edges[min(low, high)])), float(np.exp(edges[max(low, high)]))

    def _p(self, log_ratio: float, alternative: str) -> float:
        base, other = np.log(self.base), np.log(self.other)
        if self.is_paired:
            return _signed_rank(other - base - log_ratio, alternative)
        return _rank_sum(base, other - log_ratio, alternative)


_NOTHING = 1e-9
"""Far less than two figures that differ are apart, as a logarithm of their ratio."""

_DIGITS = 12


def _first(count: int, is_it: Callable[[int], bool]) -> int:
    """The first of so many for which it is so; it is for all behind that one, and at least for the last."""
    return bisect.bisect_left(range(count - 1), True, key=is_it)


def _signed_rank(differences: Floats, alternative: str) -> float:
    """Wilcoxon's one-sided p-value. Ties get middle ranks, for which the exact distribution is a little off."""
    from scipy import stats  # takes most of a second, in which a command line that is wrong has its answer

    method = "exact" if len(differences) <= _EXACT_UP_TO else "asymptotic"
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    return float(stats.wilcoxon(differences, method=method, alternative=alternative).pvalue)


def _rank_sum(base: Floats, other: Floats, alternative: str) -> float:
    """Mann and Whitney's one-sided p-value; by permutation where ties make the exact distribution wrong."""
    from scipy import stats

    pooled = np.concatenate((base, other))
    has_ties = len(np.unique(pooled)) < len(pooled)
    is_small = min(len(base), len(other)) > 1 and math.comb(len(pooled), len(base)) <= _RESAMPLES
    method = (
        stats.PermutationMethod(n_resamples=_RESAMPLES, rng=np.random.default_rng(1))
        if has_ties and is_small
        else "auto"
    )
    return float(stats.mannwhitneyu(other, base, method=method, alternative=alternative).pvalue)


def least_p_value(base: int, other: int, *, is_paired: bool) -> float:
    """The smallest p-value that so many trials of the two sides can have."""
    if is_paired:
        return float(min(1.0, 2.0 ** (1 - min(base, other))))
    return min(1.0, 2 / math.comb(base + other, base))


def trials_needed(questions: int, level: float, *, is_paired: bool) -> int:
    """How many trials of each side it takes, at least, before so many questions at once can have an answer."""
    trials = 1
    while least_p_value(trials, trials, is_paired=is_paired) > level / max(1, questions):
        trials += 1
    return trials


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which are significant together: at most `level` of all families of equals have any (Holm 1979).

    `scipy.stats` has no Holm's, and a package for these lines would be heavier than scipy's part in it.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    significant = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        significant[index] = True
    return significant
