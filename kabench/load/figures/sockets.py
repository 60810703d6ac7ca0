"""`SocketCounts` of an agent, whichever kind it is. The agent's book counts; here its figures are only added up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kabench.load.figures.messages import SocketCounts

if TYPE_CHECKING:
    from kabench.agent import AgentStatus


@runtime_checkable
class KeepsSockets(Protocol):
    """An agent of kabench, of any kind."""

    def get_current_status(self) -> AgentStatus:
        """Return what its book says now."""

    @property
    def tls_handshake_count(self) -> int:
        """The TLS handshakes finished."""

    @property
    def tls_resumed_count(self) -> int:
        """The TLS handshakes that resumed a session."""


def counts_of(agent: KeepsSockets) -> SocketCounts:
    """Return what an agent's book says, over all origins."""
    status = agent.get_current_status()
    counts: dict[str, Any] = {}
    for name, counted in SocketCounts.counted().items():
        value = getattr(status if hasattr(status, counted.of) else agent, counted.of)
        counts[name] = sum(value.values()) if counted.is_level else value
    return SocketCounts(**counts)
