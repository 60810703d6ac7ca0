"""The proxy's report of its two agents: the socket line and the ten buckets, as in the published benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kabench.report.siege import socket_line_of
from kabench.report.terminal import wrapped_at_commas
from kabench.result import Sockets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kabench.proxy import AgentFigures


def proxy_text(agents: Iterable[AgentFigures]) -> str:
    """Return a block of lines for each agent."""
    return "\n".join(_block(agent) for agent in agents)


def _block(agent: AgentFigures) -> str:
    status = agent.status
    created, requests = status.create_socket_count, status.request_count
    sockets = Sockets(
        created=created,
        timeouts=status.timeout_socket_count,
        requests=requests,
        req_per_socket=requests / created if created else 0.0,
        free=sum(status.free_sockets.values()),
        active=sum(status.sockets.values()),
        pending=sum(status.requests.values()),
    )
    buckets = ", ".join(f"{name} {count}" for name, count in agent.buckets.items())
    lines = [socket_line_of(agent.name, agent.transactions, sockets), buckets]
    others = {
        "answered 502 or 504, or cut off": agent.failures,
        "given up by their clients": agent.given_up,
        "sent again after a stale socket": status.retry_count,
    }
    lines += [", ".join(f"{count} {what}" for what, count in others.items() if count)]
    return "\n".join(wrapped_at_commas(line) for line in lines if line)
