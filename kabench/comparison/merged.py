"""Adds up several runs of one agent: counts are summed, histograms are added cell by cell, nothing is averaged."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kabench.histogram import Distribution, decoded_cells
from kabench.measured import Measured, agent_run_of, target_figures_of
from kabench.result import FAILED, HISTOGRAMS, INTERRUPTED, LAG, Sockets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kabench.histogram import LatencyStats
    from kabench.result import AgentRun, LoadFigures, Unanswered


def merged_runs(agent: str, runs: Sequence[AgentRun]) -> AgentRun:
    """Return all runs of an agent as one, named `agent`. It has no series and no workers: those belong to one run."""
    elapsed_s = sum(run.elapsed_s for run in runs)
    retries = [run.retries for run in runs if run.retries is not None]
    by_target: dict[str, list[LoadFigures]] = {}
    for run in runs:
        for target in run.targets:
            by_target.setdefault(target.name, []).append(target)
    return agent_run_of(
        agent=agent,
        elapsed_s=elapsed_s,
        interrupted=any(run.interrupted for run in runs),
        saturated=any(run.saturated for run in runs),
        measured=_measured(runs, not_started=sum(run.not_started for run in runs)),
        retries=sum(retries) if len(retries) == len(runs) else None,
        lag=_added_up([(run.hdr.get(LAG), run.lag_s) for run in runs]),
        buckets=_sums(run.buckets for run in runs),
        sockets=_sockets([run.sockets for run in runs]),
        cpu_s=sum(run.client.cpu_s for run in runs),
        max_rss_mb=max((run.client.max_rss_mb for run in runs), default=0.0),
        targets=[target_figures_of(name, _measured(each), elapsed_s) for name, each in by_target.items()],
    )


def _measured(parts: Sequence[LoadFigures], not_started: int = 0) -> Measured:
    """Return what was counted in all parts together."""
    wire_bytes = [part.data_wire_bytes for part in parts if part.data_wire_bytes is not None]
    kinds = dict.fromkeys(kind for part in parts for kind in part.unanswered)
    by_kind = {kind: [part.unanswered[kind] for part in parts if kind in part.unanswered] for kind in kinds}
    return Measured(
        transactions=sum(part.transactions for part in parts),
        failed_answers=sum(part.failed_transactions - part.socket_errors for part in parts),
        socket_errors=sum(part.socket_errors for part in parts),
        not_started=not_started,
        body_bytes=sum(part.data_transferred_bytes for part in parts),
        wire_bytes=sum(wire_bytes) if len(wire_bytes) == len(parts) else None,
        response_time_sum_s=sum(part.concurrency * part.elapsed_s for part in parts),
        distributions={
            **{name: _added_up([(part.hdr.get(name), of(part)) for part in parts]) for name, of in HISTOGRAMS.items()},
            FAILED: _failed_times(parts),
        },
        waits={kind: _added_up([(each.hdr or None, each.waited_s) for each in all_]) for kind, all_ in by_kind.items()},
        unsent=_unsent(by_kind),
        interrupted=sum(each.count for each in by_kind.get(INTERRUPTED, ())),
        status_codes=_sums(part.status_codes for part in parts),
        errors=_sums(part.errors for part in parts),
    )


def _failed_times(parts: Sequence[LoadFigures]) -> Distribution:
    """Return the times of all failed answers, as exact as the cells of their histograms."""
    whole = Distribution()
    for part in parts:
        if FAILED in part.hdr:
            whole.add(decoded_cells(part.hdr[FAILED]))
    return whole


def _unsent(by_kind: Mapping[str, Sequence[Unanswered]]) -> dict[str, int] | None:
    unsent: Counter[str] = Counter()
    for kind, each in by_kind.items():
        for unanswered in each:
            if unanswered.sent is None:
                return None
            unsent[kind] += unanswered.count - unanswered.sent
    return dict(unsent)


def _added_up(parts: Sequence[tuple[str | None, LatencyStats]]) -> Distribution:
    """Return all distributions together, or an empty one if a histogram is missing though its figures are there."""
    whole = Distribution()
    if any(encoded is None and stats.mean is not None for encoded, stats in parts):
        return whole
    for encoded, stats in parts:
        if encoded is not None:
            whole.add_encoded(encoded, stats)
    return whole


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for each in counts:
        for name, times in each.items():
            whole[name] += times  # unlike update(), this keeps a bucket that is 0 in all runs
    return dict(whole)


def _sockets(parts: Sequence[Sockets]) -> Sockets:
    sums: dict[str, Any] = {}
    for each in fields(Sockets):
        values = [getattr(part, each.name) for part in parts]
        if any(value is None for value in values):
            sums[each.name] = None  # one of the runs did not count it
        elif values and isinstance(values[0], dict):
            sums[each.name] = _sums(values)
        else:
            sums[each.name] = sum(values)
    return Sockets(**sums)


def notes_on(runs: Sequence[AgentRun]) -> list[str]:
    """Return notes on failures by kind, which the compared figures may not show."""
    return [
        f"{run.agent}: {run.failed_transactions} of {run.transactions + run.socket_errors} requests failed"
        f" ({', '.join(_failures(run))})."
        for run in runs
        if run.failed_transactions
    ]


def _failures(run: AgentRun) -> list[str]:
    kinds = [f"{times} {kind.replace('_', ' ')}" for kind, times in run.errors.items()]
    statuses = [f"{times} with status {status}" for status, times in run.status_codes.items() if int(status) >= 400]
    return [*kinds, *statuses]


def bottleneck_note(saturated: int, trials: int, what: str = "trials") -> str:
    """Return the note for trials in which kabench was saturated."""
    return (
        f"in {saturated} of {trials} {what} kabench used its cores to the full, or sent late: there the differences "
        "are those of the agents' cost, not of what the server can do."
    )
