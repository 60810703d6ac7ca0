"""The user's own limits: thresholds for figures, and the largest regression to accept.

A threshold says what must hold (`p99<50ms`) or what must not (`p99>50ms`). It is checked for each agent, or for the one
before a colon (`keepalive:p99<50ms`); in a comparison, for the median of its trials. `p99[GET /items/{}]<50ms` is about
one target: all between the brackets, as it is, is its name. `transaction_rate.ratio<0.95` is about an agent's figure
divided by the base's. A missing figure cannot be within its limit, so it breaks the threshold; so does a percentile
that falls among requests without an answer.
"""

from __future__ import annotations

import difflib
import operator
import re
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kabench.agent.options import parse_duration
from kabench.comparison.record import CANNOT_TELL, WORSE
from kabench.metrics import ALIASES, COMPARED, METRICS
from kabench.result import labels

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from kabench.comparison.record import AgentFigure, Comparison
    from kabench.metrics import Metric
    from kabench.result import AgentRun

_CONDITION = re.compile(
    r"\s*(?:(?P<agent>\S[^\[\]]*):)?(?P<metric>[a-z0-9_]+)(?:\[(?P<target>.+)\])?(?P<ratio>\.ratio)?"
    r"\s*(?P<sign>[<>]=?)\s*(?P<limit>[^\s<>=\]][^\]]*?)\s*"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_MUST_NOT = {"<": "must not fall below", "<=": "must be above", ">": "must not exceed", ">=": "must be below"}
"""What a threshold demands, by the sign with which it would be broken."""

_SUFFIXES = {"/s": ("/s",), "%": ("%",), "us": ("us",), "MB": ("MB", "mb"), "MB/s": ("MB/s", "mb/s"), "": ()}


WITHIN: Literal["within"] = "within"
BROKEN: Literal["broken"] = "broken"
UNTOLD: Literal["cannot tell"] = "cannot tell"


class ThresholdError(ValueError):
    """A threshold cannot be understood; the message says why."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A limit: `metric` of `agent` (None: of each) must not be above or below (`sign`) `limit`. `text` is as given.

    With a `target`, it is about the requests to that one.
    """

    text: str
    agent: str | None
    metric: Metric
    is_ratio: bool
    sign: str
    limit: float
    target: str | None = None

    @property
    def sentence(self) -> str:
        """What must hold, as the beginning of a sentence."""
        of_target = "" if self.target is None else f" of {self.target}"
        name = f"the ratio of {self.metric.spoken}" if self.is_ratio else self.metric.spoken
        limit = f"{self.limit:g}" if self.is_ratio else self.metric.limit_text(self.limit)
        return f"{name}{of_target} {_MUST_NOT[self.sign]} {limit}"

    def is_broken_by(self, value: float | None) -> bool:
        """Return whether a figure is beyond the limit, or missing."""
        return value is None or _SIGNS[self.sign](value, self.limit)


@dataclass(frozen=True, slots=True)
class Regression:
    """No agent may be worse than its base by more than `limit` (0.05 is 5 %), in `metric` or, if None, in any metric.

    An agent breaks it if its verdict is "worse" and the whole interval of the ratio is beyond the limit. Noise alone
    hardly causes that.
    """

    text: str
    metric: Metric | None
    limit: float

    def is_broken_by(self, metric: Metric, figure: AgentFigure) -> bool:
        """Return whether even the more favourable end of the interval is a larger regression than allowed."""
        if figure.interval is None or figure.verdict != WORSE:
            return False
        low, high = figure.interval
        return high < 1 - self.limit if metric.better == "higher" else low > 1 + self.limit


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on a threshold or regression for one agent: "within", "broken" or "cannot tell". `found` says why.

    `text` is as the user gave it; `sentence` says what must hold.
    """

    text: str
    agent: str
    found: str
    verdict: Literal["within", "broken", "cannot tell"]
    sentence: str = ""

    @property
    def is_broken(self) -> bool:
        """Whether the command is to fail because of it."""
        return self.verdict == BROKEN

    def __str__(self) -> str:
        if not self.sentence:
            return f"{self.text}: {self.agent} has {self.found}"
        return f"{self.agent}: {self.sentence}: {self.found}"


def parse_threshold(text: str, *, must_hold: bool = False) -> Threshold:
    """Return a threshold from what must not hold (`p99>50ms`, `keepalive:req_per_socket<100`), or from what must.

    Raises `ThresholdError`.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ThresholdError(f"{text!r}: not understood; write, for instance, {_EXAMPLES[must_hold]}")
    metric = _metric(found["metric"], text)
    is_ratio = found["ratio"] is not None
    target = found["target"]
    if is_ratio and metric not in COMPARED:
        raise ThresholdError(f"{text!r}: there are ratios of {', '.join(each.name for each in COMPARED)}")
    if target is not None and metric.of_target is None:
        raise ThresholdError(f"{text!r}: {metric.name} is not known for a single target")
    if target is not None and is_ratio:
        raise ThresholdError(f"{text!r}: there are no ratios for a single target")
    sign = _OPPOSITE[found["sign"]] if must_hold else found["sign"]
    limit = _number(found["limit"], text) if is_ratio else _limit(found["limit"], metric, text)
    if metric.unit == "s" and not is_ratio and found["limit"][-1].isdigit():
        text = f"{text.strip()}s"  # so that nobody takes plain seconds for milliseconds
    return Threshold(text.strip(), found["agent"], metric, is_ratio, sign, limit, target)


_EXAMPLES = {True: "'p99<50ms' or 'failed<0.1%'", False: "'p99>50ms' or 'failed>0.1%'"}


def parse_regression(text: str) -> Regression:
    """Return a regression from `5%`, or from `p99=10%` for one metric. Raises `ThresholdError`."""
    name, equals, share = text.rpartition("=")
    metric = _metric(name.strip(), text) if equals else None
    if metric is not None and metric not in COMPARED:
        raise ThresholdError(f"{text!r}: only {', '.join(each.name for each in COMPARED)} are compared")
    return Regression(text.strip(), metric, parse_share(share, text))


def parse_share(share: str, text: str) -> float:
    """Return a part of 1 from `5%`, which is the end of `text`. Raises `ThresholdError`."""
    if not share.strip().endswith("%"):
        raise ThresholdError(f"{text!r}: not understood; write, for instance, '5%' or 'p99=10%'")
    value = _number(share.strip().removesuffix("%"), text) / 100
    if not 0 <= value < 1:
        raise ThresholdError(f"{text!r}: not between 0% and 100%")
    return value


def _metric(name: str, text: str) -> Metric:
    if name in ALIASES:
        return ALIASES[name]
    if name not in METRICS:
        near = difflib.get_close_matches(name, [*METRICS, *ALIASES], 1)
        advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(METRICS)}"
        raise ThresholdError(f"{text!r}: there is no figure {name!r}; {advice}")
    return METRICS[name]


def _limit(given: str, metric: Metric, text: str) -> float:
    if metric.unit == "s":
        try:
            return parse_duration(given)
        except ValueError as error:
            raise ThresholdError(f"{text!r}: {error}") from None
    for suffix in _SUFFIXES[metric.unit]:
        given = given.removesuffix(suffix)
    return _number(given, text)


def _number(given: str, text: str) -> float:
    try:
        value = float(given)
    except ValueError:
        raise ThresholdError(f"{text!r}: {given!r} is not a number") from None
    if not abs(value) < float("inf"):
        raise ThresholdError(f"{text!r}: {given!r} is not a finite number")
    return value


def check_agents_of(thresholds: Iterable[Threshold], agents: Sequence[str], bases: Collection[str]) -> None:
    """Raise `ThresholdError` if a named agent takes no part, or has no base where a ratio needs one."""
    for threshold in thresholds:
        if threshold.agent is not None and threshold.agent not in agents:
            raise ThresholdError(
                f"{threshold.text!r}: there is no agent {threshold.agent!r}; there are {', '.join(agents)}"
            )
        if threshold.is_ratio and (threshold.agent in bases or set(agents) <= set(bases)):
            raise ThresholdError(f"{threshold.text!r}: a ratio needs an agent other than the first, which is the base")


def outcomes_of_runs(thresholds: Iterable[Threshold], runs: Sequence[AgentRun]) -> list[Outcome]:
    """Return the outcomes of thresholds in a run. Ratios are those to the first agent."""
    found = []
    for threshold in thresholds:
        base = threshold.metric.of(runs[0]) if runs else None
        names = labels([run.agent for run in runs])
        for index, (name, run) in enumerate(zip(names, runs, strict=True)):
            if threshold.agent not in (None, name) or (threshold.is_ratio and index == 0):
                continue
            if threshold.target is not None:
                found.append(_outcome_of_target(threshold, name, run))
            elif threshold.is_ratio:
                value = threshold.metric.of(run)
                ratio = value / base if value is not None and base else None
                found.append(_outcome(threshold, name, ratio, "none" if ratio is None else f"{ratio:.3f}"))
            else:
                value = threshold.metric.of(run)
                found.append(_outcome(threshold, name, value, threshold.metric.text_of(run)))
    return found


def _outcome_of_target(threshold: Threshold, name: str, run: AgentRun) -> Outcome:
    targets = {target.name: target for target in run.targets}
    target = targets.get(threshold.target or "")
    if target is None:
        known = ", ".join(targets) or "none"
        return _outcome(threshold, name, None, f"there is no such target; there is {known}")
    value = None if threshold.metric.of_target is None else threshold.metric.of_target(target)
    return _outcome(threshold, name, value, threshold.metric.text_of_target(target))


def outcomes_of_comparison(
    thresholds: Iterable[Threshold], regressions: Iterable[Regression], comparison: Comparison
) -> list[Outcome]:
    """Return the outcomes of thresholds and regressions in a comparison."""
    by_metric = {figures.metric: figures.agents for figures in comparison.metrics}
    found = []
    for threshold in thresholds:
        figures = {figure.agent: figure for figure in by_metric.get(threshold.metric.name, ())}
        for agent in comparison.agents:
            if threshold.agent not in (None, agent):
                continue
            if not threshold.is_ratio:
                median = _median(comparison, agent, threshold.metric)
                found.append(_outcome(threshold, agent, median, threshold.metric.text(median)))
            elif (figure := figures.get(agent)) is not None and figure.base is not None:
                shown = "none" if figure.ratio is None else f"{figure.ratio:.3f}"
                found.append(_outcome(threshold, agent, figure.ratio, shown))
    for regression in regressions:
        for agent in comparison.agents:
            found += _regressions_of(agent, regression, by_metric)
    return found


def _regressions_of(
    agent: str, regression: Regression, by_metric: Mapping[str, Sequence[AgentFigure]]
) -> list[Outcome]:
    """Return an outcome for each broken regression of an agent, or one that says that there is none."""
    text = f"--max-regression {regression.text}"
    held = [
        (metric, figure)
        for metric in COMPARED
        for figure in by_metric.get(metric.name, ())
        if regression.metric in (None, metric) and figure.agent == agent and figure.base is not None
    ]
    broken = [
        Outcome(text, agent, f"{metric.name} {_with_interval(figure)} times that of {figure.base}", BROKEN)
        for metric, figure in held
        if regression.is_broken_by(metric, figure)
    ]
    if broken or not held:
        return broken
    needed = [figure.trials_needed for _, figure in held if figure.trials_needed is not None]
    if needed:
        return [Outcome(text, agent, f"too few trials: a verdict needs {max(needed)}", UNTOLD)]
    unknown = [metric.name for metric, figure in held if figure.verdict == CANNOT_TELL]
    if unknown:
        return [Outcome(text, agent, f"no {', '.join(unknown)} in some trials", UNTOLD)]
    return [Outcome(text, agent, "no larger regression", WITHIN)]


def _median(comparison: Comparison, agent: str, metric: Metric) -> float | None:
    values = [
        run.figures.get(metric.name) for trial in comparison.complete_trials for run in trial.runs if run.agent == agent
    ]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known and len(known) == len(values) else None


def _outcome(threshold: Threshold, agent: str, value: float | None, shown: str) -> Outcome:
    verdict = BROKEN if threshold.is_broken_by(value) else WITHIN
    return Outcome(threshold.text, agent, shown, verdict, threshold.sentence)


def _with_interval(figure: AgentFigure) -> str:
    return figure.ratio_text if figure.interval is None else f"{figure.ratio_text} ({figure.interval_text})"
