"""`Proxy`: listens, and has the two agents that all requests go through."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.agent import AsyncKeepAliveAgent, AsyncPlainAgent
from kabench.agent.urls import parse_url
from kabench.http1.accepted import AcceptedSockets
from kabench.proxy.connection import ProxyConnection
from kabench.proxy.rules import KEEPALIVE, NORMAL, response_head, via_of
from kabench.proxy.upstream import Upstream
from kabench.system.listening import Listeners, authority

if TYPE_CHECKING:
    from kabench.agent import AgentStatus
    from kabench.agent.aio import PreparedRequest, ResponseHead
    from kabench.http1.requests import RequestHead
    from kabench.proxy.options import ProxyOptions

_FILES_A_CONNECTION = 2
"""The client's socket, and one to the target."""

_MAX_KNOWN_REQUESTS = 256
_MAX_KNOWN_REQUEST_BYTES = 4096
_MAX_KNOWN_HEADS = 256


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """The figures of one agent, as they are now.

    `transactions` were passed on whole; `failures` were answered 502 or 504, or cut off; in `given_up` the client went
    before its response came.
    """

    name: str
    transactions: int
    failures: int
    given_up: int
    status: AgentStatus
    buckets: dict[str, int]


class Proxy:
    """The proxy, in the running event loop. It leads to its target and nowhere else."""

    def __init__(self, options: ProxyOptions) -> None:
        self.options = options
        agent_options = dataclasses.replace(options.agent_options, keep_alive=True, hand_off=False)
        normal_options = dataclasses.replace(options.agent_options, keep_alive=False, hand_off=True)
        self.upstreams = {
            KEEPALIVE: Upstream(KEEPALIVE, AsyncKeepAliveAgent(agent_options, tls=options.tls), options.target),
            NORMAL: Upstream(NORMAL, AsyncPlainAgent(normal_options, tls=options.tls), options.target),
        }
        self.accepted: AcceptedSockets[ProxyConnection] = AcceptedSockets(
            options.limits.connections_for(_FILES_A_CONNECTION)
        )
        self.via = via_of(secrets.token_hex(4))
        self.known: dict[bytes, tuple[Upstream, PreparedRequest, RequestHead]] = {}
        self.authorities: frozenset[str] = frozenset()
        self._heads: dict[ResponseHead, bytes] = {}
        self._listeners = Listeners(options.host, options.port, lambda: ProxyConnection(self))

    @property
    def connections(self) -> set[ProxyConnection]:
        """The clients' sockets that are served."""
        return self.accepted.connections

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._listeners.port

    @property
    def url(self) -> str:
        """The URL that it listens at."""
        return f"http://{self._listeners.authority}/"

    async def start(self) -> None:
        """Accept connections. Raises `OSError` if it cannot listen."""
        try:
            await self._listeners.open()
        except OSError:
            await self.stop()
            raise
        own = {authority(host, self.port) for host in (self.options.host, "127.0.0.1", "localhost", "::1")}
        self.authorities = frozenset({*own, parse_url(self.options.target).origin.host_header.lower()})
        limits = self.options.limits
        self.accepted.start_looking(min(limits.head_timeout_s, limits.request_timeout_s))

    async def stop(self) -> None:
        """Stop accepting, close all sockets on both sides; requests under way are given up."""
        self._listeners.close()
        self.accepted.abort()
        await asyncio.sleep(0)
        for upstream in self.upstreams.values():
            await upstream.agent.close()

    def learn(self, raw: bytes, upstream: Upstream, prepared: PreparedRequest, head: RequestHead) -> None:
        """Remember what becomes of a request, by its bytes."""
        if len(raw) > _MAX_KNOWN_REQUEST_BYTES:
            return
        if len(self.known) >= _MAX_KNOWN_REQUESTS:
            self.known.clear()
        self.known[raw] = (upstream, prepared, head)

    def head_of(self, head: ResponseHead) -> bytes:
        """Return a response's head for a client that speaks HTTP/1.1 and stays. Kept, since most heads come again."""
        known = self._heads.get(head)
        if known is None:
            if len(self._heads) >= _MAX_KNOWN_HEADS:
                self._heads.clear()
            known = self._heads[head] = response_head(head, None, keep_alive=True, is_http_1_1=True)
        return known

    def figures(self) -> list[AgentFigures]:
        """Return the figures of both agents, as they are now."""
        return [
            AgentFigures(
                upstream.name,
                upstream.transactions,
                upstream.failures,
                upstream.given_up,
                upstream.status,
                upstream.buckets,
            )
            for upstream in self.upstreams.values()
        ]

    def status_json(self) -> str:
        """Return what `GET /-/status` answers."""
        return json.dumps({each.name: {**each.status.as_dict(), "buckets": each.buckets} for each in self.figures()})
