"""Clients that are not kabench's agents: how one looks to kabench, and those of urllib3, requests, httpx and aiohttp.

Whoever wants to measure a client of his own writes a factory, names it `package.module:factory`, and needs no more than

    class Client:
        def __init__(self, settings):             # a ClientSettings: limits, timeouts, TLS
            ...
        def send(self, request):                  # or async def; a Request: method, url, headers, body
            return status, body                   # an int and bytes; what it raises is counted by its kind
        def close(self):                          # or async def
            ...
        def sockets_created(self):                # if it knows
            return 0

A client whose `send` is a coroutine function is driven by tasks in one event loop, any other by threads, who share it.
Redirects are not to be followed, cookies not to be kept, failed requests not to be sent again: what is measured is a
request. `kind` of an exception, if it has one, is its name in reports.
"""

from __future__ import annotations

import importlib
import inspect
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kabench.agent import AgentError
from kabench.load.messages import SocketCounts
from kabench.load.sockets import counts_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    import urllib3

    from kabench.agent import AgentOptions
    from kabench.load.source import Request

_MESSAGES_SHOWN = 200


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a client is to be like. Durations are seconds, and 0 is no limit; `max_sockets` None is none either.

    `agent_options` are the same and more as a kabench agent would have them. `ssl_context` is for https URLs.
    """

    max_sockets: int | None
    max_free_sockets: int
    free_socket_timeout_s: float
    timeout_s: float
    connect_timeout_s: float
    ssl_context: ssl.SSLContext
    agent_options: AgentOptions


class Client(Protocol):
    """See above; `sockets_created` may be missing."""

    def send(self, request: Request) -> tuple[int, bytes] | Awaitable[tuple[int, bytes]]:
        """Send a request and return the response's status and body."""

    def close(self) -> Awaitable[None] | None:
        """Let go of all sockets."""


def is_async(client: Client) -> bool:
    """Whether a client is driven by tasks."""
    return inspect.iscoroutinefunction(client.send)


def socket_counts(client: Client, requests: int) -> SocketCounts:
    """What a client says of its sockets, after `requests` finished ones."""
    agent = getattr(client, "agent", None)
    if agent is not None and hasattr(agent, "get_current_status"):
        return counts_of(agent)
    created = getattr(client, "sockets_created", None)
    return SocketCounts(created=created() if callable(created) else 0, requests=requests)


def kind_of(error: BaseException) -> str:
    """The name of an error in reports: an agent's own kind, wherever in the chain it is, or its class's name."""
    is_refused = False
    outermost = error
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        kind = getattr(found, "kind", None)
        if isinstance(kind, str) and (isinstance(found, AgentError) or found is outermost):
            return kind
        is_refused = is_refused or isinstance(found, ConnectionRefusedError)
        reason = getattr(found, "reason", None)
        found = found.__cause__ or found.__context__ or (reason if isinstance(reason, BaseException) else None)
    if is_refused:
        return CONNECT_FAILED
    name = type(outermost).__name__.removesuffix("Error").removesuffix("Exception") or "error"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


CONNECT_FAILED = "connect_failed"


def described(error: BaseException) -> str:
    """An error in words."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MESSAGES_SHOWN else f"{text[:_MESSAGES_SHOWN]}..."


def load_factory(spec: str) -> Callable[[ClientSettings], Client]:
    """The factory that `package.module:factory` names. Raises `ValueError`, saying what is wrong with it."""
    module_name, _, path = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)  # whatever the user has written there
    except Exception as error:
        raise ValueError(f"{spec}: {module_name} cannot be imported: {type(error).__name__}: {error}") from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f"{spec}: there is no {path} in {module_name}")
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f"{spec}: {path} cannot be called; it is to make a client")  # noqa: TRY004  # it is the spec
    factory: Callable[[ClientSettings], Client] = found
    return factory


def _or_none(seconds: float) -> float | None:
    return seconds or None


def _asked(request: Request) -> dict[str, str]:
    """The headers of a request; the body is wanted as it is, so that all clients get the same bytes."""
    headers = dict(request.headers)
    if not any(name.lower() == "accept-encoding" for name in headers):
        headers["Accept-Encoding"] = "identity"
    return headers


class _SocketCounter:
    """Counts the sockets that a urllib3 manager opens; with `keep_alive=False`, none is used again."""

    def __init__(self, *, keep_alive: bool = True) -> None:
        self._keep_alive = keep_alive
        self._lock = threading.Lock()
        self.created = 0

    def watch(self, manager: urllib3.PoolManager) -> None:
        """Have the manager's pools tell of each socket they open."""
        manager.pool_classes_by_scheme = {
            scheme: self._told(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def _told(self, pool_class: Any) -> Any:  # urllib3's classes, as they are
        counter = self

        class Connection(pool_class.ConnectionCls):  # type: ignore[misc]  # either of two
            def connect(self) -> None:
                super().connect()
                with counter._lock:
                    counter.created += 1

        class Pool(pool_class):  # type: ignore[misc]  # either of two
            ConnectionCls = Connection

            def _put_conn(self, connection: Any) -> None:
                if connection is not None and not counter._keep_alive:
                    connection.close()
                super()._put_conn(connection)

        return Pool


class Urllib3Client:
    """Stock urllib3: a `PoolManager` that blocks at its limit."""

    def __init__(self, settings: ClientSettings, *, keep_alive: bool = True) -> None:
        import urllib3

        self._headers = {} if keep_alive else {"Connection": "close"}
        self._counter = _SocketCounter(keep_alive=keep_alive)
        self._manager = urllib3.PoolManager(
            num_pools=100,
            maxsize=settings.max_sockets or settings.max_free_sockets,
            block=settings.max_sockets is not None,
            retries=False,
            timeout=urllib3.Timeout(connect=_or_none(settings.connect_timeout_s), read=_or_none(settings.timeout_s)),
            ssl_context=settings.ssl_context,
        )
        self._counter.watch(self._manager)

    def send(self, request: Request) -> tuple[int, bytes]:
        """Send a request and return the response's status and body."""
        headers = _asked(request) | self._headers
        response = self._manager.request(
            request.method, request.url, headers=headers, body=request.body or None, redirect=False
        )
        return response.status, response.data

    def sockets_created(self) -> int:
        """As its connections have told."""
        return self._counter.created

    def close(self) -> None:
        """Close all pools."""
        self._manager.clear()


class Urllib3AgentClient:
    """kabench's agent for threads, as urllib3's users have it."""

    def __init__(self, settings: ClientSettings) -> None:
        from kabench.agent import KeepAliveAgent

        self.agent = KeepAliveAgent(options=settings.agent_options, retries=False, ssl_context=settings.ssl_context)

    def send(self, request: Request) -> tuple[int, bytes]:
        """Send a request and return the response's status and body."""
        response = self.agent.request(
            request.method, request.url, headers=_asked(request), body=request.body or None, redirect=False
        )
        return response.status, response.data

    def close(self) -> None:
        """Close the agent."""
        self.agent.close()


class RequestsClient:
    """requests: one session that all users share."""

    def __init__(self, settings: ClientSettings) -> None:
        import http.cookiejar

        import requests
        from requests.adapters import HTTPAdapter

        counter = self._counter = _SocketCounter()

        class Adapter(HTTPAdapter):
            def init_poolmanager(self, *args: Any, **kw: Any) -> None:  # requests' own
                super().init_poolmanager(*args, ssl_context=settings.ssl_context, **kw)
                counter.watch(self.poolmanager)

            def build_connection_pool_key_attributes(self, *asked: Any, **by_name: Any) -> Any:
                host, kw = super().build_connection_pool_key_attributes(*asked, **by_name)
                return host, {"ssl_context": settings.ssl_context} if host["scheme"] == "https" else kw

            def cert_verify(self, *_: Any) -> None:
                """The context does all of it."""

        self._adapter = Adapter(
            pool_connections=100,
            pool_maxsize=settings.max_sockets or settings.max_free_sockets,
            pool_block=settings.max_sockets is not None,
        )
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._adapter)
        self._timeout = (_or_none(settings.connect_timeout_s), _or_none(settings.timeout_s))

    def send(self, request: Request) -> tuple[int, bytes]:
        """Send a request and return the response's status and body."""
        response = self._session.request(
            request.method,
            request.url,
            headers=_asked(request),
            data=request.body or None,
            timeout=self._timeout,
            allow_redirects=False,
        )
        return response.status_code, response.content

    def sockets_created(self) -> int:
        """As urllib3's connections below have told."""
        return self._counter.created

    def close(self) -> None:
        """Close the session."""
        self._session.close()


class HttpxClient:
    """httpx: one `AsyncClient` that all users share."""

    def __init__(self, settings: ClientSettings) -> None:
        import http.cookiejar

        import httpx

        self._created = 0
        never = _or_none(settings.timeout_s)
        self._client = httpx.AsyncClient(
            verify=settings.ssl_context,
            trust_env=False,
            timeout=httpx.Timeout(never, connect=_or_none(settings.connect_timeout_s), pool=None),
            limits=httpx.Limits(
                max_connections=settings.max_sockets,
                max_keepalive_connections=settings.max_free_sockets,
                keepalive_expiry=_or_none(settings.free_socket_timeout_s),
            ),
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        )

    async def _note(self, event: str, _: object) -> None:
        if event == "connection.connect_tcp.complete":
            self._created += 1

    async def send(self, request: Request) -> tuple[int, bytes]:
        """Send a request and return the response's status and body."""
        response = await self._client.request(
            request.method,
            request.url,
            headers=_asked(request),
            content=request.body or None,
            extensions={"trace": self._note},
        )
        return response.status_code, response.content

    def sockets_created(self) -> int:
        """By httpx's trace."""
        return self._created

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()


class AiohttpClient:
    """aiohttp: one `ClientSession` that all users share."""

    def __init__(self, settings: ClientSettings) -> None:
        import aiohttp
        import yarl

        self._created = 0
        self._url = yarl.URL
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._note)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.max_sockets or 0,
                keepalive_timeout=settings.free_socket_timeout_s or 3600.0,
                ssl=settings.ssl_context,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=_or_none(settings.connect_timeout_s),
                sock_read=_or_none(settings.timeout_s),
            ),
            trace_configs=[trace],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._session._retry_connection = False  # noqa: SLF001  # no other way to have it send a request once

    async def _note(self, *_: object) -> None:
        self._created += 1

    async def send(self, request: Request) -> tuple[int, bytes]:
        """Send a request and return the response's status and body."""
        async with self._session.request(
            request.method,
            self._url(request.url),
            headers=_asked(request),
            data=request.body or None,
            allow_redirects=False,
        ) as response:
            return response.status, await response.read()

    def sockets_created(self) -> int:
        """By aiohttp's trace."""
        return self._created

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()
