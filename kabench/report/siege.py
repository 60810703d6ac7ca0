"""The report that siege prints after a run: twelve lines, with siege's labels and meanings (siege(1)).

Times have more decimals than siege's two, which are too few for answers of a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kabench.metrics import SIEGE_LINES

if TYPE_CHECKING:
    from kabench.result import AgentRun, Sockets

_LABEL_WIDTH = 26
_VALUE_WIDTH = 12


def siege_lines(run: AgentRun) -> list[str]:
    """Return the twelve lines, from `Transactions:` to `Shortest transaction:`."""
    lines = []
    for metric, line in SIEGE_LINES:
        value = metric.of(run)
        text = "-" if value is None else f"{value:.{line.decimals}f}"
        lines.append(f"{line.label + ':':<{_LABEL_WIDTH}}{text:>{_VALUE_WIDTH}} {line.unit}".rstrip())
    return lines


def socket_line(run: AgentRun) -> str:
    """Return the line that agentkeepalive's benchmark prints of an agent, with its name and transactions in front."""
    return socket_line_of(run.agent, run.transactions, run.sockets)


def socket_line_of(agent: str, transactions: int, sockets: Sockets) -> str:
    """Return the line of an agent that is not, or not yet, in a record."""
    return (
        f"[kabench:{transactions}] {agent}, {sockets.created} created, {sockets.requests} requestFinished, "
        f"{sockets.req_per_socket:.2f} req/socket, {sockets.pending} requests, {sockets.active} sockets, "
        f"{sockets.free} unusedSockets, {sockets.timeouts} timeout"
    )
