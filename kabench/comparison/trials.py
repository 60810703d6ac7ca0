"""`compare`: runs the trials of a comparison, until there are enough of them.

A trial runs each agent once. Every second trial has the reverse order (A B, B A, A B, ...), so steady changes of the
machine, such as getting warm or slow, favour no agent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING

from kabench.comparison.looks import Look, last_look, planned_looks
from kabench.comparison.merged import bottleneck_note, merged_runs, notes_on
from kabench.comparison.record import Comparison, Trial, TrialRun
from kabench.comparison.statistics import LEVEL
from kabench.comparison.verdicts import Sides, is_settled, judged, most_questions
from kabench.load import MeasurementError, PlanError, RunControl, TargetUnreachableError, check_agents, run
from kabench.result import labels, new_id, now_as_text
from kabench.server import ServerError
from kabench.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kabench.load import AgentProgress, LoadPlan
    from kabench.result import AgentRun, RunResult

DEFAULT_MAX_TIME_S = 180.0
DEFAULT_MARGIN = 0.02

_RECKONED_BY = 3
"""After this many trials the number that fits into the time is settled, before any figure is looked at."""


class ComparisonError(ValueError):
    """A comparison cannot be made; the message says why."""


class ComparisonStoppedError(RuntimeError):
    """A comparison could not be finished. `comparison` holds what was measured until then."""

    def __init__(self, why: str, comparison: Comparison) -> None:
        super().__init__(why)
        self.comparison = comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When a comparison has enough trials: after `trials` of them, or when it is certain, but not after `max_time_s`.

    It is certain when each metric differs, or is sure to differ by no more than `margin` (0.02 is 2 %). This is checked
    after 12 trials and then ever less often. The first three trials say how many fit into the time. Give at least one
    of `trials` and `max_time_s`; with `trials`, the comparison never stops because of its figures. Raises
    `ComparisonError` for values that make no sense.
    """

    trials: int | None = None
    max_time_s: float | None = None
    margin: float = DEFAULT_MARGIN

    def __post_init__(self) -> None:
        if self.trials is None and self.max_time_s is None:
            raise ComparisonError("trials or max_time: give at least one; it says when the comparison ends")
        if self.trials is not None and self.trials < 1:
            raise ComparisonError(f"trials: {self.trials} is below 1")
        if self.max_time_s is not None and not self.max_time_s > 0:
            raise ComparisonError(f"max_time: {self.max_time_s:g} is not above 0")
        if not 0 < self.margin < 1:
            raise ComparisonError(f"margin: {100 * self.margin:g}% is not between 0 and 100%")

    def most_trials(self, trial_s: float) -> int:
        """Return how many trials there will be at most, if one takes `trial_s`."""
        if self.trials is not None or self.max_time_s is None:
            return self.trials or 1
        return max(1, int(self.max_time_s / trial_s))


@dataclass(frozen=True, slots=True)
class TrialProgress:
    """A finished trial: the `number`-th, counted from 1, of at most `most_trials`."""

    trial: Trial
    number: int
    most_trials: int


def compare(
    plan: LoadPlan,
    agents: Sequence[str],
    *,
    trials: int | None = None,
    max_time_s: float | None = None,
    margin: float = DEFAULT_MARGIN,
    name: str | None = None,
    on_trial: Callable[[TrialProgress], None] | None = None,
    on_progress: Callable[[AgentProgress], None] | None = None,
    keep: Callable[[RunResult], None] | None = None,
    control: RunControl | None = None,
) -> Comparison:
    """Compare agents with the first of them, by interleaved trials, each a full run of the plan.

    It ends after `trials`, or when it is certain (see `StopRule`), or when another trial would end after `max_time_s`
    (180 if neither is given). It calls `keep` with each trial's whole record. Needs scipy (`kabench[compare]`).

    Raises `ComparisonError` for fewer than two agents, the errors of `kabench.run` if nothing could be measured, and
    `ComparisonStoppedError`, with what was measured, if a trial could not be finished.
    """
    if trials is None and max_time_s is None:
        max_time_s = DEFAULT_MAX_TIME_S
    rule = StopRule(trials=trials, max_time_s=max_time_s, margin=margin)
    if len(agents) < 2:
        raise ComparisonError("agents: a comparison needs at least two, the first as the base")
    control = control or RunControl()

    def measure(agent: str) -> RunResult:
        return run(plan, [agent], name=name or "compare", on_progress=on_progress, control=control)

    check_agents(plan, agents)
    trials_of = Trials(agents, measure, rule, on_trial=on_trial, keep=keep, is_stopped=lambda: control.stopped)
    return trials_of.carry_out(plan.as_record(), name or "compare")


@dataclass(slots=True)
class _Side:
    """One agent's part: all its runs, and the figures of its runs in complete trials."""

    spec: str
    runs: list[AgentRun] = field(default_factory=list)
    figures: list[dict[str, float | None]] = field(default_factory=list)


class Trials:
    """The trials of one comparison. `measure` runs an agent once; `clock` returns seconds."""

    def __init__(
        self,
        agents: Sequence[str],
        measure: Callable[[str], RunResult],
        rule: StopRule,
        *,
        on_trial: Callable[[TrialProgress], None] | None = None,
        keep: Callable[[RunResult], None] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._sides = dict(zip(labels(agents), (_Side(agent) for agent in agents), strict=True))
        self._measure = measure
        self._rule = rule
        self._on_trial = on_trial
        self._keep = keep
        self._is_stopped = is_stopped
        self._clock = clock
        self._trials: list[Trial] = []
        self._complete = 0
        self._last_result: RunResult | None = None
        self._problem: str | None = None

    def carry_out(self, plan: dict[str, object], name: str) -> Comparison:
        """Run all trials, and return the comparison. Raises as `compare` does."""
        began_at, started_at = self._clock(), now_as_text()
        looks: list[Look] = []
        done: Look | None = None
        most = 0
        while self._run_trial(backwards=len(self._trials) % 2 == 1):
            elapsed_s = self._clock() - began_at
            if self._complete <= _RECKONED_BY:
                most = self._rule.most_trials(elapsed_s / self._complete)
                looks = self._looks(most)
            if self._on_trial is not None:
                self._on_trial(TrialProgress(self._trials[-1], self._complete, most))
            if self._complete >= most or not self._has_time_for_another(elapsed_s):
                break
            now = [look for look in looks if look.trials == self._complete]
            if now and is_settled(self._as_sides(), now[0].level, self._rule.margin):
                done = now[0]
                break
        if done is None:
            done = last_look(self._complete, [look for look in looks if look.trials < self._complete], LEVEL)
        if self._last_result is None:
            raise ComparisonError("stopped before anything was measured")
        comparison = self._comparison(self._last_result, done, plan, name, started_at, self._clock() - began_at)
        if self._problem is not None:
            raise ComparisonStoppedError(self._problem, comparison)
        return comparison

    def _looks(self, most_trials: int) -> list[Look]:
        """Return when to look: only once, at the end, if the number of trials is fixed."""
        if self._rule.trials is not None:
            return [Look(most_trials, LEVEL)]
        return planned_looks(most_trials, LEVEL, most_questions(len(self._sides)))

    def _has_time_for_another(self, elapsed_s: float) -> bool:
        limit_s = self._rule.max_time_s
        return limit_s is None or elapsed_s + elapsed_s / self._complete <= limit_s

    def _run_trial(self, *, backwards: bool) -> bool:
        """Run each agent once. Return whether the trial is complete."""
        measured: dict[str, TrialRun] = {}
        self._trials.append(Trial(runs=[]))
        for label, side in reversed(self._sides.items()) if backwards else self._sides.items():
            if self._is_stopped():
                return False
            try:
                result = self._measure(side.spec)
            except MeasurementError as error:
                self._problem, result = f"trial {len(self._trials)}: {error}", error.result
            except (PlanError, ServerError, TargetUnreachableError) as error:
                if self._last_result is None:
                    raise
                self._problem = f"trial {len(self._trials)}: {label}: {error}"
                return False
            self._last_result = result
            if self._keep is not None:
                self._keep(result)
            one = TrialRun.of(label, result, result.runs[0])
            if self._problem is not None:
                one = replace(one, interrupted=True)
            self._trials[-1].runs.append(one)
            side.runs.append(result.runs[0])
            measured[label] = one
            if self._problem is not None or one.interrupted:
                return False
        for label, one in measured.items():
            self._sides[label].figures.append(one.figures)
        self._complete += 1
        return True

    def _as_sides(self) -> Sides:
        base = next(iter(self._sides))
        return Sides(
            figures={label: side.figures for label, side in self._sides.items()},
            bases={label: None if label == base else base for label in self._sides},
        )

    def _comparison(
        self,
        last: RunResult,
        look: Look,
        plan: dict[str, object],
        name: str,
        started_at: str,
        elapsed_s: float,
    ) -> Comparison:
        trials = [trial for trial in self._trials if trial.runs]
        merged = [merged_runs(label, side.runs) for label, side in self._sides.items() if side.runs]
        saturated = sum(any(each.saturated for each in trial.runs) for trial in trials)
        return Comparison(
            id=new_id(),
            name=name,
            kabench_version=__version__,
            started_at=started_at,
            elapsed_s=round(elapsed_s, 3),
            environment=last.environment,
            agents=list(self._sides),
            plan=plan,
            interrupted=self._problem is None and self._is_stopped(),
            problem=self._problem,
            trials=trials,
            metrics=judged(self._as_sides(), look.level),
            runs=merged,
            notes=[
                *([] if self._complete else ["no trial was completed, so there is nothing to compare."]),
                *notes_on(merged),
                *([bottleneck_note(saturated, len(trials))] if saturated else []),
            ],
        )
