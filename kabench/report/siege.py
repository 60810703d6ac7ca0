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
        text = "-" if value is None else _number(value, line.decimals)
        lines.append(f"{line.label + ':':<{_LABEL_WIDTH}}{text:>{_VALUE_WIDTH}} {line.unit}".rstrip())
    return lines


def _number(value: float, decimals: int) -> str:
    """Return a number with these decimals, or with as many more as it needs to be no zero."""
    text = f"{value:.{decimals}f}"
    return f"{value:.2g}" if value and not float(text) else text


def socket_line(run: AgentRun) -> str:
    """Return the line that agentkeepalive's benchmark prints of an agent, with its name and transactions in front."""
    return socket_line_of(run.agent, run.transactions, run.sockets)


def socket_line_of(agent: str, transactions: int, sockets: Sockets) -> str:
    """Return the line of an agent that is not, or not yet, in a record."""
    return (
        f"[kabench:{transactions}] {agent}, {_told(sockets.created)} created, {_told(sockets.requests)} "
        f"requestFinished, {_told(sockets.req_per_socket, 2)} req/socket, {_told(sockets.pending)} requests, "
        f"{_told(sockets.active)} sockets, {_told(sockets.free)} unusedSockets, {_told(sockets.timeouts)} timeout"
    )


def _told(count: float | None, decimals: int = 0) -> str:
    return "-" if count is None else f"{count:.{decimals}f}"
