"""`Proxy`: it listens, and has the two agents that everything goes through."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import socket
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.agent import AsyncKeepAliveAgent, AsyncPlainAgent
from kabench.agent.urls import parse_url
from kabench.proxy.connection import ProxyConnection
from kabench.proxy.rules import KEEPALIVE, NORMAL, response_head, via_of
from kabench.proxy.upstream import Upstream

if TYPE_CHECKING:
    from kabench.agent import AgentStatus
    from kabench.agent.aio import PreparedRequest, ResponseHead
    from kabench.proxy.options import ProxyOptions

_BACKLOG = 4096
_FILES_A_CONNECTION = 2
"""Its own, and one to the target."""

_LOOK_EVERY_S = 1.0
_LOOKS_PER_TIMEOUT = 50
_MAX_KNOWN_REQUESTS = 256
_MAX_KNOWN_REQUEST_BYTES = 4096
_MAX_KNOWN_HEADS = 256


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """One agent as it is now. `transactions` were passed on whole; `failures` were answered 502 or 504, or cut off;
    in `given_up` the client went before his response came."""

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
        self.connections: set[ProxyConnection] = set()
        self.leaving: set[ProxyConnection] = set()
        self.via = via_of(secrets.token_hex(4))
        self.most_connections = options.limits.connections_for(_FILES_A_CONNECTION)
        self.known: dict[bytes, tuple[Upstream, PreparedRequest]] = {}
        self.authorities: frozenset[str] = frozenset()
        self._heads: dict[ResponseHead, bytes] = {}
        self._loop = asyncio.get_running_loop()
        self._listeners: list[asyncio.Server] = []
        self._look_timer: asyncio.TimerHandle | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{_bracketed(self.options.host)}:{self.port}/"

    async def start(self) -> None:
        """Accept connections. Raises `OSError` if it cannot listen."""
        self.port = self.options.port
        found = await self._loop.getaddrinfo(self.options.host, self.port, type=socket.SOCK_STREAM)
        try:
            for host in dict.fromkeys(str(address[0]) for *_, address in found):
                listener = await self._loop.create_server(
                    lambda: ProxyConnection(self), host, self.port, backlog=_BACKLOG
                )
                self._listeners.append(listener)
                self.port = listener.sockets[0].getsockname()[1]  # a name's other addresses get the same one
        except OSError:
            await self.stop()
            raise
        own = {f"{_bracketed(host)}:{self.port}" for host in (self.options.host, "127.0.0.1", "localhost", "::1")}
        self.authorities = frozenset({*own, parse_url(self.options.target).origin.host_header.lower()})
        self._look()

    async def stop(self) -> None:
        """Stop accepting, close all sockets on both sides; requests under way are given up."""
        for listener in self._listeners:
            listener.close()
        if self._look_timer is not None:
            self._look_timer.cancel()
        for connection in [*self.connections, *self.leaving]:
            connection.transport.abort()
        await asyncio.sleep(0)
        for upstream in self.upstreams.values():
            await upstream.agent.close()

    def learn(self, raw: bytes, upstream: Upstream, prepared: PreparedRequest) -> None:
        """Remember what becomes of a request, by its bytes."""
        if len(raw) > _MAX_KNOWN_REQUEST_BYTES:
            return
        if len(self.known) >= _MAX_KNOWN_REQUESTS:
            self.known.clear()
        self.known[raw] = (upstream, prepared)

    def head_of(self, head: ResponseHead) -> bytes:
        """A response's head for a client who speaks HTTP/1.1 and stays; the agent gives the same again and again."""
        known = self._heads.get(head)
        if known is None:
            if len(self._heads) >= _MAX_KNOWN_HEADS:
                self._heads.clear()
            known = self._heads[head] = response_head(head, None, keep_alive=True, is_http_1_1=True)
        return known

    def figures(self) -> list[AgentFigures]:
        """Both agents as they are now."""
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
        """What `GET /-/status` says."""
        return json.dumps({each.name: {**each.status.as_dict(), "buckets": each.buckets} for each in self.figures()})

    def _look(self) -> None:
        now = perf_counter()
        for connection in [*self.connections, *self.leaving]:
            connection.look(now)
        limits = self.options.limits
        shortest_s = min(limits.head_timeout_s, limits.request_timeout_s)
        again_s = min(_LOOK_EVERY_S, shortest_s / _LOOKS_PER_TIMEOUT)
        self._look_timer = self._loop.call_later(again_s, self._look)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
