"""`ProxyOptions`: where the proxy listens, where it leads to, and with which agents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kabench.agent import AgentOptions
from kabench.agent.urls import parse_url, shown_url, without_credentials
from kabench.published import PUBLISHED_FREE_SOCKET_TIMEOUT_S, PUBLISHED_MAX_SOCKETS
from kabench.server import ClientLimits

if TYPE_CHECKING:
    from kabench.agent import TlsOptions


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """Options of the proxy.

    Everything goes to `target`, an http or https URL, whose path is put in front. `agent_options` are the keep-alive
    agent's; the normal one has them too, but for `keep_alive=False, hand_off=True`. `tls` is for an https target.
    `limits` are the clients'; bodies are passed on as they come, so their size is not limited by default.

    Raises `ValueError` for a target that is no http or https URL, or has a query.
    """

    target: str
    host: str = "127.0.0.1"
    port: int = 1985
    agent_options: AgentOptions = field(
        default_factory=lambda: AgentOptions(
            max_sockets=PUBLISHED_MAX_SOCKETS, free_socket_timeout=PUBLISHED_FREE_SOCKET_TIMEOUT_S
        )
    )
    tls: TlsOptions | None = None
    limits: ClientLimits = field(default_factory=lambda: ClientLimits(max_body_bytes=ClientLimits.UNLIMITED))

    def __post_init__(self) -> None:
        parse_url(self.target)
        if "?" in self.target or "#" in self.target:
            raise ValueError(f"{shown_url(self.target)!r}: a target is a scheme, a host and perhaps a path")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 0 and 65535")

    @property
    def shown_target(self) -> str:
        """The target without the credentials that it may carry."""
        return without_credentials(self.target)
