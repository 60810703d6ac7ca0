"""From an agent's status to `SocketCounts`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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
    """Return what an agent's book says, over all origins."""
    status = agent.get_current_status()
    counts: dict[str, Any] = {}
    for name, counted in SocketCounts.counted().items():
        value = getattr(status if hasattr(status, counted.of) else agent, counted.of)
        counts[name] = sum(value.values()) if counted.is_level else value
    return SocketCounts(**counts)
