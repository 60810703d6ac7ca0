"""The figures of a run by name: what thresholds, comparisons and reports call them, their unit, which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.result import AgentRun

Unit = Literal["", "s", "/s", "us", "%", "MB", "MB/s"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of an `AgentRun`; `of` gives None where the run has none. Times are seconds, whatever is shown."""

    name: str
    label: str
    unit: Unit
    better: Literal["higher", "lower"]
    of: Callable[[AgentRun], float | None]

    def text(self, value: float | None) -> str:
        """The figure as a report shows it."""
        if value is None:
            return "-"
        if self.unit == "s":
            return f"{value * 1000:.3f} ms"
        if self.unit == "":
            return f"{value:.0f}" if value == int(value) else f"{value:.2f}"
        if self.unit == "%":
            return f"{math.floor(value * 100) / 100:.2f}%"  # 99.999 % are not all
        return f"{value:.2f}{self.unit}" if self.unit == "/s" else f"{value:.2f} {self.unit}"


def _time(name: str, label: str) -> Metric:
    return Metric(name, f"Response time, {label}", "s", "lower", lambda run: getattr(run.response_time_s, name))


def _service_time(name: str) -> Metric:
    return Metric(
        f"service_{name}", f"Service time, {name}", "s", "lower", lambda run: getattr(run.service_time_s, name)
    )


def _count(name: str, label: str, better: Literal["higher", "lower"] = "lower") -> Metric:
    return Metric(name, label, "", better, lambda run: getattr(run, name))


_ALL = (
    Metric("transaction_rate", "Transaction rate", "/s", "higher", lambda run: run.transaction_rate),
    _time("p50", "p50"),
    _time("p75", "p75"),
    _time("p90", "p90"),
    _time("p95", "p95"),
    _time("p99", "p99"),
    _time("p99_9", "p99.9"),
    _time("p99_99", "p99.99"),
    _time("mean", "mean"),
    _time("max", "longest"),
    _service_time("p50"),
    _service_time("p90"),
    _service_time("p99"),
    Metric("lag_p99", "Lag, p99", "s", "lower", lambda run: run.lag_s.p99),
    Metric("queue_p99", "Waiting for a socket, p99", "s", "lower", lambda run: run.phases.queue.p99),
    Metric("req_per_socket", "Requests a socket", "", "higher", lambda run: run.sockets.req_per_socket),
    Metric(
        "cpu_us_per_transaction",
        "CPU a transaction",
        "us",
        "lower",
        lambda run: run.client.cpu_us_per_transaction,
    ),
    Metric("availability", "Availability", "%", "higher", lambda run: run.availability_pct),
    Metric("throughput_mb_s", "Throughput", "MB/s", "higher", lambda run: run.throughput_mb_s),
    Metric("max_rss_mb", "Memory", "MB", "lower", lambda run: run.client.max_rss_mb),
    _count("transactions", "Transactions", "higher"),
    _count("successful_transactions", "Successful transactions", "higher"),
    _count("failed_transactions", "Failed transactions"),
    _count("socket_errors", "Socket errors"),
    _count("retries", "Retries"),
    _count("not_started", "Not started"),
    Metric("sockets_created", "Sockets created", "", "lower", lambda run: run.sockets.created),
    Metric("stale_sockets", "Requests that met a stale socket", "", "lower", lambda run: run.sockets.stale),
)

METRICS = {metric.name: metric for metric in _ALL}
"""All of them, by name."""

COMPARED = tuple(
    METRICS[name]
    for name in ("transaction_rate", "p50", "p99", "req_per_socket", "cpu_us_per_transaction", "availability")
)
"""Those that a comparison judges. Each more costs all others certainty, so they are few."""
