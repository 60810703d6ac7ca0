"""When a comparison that may stop early looks at its trials, and how much of its certainty each look may use.

Who looks ten times and stops at the first difference finds one too often. So the level is spent: each look has a part
of it, and the parts add up to the whole, by the function of Lan and DeMets (1983) that spends about as much early as
late. A look that finds something at its own part is right as often as promised, whatever the others find (Bonferroni).
How many trials there will be is reckoned from the time one takes, which knows nothing of which side is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kabench.comparison.statistics import least_p_value

FIRST_LOOK = 12
"""Trials: with fewer, only one look's whole level would be enough for several metrics at once."""

_GROWTH = 1.25


@dataclass(frozen=True, slots=True)
class Look:
    """After `trials` of them, at this level."""

    trials: int
    level: float


def planned_looks(most_trials: int, level: float, questions: int) -> list[Look]:
    """The looks of a comparison of at most so many trials, with so many questions at once; the last one is at the end.

    Where a look's part of the level could answer none of them, there is none, and the next one has that part too.
    """
    at: list[int] = []
    trials = FIRST_LOOK
    while trials < most_trials:
        at.append(trials)
        trials = math.ceil(trials * _GROWTH)
    at.append(most_trials)
    looks, spent = [], 0.0
    for trials in at:
        spent_then = level * math.log(1 + (math.e - 1) * trials / most_trials)
        least = least_p_value(trials, trials, is_paired=True)
        if least <= (spent_then - spent) / max(1, questions) or trials == most_trials:
            looks.append(Look(trials, spent_then - spent))
            spent = spent_then
    return looks


def last_look(trials: int, looks_before: list[Look], level: float) -> Look:
    """The look at the end, where it comes sooner than planned: it has what is left of the level."""
    return Look(trials, level - sum(look.level for look in looks_before))
