"""Made-up runs for the tests of comparisons: figures that are what the test says, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kabench.histogram import LatencyStats, TimesOfAll
from kabench.result import AgentRun, Client, Environment, RunResult, Sockets

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVIRONMENT = Environment(
    python="3.11.7",
    implementation="CPython",
    event_loop="uvloop",
    platform="Linux",
    cpu_model="made up",
    cpu_count=2,
    versions={"httptools": "0.6.4"},
)


def agent_run(
    agent: str = "keepalive",
    *,
    rate: float = 1000.0,
    p50_s: float | None = 0.005,
    p99_s: float | None = 0.01,
    cpu_us: float | None = 20.0,
    availability_pct: float = 100.0,
    req_per_socket: float = 100.0,
    **others: Any,
) -> AgentRun:
    """A run with these figures."""
    fields: dict[str, Any] = {
        "elapsed_s": 1.0,
        "transactions": int(rate),
        "successful_transactions": int(rate),
        "failed_transactions": 0,
        "socket_errors": 0,
        "data_transferred_bytes": 0,
        "throughput_mb_s": 0.0,
        "concurrency": 1.0,
    }
    return AgentRun(
        agent=agent,
        failed_pct=100 - availability_pct,
        availability_pct=availability_pct,
        transaction_rate=rate,
        response_time_all_s=TimesOfAll(answered_pct=availability_pct, p50=p50_s, p99=p99_s),
        response_time_s=LatencyStats(p50=p50_s, p99=p99_s),
        sockets=Sockets(created=10, requests=int(rate), req_per_socket=req_per_socket),
        client=Client(cpu_us_per_transaction=cpu_us),
        **{**fields, **others},
    )


def result_of(runs: Sequence[AgentRun], **others: Any) -> RunResult:
    """A record of these runs."""
    fields: dict[str, Any] = {
        "id": "0123456789ab",
        "name": "made up",
        "kabench_version": "0.1.0",
        "started_at": "2026-11-23T12:00:00Z",
        "environment": ENVIRONMENT,
        "plan": {"concurrency": 60, "requests": 1000, "agent_options": {"max_sockets": 50}, "seed": 1},
    }
    return RunResult(runs=list(runs), **{**fields, **others})
