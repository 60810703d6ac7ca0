"""Adds up several runs of one agent: counts are summed, histograms are added cell by cell, nothing is averaged."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kabench.histogram import Distribution
from kabench.result import HISTOGRAMS, Sockets, agent_run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kabench.histogram import LatencyStats
    from kabench.result import AgentRun


def merged_runs(agent: str, runs: Sequence[AgentRun]) -> AgentRun:
    """Return all runs of an agent as one, named `agent`. It has no series and no workers: those belong to one run."""
    return agent_run_of(
        agent=agent,
        elapsed_s=sum(run.elapsed_s for run in runs),
        interrupted=any(run.interrupted for run in runs),
        saturated=any(run.saturated for run in runs),
        transactions=sum(run.transactions for run in runs),
        failed_answers=sum(run.failed_transactions - run.socket_errors for run in runs),
        socket_errors=sum(run.socket_errors for run in runs),
        retries=sum(run.retries for run in runs),
        not_started=sum(run.not_started for run in runs),
        body_bytes=sum(run.data_transferred_bytes for run in runs),
        response_time_sum_s=sum(run.concurrency * run.elapsed_s for run in runs),
        distributions={
            name: _added_up([(run.hdr.get(name), stats_of(run)) for run in runs])
            for name, stats_of in HISTOGRAMS.items()
        },
        buckets=_sums(run.buckets for run in runs),
        sockets=_sockets([run.sockets for run in runs]),
        status_codes=_sums(run.status_codes for run in runs),
        errors=_sums(run.errors for run in runs),
        cpu_s=sum(run.client.cpu_s for run in runs),
        max_rss_mb=max((run.client.max_rss_mb for run in runs), default=0.0),
    )


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
