"""The arithmetic of a comparison: scipy's rank tests on logarithms, the intervals that belong to them, and Holm's.

A sample has one figure a trial, never one a request: the requests of a trial share its machine, its moment and its
sockets, and thousands of them say no more about the next trial than one does.

Figures of interleaved trials come in pairs that were measured one after the other, so what the machine does slowly is
in both and goes out of their ratio: Wilcoxon's signed-rank test (1945). Records that were made apart are no pairs: the
test of Mann and Whitney (1947). Neither asks how the noise is distributed. The interval is that of the ratios which the
same test would not reject, its middle the estimate of Hodges and Lehmann (1963).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEVEL = 0.05
"""How often, at most, a comparison of equals may find a difference in anything."""

_EXACT_UP_TO = 50
"""Pairs; above that the normal distribution is as good, as scipy has it."""

_RESAMPLES = 20_000


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

    def p_values(self, log_ratios: Sequence[float] | Floats) -> Floats:
        """For each ratio: how probable figures at least as far from it are, if the true ratio is that (two-sided)."""
        base, other = np.log(self.base), np.log(self.other)
        shifts = np.asarray(log_ratios, dtype=float)[:, np.newaxis]
        return _signed_rank(other - base - shifts) if self.is_paired else _rank_sum(base, other - shifts)

    def least_p_value(self) -> float:
        """The smallest p-value that figures which differ in as many trials could have."""
        if self.is_paired:
            return min(1.0, 2.0 ** (1 - int(np.count_nonzero(self.base != self.other))))
        return least_p_value(len(self.base), len(self.other), is_paired=False)

    def ratio(self) -> float:
        """The estimate of the ratio of the other side to the base."""
        return float(np.exp(np.median(self.shifts)))

    def interval(self, level: float) -> tuple[float, float] | None:
        """The ratios that are not rejected at this level; None where there are too few figures to reject any."""
        edges = np.unique(np.round(self.shifts, 12))
        if len(edges) == 1:
            edges = np.repeat(edges, 2)
        between = np.concatenate(([edges[0] - 1.0], (edges[:-1] + edges[1:]) / 2, [edges[-1] + 1.0]))
        kept = np.flatnonzero(self.p_values(between) > level)
        if not len(kept):
            middle = self.ratio()
            return middle, middle
        if kept[0] == 0 or kept[-1] == len(between) - 1:
            return None
        return float(np.exp(edges[kept[0] - 1])), float(np.exp(edges[kept[-1]]))


def _signed_rank(differences: Floats) -> Floats:
    """p-values of rows of differences. Zeros say nothing and are left out; ties get middle ranks, which makes the exact
    distribution a little too wide, never too narrow."""
    method = "exact" if differences.shape[-1] <= _EXACT_UP_TO else "asymptotic"
    found = np.ones(len(differences))
    telling = np.any(differences != 0, axis=-1)
    if np.any(telling):
        found[telling] = stats.wilcoxon(differences[telling], method=method, axis=-1).pvalue
    return found


def _rank_sum(base: Floats, others: Floats) -> Floats:
    """p-values of rows against the base; by permutation where ties make the exact distribution wrong."""
    found = []
    for other in others:
        pooled = np.concatenate((base, other))
        has_ties = len(np.unique(pooled)) < len(pooled)
        is_small = min(len(base), len(other)) > 1 and math.comb(len(pooled), len(base)) <= _RESAMPLES
        method = (
            stats.PermutationMethod(n_resamples=_RESAMPLES, rng=np.random.default_rng(1))
            if has_ties and is_small
            else "auto"
        )
        found.append(float(stats.mannwhitneyu(other, base, method=method).pvalue))
    return np.asarray(found)


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
