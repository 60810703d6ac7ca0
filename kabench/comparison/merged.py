"""Several runs of one agent added up: counts are sums, histograms are added cell by cell, nothing is averaged."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kabench.histogram import Distribution
from kabench.result import AgentRun, Client, Phases, Sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kabench.histogram import LatencyStats

_BYTES_PER_MB = 2**20


def merged_runs(agent: str, runs: Sequence[AgentRun]) -> AgentRun:
    """All runs of an agent as one, under the name `agent`; a series and workers are a single run's, so it has none."""
    elapsed_s = sum(run.elapsed_s for run in runs)
    transactions = sum(run.transactions for run in runs)
    socket_errors = sum(run.socket_errors for run in runs)
    data_bytes = sum(run.data_transferred_bytes for run in runs)
    cpu_s = sum(run.client.cpu_s for run in runs)
    whole = {phase: _added_up([(run.hdr.get(phase), of(run)) for run in runs]) for phase, of in _PHASES.items()}
    stats = {phase: distribution.stats() for phase, distribution in whole.items()}
    return AgentRun(
        agent=agent,
        elapsed_s=elapsed_s,
        interrupted=any(run.interrupted for run in runs),
        saturated=any(run.saturated for run in runs),
        transactions=transactions,
        successful_transactions=sum(run.successful_transactions for run in runs),
        failed_transactions=sum(run.failed_transactions for run in runs),
        socket_errors=socket_errors,
        retries=sum(run.retries for run in runs),
        not_started=sum(run.not_started for run in runs),
        availability_pct=_share(100 * transactions, transactions + socket_errors),
        data_transferred_bytes=data_bytes,
        transaction_rate=_share(transactions, elapsed_s),
        throughput_mb_s=_share(data_bytes / _BYTES_PER_MB, elapsed_s),
        concurrency=_share(sum(run.concurrency * run.elapsed_s for run in runs), elapsed_s),
        response_time_s=stats["total"],
        service_time_s=stats["service"],
        lag_s=stats["lag"],
        phases=Phases(
            queue=stats["queue"], connect=stats["connect"], first_byte=stats["first_byte"], total=stats["total"]
        ),
        buckets=_sums(run.buckets for run in runs),
        hdr={phase: distribution.encoded() for phase, distribution in whole.items() if distribution.count},
        sockets=_sockets([run.sockets for run in runs]),
        status_codes=_sums(run.status_codes for run in runs),
        errors=_sums(run.errors for run in runs),
        client=Client(
            cpu_s=cpu_s,
            cpu_us_per_transaction=cpu_s * 1e6 / transactions if transactions else None,
            max_rss_mb=max((run.client.max_rss_mb for run in runs), default=0.0),
        ),
    )


_PHASES: dict[str, Callable[[AgentRun], LatencyStats]] = {
    "total": lambda run: run.response_time_s,
    "service": lambda run: run.service_time_s,
    "lag": lambda run: run.lag_s,
    "queue": lambda run: run.phases.queue,
    "connect": lambda run: run.phases.connect,
    "first_byte": lambda run: run.phases.first_byte,
}
"""Of each histogram, the figures that belong to it."""


def _added_up(parts: Sequence[tuple[str | None, LatencyStats]]) -> Distribution:
    """All of them together; nothing where one is missing that had something to say."""
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
            whole[name] += times  # not update(): a bucket with 0 in all stays one
    return dict(whole)


def _sockets(parts: Sequence[Sockets]) -> Sockets:
    counts: dict[str, Any] = {
        field.name: sum(getattr(part, field.name) for part in parts)
        for field in fields(Sockets)
        if field.name not in ("req_per_socket", "stale", "closed_by")
    }
    stale = [part.stale for part in parts if part.stale is not None]
    closed_by = [part.closed_by for part in parts if part.closed_by is not None]
    return Sockets(
        **counts,
        req_per_socket=_share(counts["requests"], counts["created"]),
        stale=sum(stale) if len(stale) == len(parts) else None,
        closed_by=_sums(closed_by) if len(closed_by) == len(parts) else None,
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def notes_on(runs: Sequence[AgentRun]) -> list[str]:
    """What to mind of these runs, which no figure that is compared may show: failures, of which kind."""
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
    """What to mind where kabench was saturated."""
    return (
        f"in {saturated} of {trials} {what} kabench used its cores to the full, or was late: what differs there is "
        "what the agents cost, not what the server can do."
    )
