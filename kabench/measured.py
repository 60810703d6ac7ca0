"""`Measured`: what was counted of a load, and the figures that are made of it. No figure is computed anywhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from kabench.histogram import Distribution
from kabench.result import (
    ANSWERED_KINDS,
    BYTES_PER_MB,
    FAILED,
    HISTOGRAMS,
    INTERRUPTED,
    LAG,
    AgentRun,
    Client,
    Phases,
    Sockets,
    TargetFigures,
    Unanswered,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kabench.result import SeriesPoint, WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was counted of a load, or of one target. `figures_of` and `agent_run_of` make all figures of it.

    `failed_answers` is the number of transactions that count as failed. `distributions` have the names of `HISTOGRAMS`,
    and `FAILED`; `waits` and `unsent` are by kind of error, as in `errors`. `unsent` is None if the client does not
    tell what it has sent.
    """

    transactions: int
    failed_answers: int
    socket_errors: int
    not_started: int
    body_bytes: int
    wire_bytes: int | None
    response_time_sum_s: float
    distributions: Mapping[str, Distribution]
    waits: Mapping[str, Distribution]
    unsent: Mapping[str, int] | None
    interrupted: int
    status_codes: dict[str, int]
    errors: dict[str, int]


def _figures_of(measured: Measured, elapsed_s: float) -> dict[str, Any]:
    """Return the fields of `LoadFigures`. No figure is computed anywhere else."""
    total = measured.distributions["total"]
    failed_times = measured.distributions[FAILED]
    stats = {name: measured.distributions[name].stats() for name in HISTOGRAMS}
    due = measured.transactions + measured.socket_errors + measured.not_started
    failed = measured.failed_answers + measured.socket_errors + measured.not_started
    waits = Distribution()
    for kind, waited in measured.waits.items():
        if kind != INTERRUPTED:
            waits.add_all(waited)
    transactions = measured.transactions
    return {
        "elapsed_s": round(elapsed_s, 6),
        "transactions": transactions,
        "successful_transactions": transactions - measured.failed_answers,
        "failed_transactions": measured.failed_answers + measured.socket_errors,
        "socket_errors": measured.socket_errors,
        "failed_pct": round(100 * failed / due, 6) if due else None,
        "availability_pct": share_of(100 * transactions, transactions + measured.socket_errors),
        "data_transferred_bytes": measured.body_bytes,
        "data_wire_bytes": measured.wire_bytes,
        "transaction_rate": share_of(transactions, elapsed_s),
        "throughput_mb_s": share_of(measured.body_bytes / BYTES_PER_MB, elapsed_s),
        "concurrency": share_of(measured.response_time_sum_s, elapsed_s),
        "response_time_all_s": total.with_unanswered(measured.socket_errors + measured.not_started, waits),
        "response_time_s": stats["total"],
        "successful_response_time_s": total.without(failed_times).stats() if failed_times.count else stats["total"],
        "service_time_s": stats["service"],
        "phases": Phases(**{phase.name: stats[phase.name] for phase in fields(Phases)}),
        "hdr": {name: each.encoded() for name, each in measured.distributions.items() if each.count},
        "status_codes": measured.status_codes,
        "errors": measured.errors,
        "unanswered": _unanswered_of(measured),
    }


def _unanswered_of(measured: Measured) -> dict[str, Unanswered]:
    counts = {kind: times for kind, times in measured.errors.items() if kind not in ANSWERED_KINDS}
    if measured.interrupted:
        counts[INTERRUPTED] = measured.interrupted
    found = {}
    for kind, count in sorted(counts.items()):
        waited = measured.waits.get(kind, Distribution())
        found[kind] = Unanswered(
            count=count,
            sent=None if measured.unsent is None else count - measured.unsent.get(kind, 0),
            waited_s=waited.stats(),
            hdr=waited.encoded() if waited.count else "",
        )
    return found


def target_figures_of(name: str, measured: Measured, elapsed_s: float) -> TargetFigures:
    """Return the figures of one target."""
    return TargetFigures(name=name, **_figures_of(measured, elapsed_s))


def agent_run_of(
    *,
    agent: str,
    elapsed_s: float,
    interrupted: bool,
    stopped_by: str = "",
    saturated: bool,
    measured: Measured,
    retries: int | None,
    lag: Distribution,
    buckets: dict[str, int],
    sockets: Sockets,
    cpu_s: float,
    max_rss_mb: float,
    targets: Sequence[TargetFigures] = (),
    workers: Sequence[WorkerRecord] = (),
    series: Sequence[SeriesPoint] = (),
) -> AgentRun:
    """Return a run with all figures, made from what was counted."""
    figures = _figures_of(measured, elapsed_s)
    if lag.count:
        figures["hdr"][LAG] = lag.encoded()
    transactions = measured.transactions
    return AgentRun(
        agent=agent,
        interrupted=interrupted,
        stopped_by=stopped_by,
        saturated=saturated,
        retries=retries,
        not_started=measured.not_started,
        lag_s=lag.stats(),
        buckets=buckets,
        sockets=replace(sockets, req_per_socket=_per_socket(sockets)),
        targets=list(targets),
        series=list(series),
        client=Client(
            cpu_s=round(cpu_s, 6),
            cpu_us_per_transaction=round(cpu_s * 1e6 / transactions, 3) if transactions else None,
            max_rss_mb=round(max_rss_mb, 1),
            workers=list(workers),
        ),
        **figures,
    )


def _per_socket(sockets: Sockets) -> float | None:
    if sockets.created is None or sockets.requests is None:
        return None
    return share_of(sockets.requests, sockets.created)


def share_of(part: float, whole: float) -> float:
    """Return part / whole to six decimals, or 0 if the whole is 0."""
    return round(part / whole, 6) if whole else 0.0
