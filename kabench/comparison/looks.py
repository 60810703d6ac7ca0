"""When a comparison that may stop early looks at its trials, and how much of its certainty each look may use.

Who looks ten times and stops at the first difference finds one too often. So the level is spent: each look has a part
of it, and the parts add up to the whole, by the function of Lan and DeMets (1983) that spends about as much early as
late. A look that finds something at its own part is right as often as promised, whatever the others find (Bonferroni).
How many trials there will be is reckoned from the time one takes, which knows nothing of which side is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_LOOK = 12
"""Trials: with fewer, only one look's whole level would be enough for several metrics at once."""

_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Look:
    """After `trials` of them, at this level."""

    trials: int
    level: float


def planned_looks(most_trials: int, level: float) -> list[Look]:
    """The looks of a comparison of at most so many trials; the last one is at the end."""
    at: list[int] = []
    trials = FIRST_LOOK
    while trials < most_trials:
        at.append(trials)
        trials = math.ceil(trials * _GROWTH)
    at.append(most_trials)
    looks, spent = [], 0.0
    for trials in at:
        spent_then = level * math.log(1 + (math.e - 1) * trials / most_trials)
        looks.append(Look(trials, spent_then - spent))
        spent = spent_then
    return looks


def last_look(trials: int, looks_before: list[Look], level: float) -> Look:
    """The look at the end, where it comes sooner than planned: it has what is left of the level."""
    return Look(trials, level - sum(look.level for look in looks_before))
