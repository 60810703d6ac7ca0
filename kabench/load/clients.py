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

import contextlib
import importlib
import inspect
import os
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from kabench.agent import AgentError, CertificateError, ConnectError, ConnectTimeoutError, TlsError
from kabench.load.messages import SocketCounts
from kabench.load.sockets import KeepsSockets, counts_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    import urllib3

    from kabench.agent import AgentOptions
    from kabench.load.source import Request


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a client is to be like. Durations are seconds, and 0 is no limit; `max_sockets` None is none either.

    `max_sockets` is for each of the `origins` that the requests go to.

    `agent_options` are the same and more as a kabench agent would have them. `ssl_context` is for https URLs.
    """

    max_sockets: int | None
    max_free_sockets: int
    free_socket_timeout_s: float
    timeout_s: float
    connect_timeout_s: float
    ssl_context: ssl.SSLContext
    agent_options: AgentOptions
    origins: int = 1


class Client(Protocol):
    """See above; `sockets_created` may be missing."""

    def send(self, request: Request) -> tuple[int, bytes] | Awaitable[tuple[int, bytes]]:
        """Send a request and return the response's status and body."""

    def close(self) -> Awaitable[None] | None:
        """Let go of all sockets."""


def is_async(client: Client) -> bool:
    """Whether a client is driven by tasks."""
    return inspect.iscoroutinefunction(client.send)


class BadAnswerError(TypeError):
    """What a client's `send` returned is no status and body."""

    kind = "bad_answer"


def checked_answer(answer: object) -> tuple[int, bytes]:
    """What a client has returned, if it is a status and a body. Raises `BadAnswerError`."""
    if isinstance(answer, tuple) and len(answer) == 2:
        status, body = answer
        if isinstance(status, int) and isinstance(body, bytes | bytearray | memoryview):
            return int(status), bytes(body)
    if inspect.iscoroutine(answer):
        answer.close()
    raise BadAnswerError(f"send returned {type(answer).__name__}, not a status and a body")


async def close_client(client: Client) -> None:
    """Close a client, in whichever way it is closed. What it raises is of no interest any more."""
    with contextlib.suppress(Exception):
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing


def socket_counts(client: Client, requests: int) -> SocketCounts:
    """What a client says of its sockets, after `requests` finished ones; nothing, where it says nothing sensible."""
    agent = getattr(client, "agent", None)
    if isinstance(agent, KeepsSockets):
        return counts_of(agent)
    created: object = 0
    with contextlib.suppress(Exception):
        created = getattr(client, "sockets_created", int)()
    return SocketCounts(created=created if isinstance(created, int) else 0, requests=requests)


CONNECT_FAILED, CONNECT_TIMEOUT = ConnectError.kind, ConnectTimeoutError.kind
NOT_REACHED = frozenset({CONNECT_FAILED, CONNECT_TIMEOUT, TlsError.kind, CertificateError.kind})
"""The kinds of errors of a request that had no socket: nobody was there, or not who should be."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was made of and raised from."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
            waiting += [getattr(found, name, None) for name in ("os_error", "certificate_error")]


def kind_of(error: BaseException) -> str:
    """The name of an error in reports: that of an agent's error where it is one, else its own kind or class's name."""
    chain = list(_chain(error))
    for found in chain:
        if isinstance(found, AgentError):
            return found.kind
    own = getattr(error, "kind", None)
    if isinstance(own, str):
        return own
    names = {kind.__name__ for found in chain for kind in type(found).__mro__}
    if any(isinstance(found, ssl.SSLCertVerificationError) for found in chain):
        return CertificateError.kind
    if any(isinstance(found, ConnectionRefusedError | socket.gaierror) for found in chain):
        return CONNECT_FAILED
    if names & _CONNECT_TIMEOUTS:
        return CONNECT_TIMEOUT
    name = type(error).__name__.removesuffix("Error").removesuffix("Exception") or "error"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


_CONNECT_TIMEOUTS = {"ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError"}
"""What urllib3, requests, httpx and aiohttp call it."""


def described(error: BaseException, request: Request) -> str:
    """An error that kept a request from being sent, in words, without what the request holds."""
    parts = urlsplit(request.url)
    where = f"{parts.scheme}://{parts.netloc}"
    for found in _chain(error):
        if isinstance(found, AgentError):
            return str(found)
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"{where}: the certificate was not accepted: {found.verify_message}"
        if isinstance(found, socket.gaierror):
            return f"the host name {parts.hostname!r} does not resolve: {found.strerror}"
    number = next((e.errno for e in _chain(error) if isinstance(e, OSError) and isinstance(e.errno, int)), None)
    return f"{where}: {os.strerror(number) if number else kind_of(error).replace('_', ' ')}"


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


def _asked(request: Request) -> list[tuple[str, str]]:
    """The headers of a request; the body is wanted as it is, so that all clients get the same bytes."""
    if any(name.lower() == "accept-encoding" for name, _ in request.headers):
        return list(request.headers)
    return [*request.headers, ("Accept-Encoding", "identity")]


def _in_one(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers with those of one name in one line (RFC 9110 section 5.3), for who knows no others."""
    merged: dict[str, tuple[str, str]] = {}
    for name, value in headers:
        first, before = merged.get(name.lower(), (name, ""))
        merged[name.lower()] = (first, f"{before}, {value}" if before else value)
    return dict(merged.values())


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

        self._pairs = urllib3.HTTPHeaderDict
        self._headers = [] if keep_alive else [("Connection", "close")]
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
        headers = self._pairs([*_asked(request), *self._headers])
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
        from urllib3 import HTTPHeaderDict

        from kabench.agent import KeepAliveAgent

        self._pairs = HTTPHeaderDict
        self.agent = KeepAliveAgent(options=settings.agent_options, retries=False, ssl_context=settings.ssl_context)

    def send(self, request: Request) -> tuple[int, bytes]:
        """Send a request and return the response's status and body."""
        response = self.agent.request(
            request.method, request.url, headers=self._pairs(_asked(request)), body=request.body or None, redirect=False
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
            headers=_in_one(_asked(request)),
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
                max_connections=settings.max_sockets and settings.max_sockets * settings.origins,
                max_keepalive_connections=settings.max_free_sockets,
                keepalive_expiry=_or_none(settings.free_socket_timeout_s),
            ),
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        )

    async def _note(self, event: str, _: object) -> None:
        self._created += event == "connection.connect_tcp.complete"

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
        client = self

        class Connector(aiohttp.TCPConnector):  # a trace would cost something with each request
            async def _create_connection(self, *asked: Any, **by_name: Any) -> Any:
                connection = await super()._create_connection(*asked, **by_name)
                client._created += 1  # its own
                return connection

        self._session = aiohttp.ClientSession(
            connector=Connector(
                limit=0,
                limit_per_host=settings.max_sockets or 0,
                keepalive_timeout=settings.free_socket_timeout_s or 3600.0,
                ssl=settings.ssl_context,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=_or_none(settings.connect_timeout_s),
                sock_read=_or_none(settings.timeout_s),
            ),
            skip_auto_headers=("Content-Type",),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._session._retry_connection = False  # noqa: SLF001  # no other way to have it send a request once

    async def send(self, request: Request) -> tuple[int, bytes]:
        """Send a request and return the response's status and body."""
        async with self._session.request(
            request.method,
            self._url(request.url, encoded=True),
            headers=_asked(request),
            data=request.body or None,
            allow_redirects=False,
        ) as response:
            return response.status, await response.read()

    def sockets_created(self) -> int:
        """As its connector has told."""
        return self._created

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()
