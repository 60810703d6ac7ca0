"""When a comparison that may stop early looks at its trials, and which part of its level each look may use.

A comparison that looks ten times and stops at the first difference finds one too often. So the level is spent: each
look has a part of it, and the parts add up to the whole, by the function of Lan and DeMets (1983) that spends about as
much early as late. A look that finds a difference at its own part is right as often as promised, whatever the other
looks find (Bonferroni). The number of trials is estimated from the time of one trial, which does not depend on which
side is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kabench.comparison.statistics import least_p_value

FIRST_LOOK = 12
"""The number of trials at the first look. With fewer, several metrics at once would need the whole level."""

_GROWTH = 1.25


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the figures after `trials` trials, at this level."""

    trials: int
    level: float


def planned_looks(most_trials: int, level: float, questions: int) -> list[Look]:
    """Return the looks of at most `most_trials` trials with `questions` questions at once. The last is at the end.

    A look whose part of the level could not answer any question is left out, and the next look gets its part, too.
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
    """Return the last look of a comparison that ends sooner than planned. It gets the rest of the level."""
    return Look(trials, level - sum(look.level for look in looks_before))
