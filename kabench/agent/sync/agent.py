"""`KeepAliveAgent`, `PlainAgent`, `KeepAliveProxyAgent`: urllib3 pool managers whose sockets a keeper keeps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self

from urllib3 import PoolManager, ProxyManager, Timeout
from urllib3._collections import RecentlyUsedContainer
from urllib3.connection import HTTPConnection
from urllib3.poolmanager import PoolKey
from urllib3.util.ssl_ import resolve_cert_reqs

from kabench.agent.options import AgentOptions
from kabench.agent.probes import probe_options
from kabench.agent.sync.keeper import SocketKeeper
from kabench.agent.sync.pool import AgentPool, AgentTlsPool, refuse_control_characters
from kabench.agent.sync.tls import CONTEXT_OPTIONS
from kabench.agent.tls import digest_of
from kabench.agent.urls import checked_method, origin_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import TracebackType

    from urllib3.connectionpool import HTTPConnectionPool
    from urllib3.response import BaseHTTPResponse

    from kabench.agent.events import EventKind, EventListener
    from kabench.agent.status import AgentStatus

_OPTION_NAMES = frozenset(option.name for option in dataclasses.fields(AgentOptions))
_PROXY_NAMES = {
    "proxy_headers",
    "proxy_ssl_context",
    "use_forwarding_for_https",
    "proxy_assert_hostname",
    "proxy_assert_fingerprint",
}
_URLLIB3_NAMES = _PROXY_NAMES | {field.removeprefix("key_") for field in PoolKey._fields}
_SET_A_SOCKET_APART: tuple[str, ...] = ("source_address", "socket_options")
_SET_A_TLS_SOCKET_APART = (*_SET_A_SOCKET_APART, *CONTEXT_OPTIONS, "ssl_context", "server_hostname")
"""urllib3's options that a socket is made with: a request that differs in one gets another socket."""


class _Managed:
    """What the threaded agents have in common, whatever kind of urllib3 manager they are."""

    keeper: SocketKeeper
    options: AgentOptions
    connection_pool_kw: dict[str, Any]  # urllib3's
    pools: RecentlyUsedContainer[Any, HTTPConnectionPool]  # its keys are urllib3's

    def _manage(self, num_pools: int, on_event: EventListener | None) -> None:
        """Take over the pools, once urllib3's manager is set up."""
        self.keeper = SocketKeeper(self.options, on_event)
        self.pools = RecentlyUsedContainer(num_pools)  # an evicted pool lives on as long as something holds it
        self.pool_classes_by_scheme = {"http": AgentPool, "https": AgentTlsPool}
        self._made_by_default = {scheme: _made_by(scheme, self.connection_pool_kw) for scheme in ("http", "https")}

    def _new_pool(
        self,
        scheme: str,
        host: str,
        port: int,
        request_context: dict[str, Any] | None = None,  # urllib3's
    ) -> HTTPConnectionPool:
        made_by = _made_by(scheme, self.connection_pool_kw if request_context is None else request_context)
        pool: HTTPConnectionPool = super()._new_pool(scheme, host, port, request_context)  # type: ignore[misc]
        is_default = made_by == self._made_by_default[scheme]
        digest = None if is_default else digest_of([f"{name}={value}" for name, value in sorted(made_by.items())])
        if isinstance(pool, AgentPool):
            pool.adopt(self.keeper, origin_key(scheme, host.strip("[]").lower(), port, digest))
        return pool

    def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> BaseHTTPResponse:  # urllib3's
        """Send a request as urllib3 does. Raises `LocationParseError` for a URL with a control character, unsent."""
        refuse_control_characters(url)
        method = checked_method(method)
        response: BaseHTTPResponse = super().urlopen(method, url, redirect=redirect, **kw)  # type: ignore[misc]
        return response

    def get_current_status(self) -> AgentStatus:
        """Return counters, and sockets and pending requests by origin, as they are now."""
        return self.keeper.status()

    @property
    def status_changed(self) -> bool:
        """True once after any counter moved, then False until the next one does."""
        return self.keeper.status_changed()

    @property
    def tls_handshake_count(self) -> int:
        """TLS handshakes finished."""
        return self.keeper.sessions.handshake_count

    @property
    def tls_resumed_count(self) -> int:
        """TLS handshakes that resumed a session."""
        return self.keeper.sessions.resumed_count

    def add_event_listener(self, listener: EventListener, kinds: Collection[EventKind] | None = None) -> None:
        """Call `listener` with each `AgentEvent` of these kinds (None: all) from now on, as `on_event` is called.

        Listening to `EventKind.REUSED` costs something with each request.
        """
        self.keeper.add_event_listener(listener, kinds)

    @property
    def default_timeout(self) -> Timeout:
        """The `Timeout` of requests that give none: the agent's `connect_timeout` and `timeout`."""
        timeout: Timeout = self.connection_pool_kw["timeout"]
        return timeout

    def clear(self) -> None:
        """Close the free sockets now, and those in use when they come back. The agent stays usable."""
        pools = [self.pools[key] for key in self.pools.keys()]  # noqa: SIM118  # urllib3's is no mapping to iterate
        self.pools.clear()
        for pool in pools:
            pool.close()

    def close(self) -> None:
        """Close all sockets, for good. Requests under way and pending ones fail; closing twice is fine."""
        self.keeper.close()
        self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class KeepAliveAgent(_Managed, PoolManager):  # type: ignore[misc]  # leaving `with` is final here
    """A keep-alive agent that is a `urllib3.PoolManager`, and goes wherever one goes.

    Takes the options of `AgentOptions` (by name, or as `options`) and urllib3's own side by side. Of urllib3's,
    `maxsize` is the number of free sockets where `max_free_sockets` is not given, and `block=True` makes it the number
    of sockets where `max_sockets` is not given; a `urllib3.Timeout` as `timeout` is for urllib3. `on_event` is called
    with each `AgentEvent`, in the thread where it happens.

    Responses have `reused_socket`. Errors are urllib3's, with this package's as their cause. `close()` and leaving
    `with` are final; `clear()` closes the free sockets.

    Raises `TypeError` for an unknown option or a wrong type, and `ValueError` for a value out of range.
    """

    def __init__(
        self,
        num_pools: int = 10,
        headers: Mapping[str, str] | None = None,
        *,
        options: AgentOptions | None = None,
        on_event: EventListener | None = None,
        **given: Any,  # options of an agent, and urllib3's
    ) -> None:
        self.options, pool_options = _sorted_out(options, given)
        PoolManager.__init__(self, num_pools, headers, **pool_options)
        self._manage(num_pools, on_event)


class PlainAgent(KeepAliveAgent):
    """An agent that pools nothing: one request per socket, `Connection: close`.

    With `hand_off=True` it is Node's normal agent with finite `max_sockets`: it sends `Connection: keep-alive`, a
    socket goes straight to a pending request if there is one, and is closed if there is none.
    """

    def __init__(
        self,
        num_pools: int = 10,
        headers: Mapping[str, str] | None = None,
        *,
        options: AgentOptions | None = None,
        on_event: EventListener | None = None,
        **given: Any,  # options of an agent, and urllib3's
    ) -> None:
        if options is None:
            given.setdefault("keep_alive", False)
        super().__init__(num_pools, headers, options=options, on_event=on_event, **given)
        if self.options.keep_alive:
            raise ValueError("keep_alive: True is not for a plain agent; use KeepAliveAgent")


class KeepAliveProxyAgent(_Managed, ProxyManager):  # type: ignore[misc]  # as above
    """A keep-alive agent behind a proxy: a `urllib3.ProxyManager`, with the same pools as `KeepAliveAgent`.

    Sockets to the proxy are pooled under the proxy's origin, and tunnels under the one they lead to. Takes
    `KeepAliveAgent`'s options and `ProxyManager`'s.
    """

    def __init__(
        self,
        proxy_url: str,
        num_pools: int = 10,
        headers: Mapping[str, str] | None = None,
        *,
        options: AgentOptions | None = None,
        on_event: EventListener | None = None,
        **given: Any,  # options of an agent, and urllib3's
    ) -> None:
        self.options, pool_options = _sorted_out(options, given)
        ProxyManager.__init__(self, proxy_url, num_pools, headers, **pool_options)
        self._manage(num_pools, on_event)


def _sorted_out(
    options: AgentOptions | None,
    given: dict[str, Any],  # as the agents take them
) -> tuple[AgentOptions, dict[str, Any]]:
    """Return the agent's options, and those that are left for urllib3."""
    of_agent = {name: value for name, value in given.items() if name in _OPTION_NAMES}
    of_urllib3 = {name: value for name, value in given.items() if name not in _OPTION_NAMES}
    for name in of_urllib3.keys() - _URLLIB3_NAMES:
        raise TypeError(f"{name}={given[name]!r}: there is no such option of an agent or of urllib3")
    timeout = of_agent.get("timeout")
    if isinstance(timeout, Timeout):
        del of_agent["timeout"]
    maxsize, block = of_urllib3.pop("maxsize", None), of_urllib3.pop("block", False)
    if options is None:
        if maxsize is None and block:
            maxsize = 1  # urllib3's default
        if maxsize is not None:
            of_agent.setdefault("max_free_sockets", maxsize)
            if block:
                of_agent.setdefault("max_sockets", maxsize)
    options = AgentOptions.chosen(options, of_agent)
    options = options.in_place_of_a_library()
    if not isinstance(timeout, Timeout):
        timeout = Timeout(connect=options.effective_connect_timeout or None, read=options.timeout or None)
    of_urllib3["timeout"] = timeout
    if of_urllib3.get("socket_options") is None:
        of_urllib3["socket_options"] = [
            *(HTTPConnection.default_socket_options if options.no_delay else []),
            *(probe_options(options.keep_alive_delay) if options.keep_alive else []),
        ]
    return options, of_urllib3


def _made_by(scheme: str, context: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that set a socket apart, as text; certificates are required unless they say otherwise."""
    if scheme == "http":
        return {name: str(context[name]) for name in _SET_A_SOCKET_APART if context.get(name) is not None}
    made_by = {name: str(context[name]) for name in _SET_A_TLS_SOCKET_APART if context.get(name) is not None}
    made_by["cert_reqs"] = str(resolve_cert_reqs(context.get("cert_reqs")))
    return made_by
