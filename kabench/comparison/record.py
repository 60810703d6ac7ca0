"""`Comparison`: the record of a comparison, and its file format `kabench/comparison/1`.

It has the figures of every trial and the verdicts on them, and, for reports, all trials of an agent added up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kabench.metrics import METRICS
from kabench.result import AgentRun, Environment, check_run, decode_record, read_file, record_schema, record_to_json

if TYPE_CHECKING:
    import os

    from kabench.result import RunResult

SCHEMA = "kabench/comparison/1"

BETTER: Literal["better"] = "better"
WORSE: Literal["worse"] = "worse"
NO_DIFFERENCE: Literal["no difference found"] = "no difference found"
CANNOT_TELL: Literal["cannot tell"] = "cannot tell"

Verdict = Literal["better", "worse", "no difference found", "cannot tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRun:
    """One agent's part of a trial. `id` is that of its `RunResult`; `figures` have the names of `METRICS`."""

    agent: str
    id: str
    started_at: str
    figures: dict[str, float | None]
    saturated: bool = False
    interrupted: bool = False

    @classmethod
    def of(cls, label: str, result: RunResult, run: AgentRun) -> TrialRun:
        """Return what a comparison keeps of one run of a record."""
        return cls(
            agent=label,
            id=result.id,
            started_at=result.started_at,
            figures={name: metric.of(run) for name, metric in METRICS.items()},
            saturated=run.saturated,
            interrupted=run.interrupted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of each agent, in the order in which they ran."""

    runs: list[TrialRun]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFigure:
    """One agent's figure of one metric. `base` is the agent it is compared with; for a base, it and the rest are None.

    `ratio` is the agent's figure divided by the base's. `interval` is its 95 % confidence interval, None if there are
    too few trials for one. `trials_needed` is the least number of trials for a verdict, if it is "cannot tell" because
    there are too few.
    """

    agent: str
    median: float | None
    base: str | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    verdict: Verdict | None = None
    trials_needed: int | None = None

    @property
    def ratio_text(self) -> str:
        """The ratio with its significant digits."""
        return "-" if self.ratio is None else _shown(self.ratio)

    @property
    def interval_text(self) -> str:
        """The interval, from its low end to its high end."""
        return "-" if self.interval is None else f"{_shown(self.interval[0])}-{_shown(self.interval[1])}"


def _shown(ratio: float) -> str:
    return f"{ratio:.3f}" if 0.1 <= ratio < 10 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFigures:
    """One metric's figures of all agents."""

    metric: str
    agents: list[AgentFigure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A whole comparison. `agents` are labels: an agent that takes part twice has a number behind its spec.

    `paired` says whether a trial's figures were measured in turn. `runs` has one run an agent, all its runs added up,
    without series. `notes` are warnings. `problem` says why the comparison could not be finished; `interrupted` says
    that the user stopped it.
    """

    schema: str = SCHEMA
    id: str
    name: str
    kabench_version: str
    started_at: str
    elapsed_s: float
    environment: Environment
    agents: list[str]
    plan: dict[str, Any]  # as in a RunResult
    paired: bool = True
    interrupted: bool = False
    problem: str | None = None
    trials: list[Trial]
    metrics: list[MetricFigures]
    runs: list[AgentRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete_trials(self) -> list[Trial]:
        """The trials that were finished. Figures and verdicts are made from these."""
        return [
            trial
            for trial in self.trials
            if not any(run.interrupted for run in trial.runs)
            and (not self.paired or len(trial.runs) == len(self.agents))
        ]

    def figure(self, metric: str, agent: str | None = None) -> AgentFigure:
        """Return a metric's figure of an agent; without an agent, of the first that is compared with another.

        Raises `KeyError` if the comparison has no such metric or agent.
        """
        for figures in self.metrics:
            if figures.metric == metric:
                for figure in figures.agents:
                    if figure.agent == agent or (agent is None and figure.base is not None):
                        return figure
        raise KeyError(metric if agent is None else f"{agent}: {metric}")

    def verdict(self, metric: str, agent: str | None = None) -> Verdict:
        """Return a metric's verdict on an agent; the arguments are those of `figure`. Raises `KeyError` for a base."""
        verdict = self.figure(metric, agent).verdict
        if verdict is None:
            raise KeyError(f"{agent} is a base, with which others are compared")
        return verdict

    def to_json(self) -> bytes:
        """Return the record as a JSON document, indented."""
        return record_to_json(self)


def comparison_schema() -> bytes:
    """Return the JSON Schema (draft 2020-12) of the record, as in `results/`."""
    return record_schema(Comparison, SCHEMA, "The record of a comparison of agents.")


def parse_comparison(document: bytes, where: str) -> Comparison:
    """Read a record. Raises `ResultError`, naming `where` it came from, if it is not one."""
    comparison = decode_record(document, where, Comparison, SCHEMA)
    for run in comparison.runs:
        check_run(run, where)
    return comparison


def load_comparison(path: str | os.PathLike[str]) -> Comparison:
    """Read a record from a file. Raises `ResultError` if the file cannot be read, or is not a record."""
    return parse_comparison(read_file(path), str(path))
