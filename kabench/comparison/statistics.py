"""The arithmetic of a comparison: scipy's rank tests on logarithms, the intervals that belong to them, and Holm's.

A sample has one figure a trial, never one a request: the requests of a trial share its machine, its moment and its
sockets, and thousands of them say no more about the next trial than one does.

Figures of interleaved trials come in pairs that were measured one after the other. Slow changes of the machine are in
both and cancel in their ratio, so the test is Wilcoxon's signed-rank test (1945). Records that were made apart are no
pairs, so theirs is the test of Mann and Whitney (1947). Neither test assumes how the noise is distributed. The interval
holds the ratios that the same test would not reject; its middle is the estimate of Hodges and Lehmann (1963).
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
"""The share of comparisons of equal agents that may find a difference in any figure."""

_EXACT_UP_TO = 50
"""Up to this many pairs the exact distribution is used. Above, the normal one is as good (scipy's own limit)."""

_RESAMPLES = 1000
"""Up to this many groupings are all tried if figures tie. If there are more, the normal distribution is as good."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of two sides, one a trial, all above 0. They are pairs if they were measured in turn."""

    base: Floats
    other: Floats
    is_paired: bool

    @property
    def shifts(self) -> Floats:
        """The logarithms of the ratios whose median is the estimate."""
        base, other = np.log(self.base), np.log(self.other)
        if not self.is_paired:
            return np.asarray(np.subtract.outer(other, base).ravel())
        differences = other - base
        first, second = np.triu_indices(len(differences))
        return np.asarray((differences[first] + differences[second]) / 2)

    def differs_anywhere(self) -> bool:
        """Return whether any figure of one side differs from that of the other."""
        if self.is_paired:
            return bool(np.any(self.base != self.other))
        return len(np.unique(np.concatenate((self.base, self.other)))) > 1

    def p_above(self, log_ratio: float) -> float:
        """Return the probability of figures at least this far above the ratio, if the true one is not above it."""
        return self._p(log_ratio, "greater")

    def p_below(self, log_ratio: float) -> float:
        """Return the probability of figures at least this far below the ratio, if the true one is not below it."""
        return self._p(log_ratio, "less")

    def p_value(self) -> float:
        """Return the probability of figures at least this far from equal, if the sides are equal (two-sided).

        Equal figures are evidence for neither side: each counts against a difference.
        """
        return min(1.0, 2 * min(self.p_above(_NOTHING), self.p_below(-_NOTHING)))

    def is_above(self) -> bool:
        """Return whether the other side has the higher figures, according to the test."""
        return self.p_above(_NOTHING) < self.p_below(-_NOTHING)

    def least_p_value(self) -> float:
        """Return the smallest p-value that figures could have that differ in as many trials as these."""
        if self.is_paired:
            return min(1.0, 2.0 ** (1 - int(np.count_nonzero(self.base != self.other))))
        return least_p_value(len(self.base), len(self.other), is_paired=False)

    def ratio(self) -> float:
        """Return the estimated ratio of the other side to the base."""
        with np.errstate(over="ignore"):
            return float(np.exp(np.median(self.shifts)))

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the interval of ratios not rejected at this level, or None if too few figures could reject any."""
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
"""Far less than the logarithm of the ratio of any two different figures."""

_DIGITS = 12


def _first(count: int, is_it: Callable[[int], bool]) -> int:
    """Return the first index below `count` for which `is_it` holds. It holds for all later ones, and for the last."""
    return bisect.bisect_left(range(count - 1), True, key=is_it)


def _signed_rank(differences: Floats, alternative: str) -> float:
    """Return Wilcoxon's one-sided p-value. Ties get middle ranks, for which the exact distribution is a little off."""
    from scipy import stats  # imported late: it takes most of a second, and a wrong command line needs no statistics

    method = "exact" if len(differences) <= _EXACT_UP_TO else "asymptotic"
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    return float(stats.wilcoxon(differences, method=method, alternative=alternative).pvalue)


def _rank_sum(base: Floats, other: Floats, alternative: str) -> float:
    """Return Mann and Whitney's one-sided p-value, by permutation if ties make the exact distribution wrong."""
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
    """Return the smallest p-value that these numbers of trials can have."""
    if is_paired:
        return float(min(1.0, 2.0 ** (1 - min(base, other))))
    return min(1.0, 2 / math.comb(base + other, base))


def trials_needed(questions: int, level: float, *, is_paired: bool) -> int:
    """Return how many trials of each side are needed at least to answer `questions` at once."""
    trials = 1
    while least_p_value(trials, trials, is_paired=is_paired) > level / max(1, questions):
        trials += 1
    return trials


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Return which p-values are significant together: at most `level` of all families of equals have any (Holm 1979).

    `scipy.stats` does not have Holm's method, and a package that does would be heavier than these lines are worth.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    significant = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        significant[index] = True
    return significant
