"""Makes verdicts of the figures of trials: which agent is better in which metric, as far as the trials can tell."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kabench.comparison.record import BETTER, CANNOT_TELL, NO_DIFFERENCE, WORSE, AgentFigure, MetricFigures
from kabench.comparison.statistics import LEVEL, Sample, holm, least_p_value, trials_needed
from kabench.metrics import COMPARED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kabench.comparison.record import Verdict
    from kabench.metrics import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The agents to compare. `figures` has, for each agent, a mapping from metric to figure for each trial. `bases`
    names the agent that each is compared with, None for a base itself."""

    figures: Mapping[str, Sequence[Mapping[str, float | None]]]
    bases: Mapping[str, str | None]
    paired: bool = True

    def values(self, agent: str, metric: Metric) -> list[float | None]:
        """Return an agent's figure in each trial."""
        return [figures.get(metric.name) for figures in self.figures[agent]]


@dataclass(frozen=True, slots=True)
class _Question:
    """Whether a metric differs between an agent and its base. `sample` is None if a trial has no figure to compare."""

    metric: Metric
    agent: str
    base: str
    sample: Sample | None


def _questions(sides: Sides) -> list[_Question]:
    return [
        _Question(metric, agent, base, _sample(sides, metric, agent, base))
        for metric in COMPARED
        for agent, base in sides.bases.items()
        if base is not None
    ]


def _sample(sides: Sides, metric: Metric, agent: str, base: str) -> Sample | None:
    ours, theirs = sides.values(agent, metric), sides.values(base, metric)
    usable = [value for value in (*ours, *theirs) if value is not None and value > 0 and math.isfinite(value)]
    if not ours or not theirs or len(usable) < len(ours) + len(theirs):
        return None
    return Sample(np.asarray(theirs, dtype=float), np.asarray(ours, dtype=float), sides.paired)


def _significant(samples: Sequence[Sample], p_values: Sequence[float], level: float) -> list[bool]:
    """Return which samples differ, with a correction for all questions that could be answered alone (Tarone)."""
    askable = [index for index, sample in enumerate(samples) if sample.least_p_value() <= level]
    found = dict(zip(askable, holm([p_values[index] for index in askable], level), strict=True))
    return [found.get(index, False) for index in range(len(samples))]


def is_settled(sides: Sides, level: float, margin: float) -> bool:
    """Return whether each question has an answer: a difference, or none larger than `margin` (0.02 is 2 %)."""
    known = [question.sample for question in _questions(sides) if question.sample is not None]
    outside = [
        index
        for index, sample in enumerate(known)
        if sample.p_above(math.log1p(-margin)) > level / 2 or sample.p_below(math.log1p(margin)) > level / 2
    ]
    if any(known[index].p_value() > level for index in outside):
        return False  # what does not differ alone cannot differ after the correction for all questions
    differs = _significant(known, [sample.p_value() for sample in known], level)
    return all(differs[index] for index in outside)


def judged(sides: Sides, level: float = LEVEL) -> list[MetricFigures]:
    """Return each metric of each agent. In at most `level` of comparisons of equals, a verdict finds a difference."""
    questions = _questions(sides)
    with_sample = [question for question in questions if question.sample is not None]
    samples = [question.sample for question in with_sample if question.sample is not None]
    answerable = sum(sample.least_p_value() <= level for sample in samples) or sum(
        sample.differs_anywhere() for sample in samples
    )
    needed = trials_needed(answerable, level, is_paired=sides.paired)
    p_values = [sample.p_value() for sample in samples]
    significant = _significant(samples, p_values, level)
    answers: dict[tuple[str, str], AgentFigure] = {}
    for question, sample, p_value, differs in zip(with_sample, samples, p_values, significant, strict=True):
        few = least_p_value(len(sample.base), len(sample.other), is_paired=sides.paired) > level / max(1, answerable)
        answers[question.metric.name, question.agent] = AgentFigure(
            agent=question.agent,
            median=_median(sides, question.agent, question.metric),
            base=question.base,
            ratio=sample.ratio(),
            interval=sample.interval(level),
            p_value=p_value,
            verdict=CANNOT_TELL if few else _word(question.metric, sample) if differs else NO_DIFFERENCE,
            trials_needed=needed if few else None,
        )
    return [
        MetricFigures(
            metric=metric.name,
            agents=[answers.get((metric.name, agent)) or _unanswered(sides, metric, agent) for agent in sides.bases],
        )
        for metric in COMPARED
    ]


def _unanswered(sides: Sides, metric: Metric, agent: str) -> AgentFigure:
    base = sides.bases[agent]
    return AgentFigure(
        agent=agent,
        median=_median(sides, agent, metric),
        base=base,
        verdict=None if base is None else CANNOT_TELL,
    )


def _median(sides: Sides, agent: str, metric: Metric) -> float | None:
    known = [value for value in sides.values(agent, metric) if value is not None]
    return statistics.median(known) if known else None


def _word(metric: Metric, sample: Sample) -> Verdict:
    return BETTER if sample.is_above() == (metric.better == "higher") else WORSE


def most_questions(agents: int) -> int:
    """Return how many questions a comparison of this many agents may ask at once."""
    return len(COMPARED) * max(1, agents - 1)
