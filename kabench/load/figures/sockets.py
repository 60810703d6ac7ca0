"""From an agent's status to `SocketCounts`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kabench.load.figures.messages import SocketCounts

if TYPE_CHECKING:
    from kabench.agent import AgentStatus


@runtime_checkable
class KeepsSockets(Protocol):
    """An agent of kabench, of whichever kind."""

    def get_current_status(self) -> AgentStatus:
        """Its book."""

    @property
    def tls_handshake_count(self) -> int:
        """TLS handshakes finished."""

    @property
    def tls_resumed_count(self) -> int:
        """TLS handshakes that resumed a session."""


def counts_of(agent: KeepsSockets) -> SocketCounts:
    """What an agent's book says, over all origins."""
    status = agent.get_current_status()
    return SocketCounts(
        created=status.create_socket_count,
        create_errors=status.create_socket_error_count,
        closed=status.close_socket_count,
        errors=status.error_socket_count,
        timeouts=status.timeout_socket_count,
        requests=status.request_count,
        retries=status.retry_count,
        free=sum(status.free_sockets.values()),
        active=sum(status.sockets.values()),
        pending=sum(status.requests.values()),
        stale=status.stale_socket_count,
        closed_by=status.closed_by,
        tls_handshakes=agent.tls_handshake_count,
        tls_resumed=agent.tls_resumed_count,
    )
