"""`diff`: compares saved records, old ones with new ones.

They were not measured in turn, so they are no pairs, and the ratio contains what the machine did between them; the
comparison says so. Records of different plans answer different questions, and are compared only with `force`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from kabench.comparison.merged import bottleneck_note, merged_runs, notes_on
from kabench.comparison.record import Comparison, Trial, TrialRun
from kabench.comparison.verdicts import Sides, judged
from kabench.result import new_id
from kabench.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kabench.result import AgentRun, Environment, RunResult

_SAME_WHATEVER_THE_PLAN = frozenset({"seed"})
_SHOWN_DIFFERENCES = 6


class DifferentPlansError(ValueError):
    """The records are not of the same load. `differences` lists how their plans differ."""

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = list(differences)


class NothingInCommonError(ValueError):
    """No agent is in both the old and the new records."""


def diff(
    old: Sequence[RunResult], new: Sequence[RunResult], *, force: bool = False, name: str | None = None
) -> Comparison:
    """Compare new records with old ones, agent by agent. If each side has only one agent, the two may differ.

    Needs scipy (`kabench[compare]`). Raises `DifferentPlansError` if their plans differ, unless `force`, and
    `NothingInCommonError` if no agent is in both.
    """
    differences = plan_differences([*old, *new])
    if differences and not force:
        raise DifferentPlansError(differences)
    runs = _sides(old, new)
    trials = {label: [TrialRun.of(label, *each) for each in measured] for label, measured in runs.items()}
    merged = [merged_runs(label, [run for _, run in measured]) for label, measured in runs.items()]
    everything = [*old, *new]
    return Comparison(
        id=new_id(),
        name=name or "diff",
        kabench_version=__version__,
        started_at=min(result.started_at for result in everything),
        elapsed_s=sum(run.elapsed_s for side in runs.values() for _, run in side),
        environment=new[-1].environment,
        agents=list(runs),
        plan=new[-1].plan,
        paired=False,
        trials=[Trial(runs=[each]) for part in trials.values() for each in part],
        metrics=judged(_as_sides(trials)),
        runs=merged,
        notes=[
            *notes_on(merged),
            *_notes(old, new, list(runs)),
            *(f"the plans differ: {difference}" for difference in differences),
        ],
    )


def _sides(old: Sequence[RunResult], new: Sequence[RunResult]) -> dict[str, list[tuple[RunResult, AgentRun]]]:
    """Return the runs by label, each old agent before its new one."""
    by_agent_old, by_agent_new = _by_agent(old), _by_agent(new)
    if len(by_agent_old) == 1 and len(by_agent_new) == 1:
        (was,), (is_now,) = by_agent_old, by_agent_new
        pairs = [(was, is_now)]
    else:
        pairs = [(agent, agent) for agent in by_agent_old if agent in by_agent_new]
    if not pairs:
        raise NothingInCommonError(
            f"no agent is in both: {', '.join(by_agent_old)} in the old, {', '.join(by_agent_new)} in the new"
        )
    sides = {}
    for was, is_now in pairs:
        sides[f"old {was}"] = by_agent_old[was]
        sides[f"new {is_now}"] = by_agent_new[is_now]
    return sides


def _by_agent(results: Sequence[RunResult]) -> dict[str, list[tuple[RunResult, AgentRun]]]:
    found: dict[str, list[tuple[RunResult, AgentRun]]] = {}
    for result in results:
        for run in result.runs:
            found.setdefault(run.agent, []).append((result, run))
    return found


def _as_sides(trials: Mapping[str, Sequence[TrialRun]]) -> Sides:
    names = list(trials)
    return Sides(
        figures={label: [each.figures for each in part] for label, part in trials.items()},
        bases={label: None if index % 2 == 0 else names[index - 1] for index, label in enumerate(names)},
        paired=False,
    )


def plan_differences(results: Sequence[RunResult]) -> list[str]:
    """Return how the plans differ, field by field. Fields that an older kabench did not know are ignored."""
    found = []
    flat = [_flat(result.plan) for result in results]
    for name in sorted(set().union(*flat) - _SAME_WHATEVER_THE_PLAN):
        values = list(dict.fromkeys(_shown(plan[name]) for plan in flat if name in plan))
        if len(values) > 1:
            found.append(f"{name} is {' and '.join(values)}")
    return found


def _flat(plan: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name, value in plan.items():
        if isinstance(value, dict):
            whole |= _flat(value, f"{prefix}{name}.")
        else:
            whole[prefix + name] = value
    return whole


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _notes(old: Sequence[RunResult], new: Sequence[RunResult], compared: Sequence[str]) -> list[str]:
    everything = [*old, *new]
    saturated = sum(any(run.saturated for run in result.runs) for result in everything)
    left_out = [
        label
        for label in (*(f"old {agent}" for agent in _by_agent(old)), *(f"new {agent}" for agent in _by_agent(new)))
        if label not in compared
    ]
    versions = list(dict.fromkeys(result.kabench_version for result in everything))
    without_plan = sum(not result.plan for result in everything)
    notes = [
        *([bottleneck_note(saturated, len(everything), "records")] if saturated else []),
        *([f"left out, because the other side does not have them: {', '.join(left_out)}"] if left_out else []),
        *([f"made by kabench {' and '.join(versions)}"] if len(versions) > 1 else []),
        *([f"{without_plan} of {len(everything)} records do not have their plan"] if without_plan else []),
    ]
    notes += [
        f"their environments differ: {difference}"
        for difference in _environment_differences([result.environment for result in (*old, *new)])
    ]
    lost = sum(any(w.lost_at_s is not None for run in result.runs for w in run.client.workers) for result in everything)
    if lost:
        notes.append(f"in {lost} of {len(everything)} records a worker was lost, and with it a part of the load")
    repeated = [id_ for id_, times in Counter(result.id for result in (*old, *new)).items() if times > 1]
    if repeated:
        notes.append(f"a record was given more than once ({', '.join(repeated)}), which adds no information")
    if max(r.started_at for r in old) < min(r.started_at for r in new) or max(r.started_at for r in new) < min(
        r.started_at for r in old
    ):
        notes.append(
            "old and new were not measured in turn, so the ratios contain what the machine did between them; "
            "kabench compare measures in turn"
        )
    return notes


def _environment_differences(environments: Sequence[Environment]) -> list[str]:
    found = []
    for name in ("python", "implementation", "event_loop", "platform", "cpu_model", "cpu_count"):
        values = list(dict.fromkeys(str(getattr(environment, name)) for environment in environments))
        if len(values) > 1:
            found.append(f"{name.replace('_', ' ')} {' and '.join(values)}")
    packages = sorted({package for environment in environments for package in environment.versions})
    for package in packages:
        versions = list(dict.fromkeys(environment.versions.get(package, "none") for environment in environments))
        if len(versions) > 1:
            found.append(f"{package} {' and '.join(versions)}")
    left = len(found) - _SHOWN_DIFFERENCES
    more = [f"{left} more difference{'' if left == 1 else 's'}"] if left > 0 else []
    return found[:_SHOWN_DIFFERENCES] + more
