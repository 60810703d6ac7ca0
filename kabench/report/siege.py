"""The report that siege prints after a run: twelve lines, with siege's labels and meanings (siege(1)).

Times have more decimals than siege's two, which answers of a few milliseconds would not show in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kabench.result import AgentRun, Sockets

_LABEL_WIDTH = 26
_VALUE_WIDTH = 12
_BYTES_PER_MB = 2**20


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def siege_lines(run: AgentRun) -> list[str]:
    """The twelve lines, from `Transactions:` to `Shortest transaction:`."""
    times = run.response_time_s
    rows = [
        ("Transactions", str(run.transactions), "hits"),
        ("Availability", f"{run.availability_pct:.2f}", "%"),
        ("Elapsed time", f"{run.elapsed_s:.2f}", "secs"),
        ("Data transferred", f"{run.data_transferred_bytes / _BYTES_PER_MB:.2f}", "MB"),
        ("Response time", _seconds(times.mean), "secs"),
        ("Transaction rate", f"{run.transaction_rate:.2f}", "trans/sec"),
        ("Throughput", f"{run.throughput_mb_s:.2f}", "MB/sec"),
        ("Concurrency", f"{run.concurrency:.2f}", ""),
        ("Successful transactions", str(run.successful_transactions), ""),
        ("Failed transactions", str(run.failed_transactions), ""),
        ("Longest transaction", _seconds(times.max), "secs"),
        ("Shortest transaction", _seconds(times.min), "secs"),
    ]
    return [f"{label + ':':<{_LABEL_WIDTH}}{value:>{_VALUE_WIDTH}} {unit}".rstrip() for label, value, unit in rows]


def socket_line(run: AgentRun) -> str:
    """What agentkeepalive's benchmark prints of its agents, with our name and the number of transactions in front."""
    return socket_line_of(run.agent, run.transactions, run.sockets)


def socket_line_of(agent: str, transactions: int, sockets: Sockets) -> str:
    """The same of an agent that is not, or not yet, in a run."""
    return (
        f"[kabench:{transactions}] {agent}, {sockets.created} created, {sockets.requests} requestFinished, "
        f"{sockets.req_per_socket:.2f} req/socket, {sockets.pending} requests, {sockets.active} sockets, "
        f"{sockets.free} unusedSockets, {sockets.timeouts} timeout"
    )
