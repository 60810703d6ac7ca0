"""Clients of other libraries, set up alike: urllib3, requests, httpx and aiohttp; and kabench's agent for threads.

Each gets the same limits and timeouts, follows no redirects and keeps no cookies. Whether it sends a request again is
up to its library, which has its own defaults. Each counts the sockets it opens and the requests it sends again; if its
library does not tell, a subclass of one of the library's classes counts.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import urllib3

    from kabench.load.clients.contract import ClientSettings, Sent
    from kabench.load.plan.source import Request


def _or_none(seconds: float) -> float | None:
    return seconds or None


def _headers_of(request: Request) -> list[tuple[str, str]]:
    """Return the headers of a request. They ask for an unencoded body, so that all clients get the same bytes."""
    if any(name.lower() == "accept-encoding" for name, _ in request.headers):
        return list(request.headers)
    return [*request.headers, ("Accept-Encoding", "identity")]


def _in_one(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers with one line for each name (RFC 9110 section 5.3), for libraries that take a dict."""
    merged: dict[str, tuple[str, str]] = {}
    for name, value in headers:
        first, before = merged.get(name.lower(), (name, ""))
        merged[name.lower()] = (first, f"{before}, {value}" if before else value)
    return dict(merged.values())


def _wire_bytes(headers: Mapping[str, str], body: bytes, told: int | None) -> int | None:
    """Return how many bytes of body came: as many as there are, unless it was decoded; then what the library tells."""
    return (told or None) if body and "content-encoding" in headers else len(body)


def _counting_retry(counted: Callable[[], None]) -> urllib3.Retry:
    """Return urllib3's own default for `retries`, which also calls `counted` each time a request is sent again."""
    import urllib3

    class CountingRetry(urllib3.Retry):
        def increment(self, *args: Any, **by_name: Any) -> Any:  # urllib3's own
            following = super().increment(*args, **by_name)
            counted()
            return following

    return CountingRetry(urllib3.Retry.DEFAULT.total, redirect=False)


class _RetryCounter:
    """Counts the requests that urllib3 sends again: give `retry` to a pool manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0
        self.retry = _counting_retry(self._add)

    def _add(self) -> None:
        with self._lock:
            self.count += 1


class _SocketCounter:
    """Counts the sockets that a urllib3 manager opens. With `keep_alive=False`, it also closes each after a request."""

    def __init__(self, *, keep_alive: bool = True) -> None:
        self._keep_alive = keep_alive
        self._lock = threading.Lock()
        self.created = 0

    def watch(self, manager: urllib3.PoolManager) -> None:
        """Have the manager's pools count each socket they open."""
        manager.pool_classes_by_scheme = {
            scheme: self._counting(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def _counting(self, pool_class: Any) -> Any:  # urllib3's classes; it has no types for what is needed here
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
    """Stock urllib3: a `PoolManager` that blocks when its limit is reached."""

    def __init__(self, settings: ClientSettings, *, keep_alive: bool = True) -> None:
        import urllib3

        self._pairs = urllib3.HTTPHeaderDict
        self._headers = [] if keep_alive else [("Connection", "close")]
        self._counter = _SocketCounter(keep_alive=keep_alive)
        self._resent = _RetryCounter()
        self._manager = urllib3.PoolManager(
            num_pools=100,
            maxsize=settings.max_sockets or settings.max_free_sockets,
            block=settings.max_sockets is not None,
            retries=self._resent.retry,
            timeout=urllib3.Timeout(connect=_or_none(settings.connect_timeout_s), read=_or_none(settings.timeout_s)),
            ssl_context=settings.ssl_context,
        )
        self._counter.watch(self._manager)

    def send(self, request: Request) -> Sent:
        """Send a request and return the response's status and body."""
        headers = self._pairs([*_headers_of(request), *self._headers])
        response = self._manager.request(
            request.method, request.url, headers=headers, body=request.body or None, redirect=False
        )
        return response.status, response.data, _wire_bytes(response.headers, response.data, response.tell())

    def sockets_created(self) -> int:
        """Return what its connections have counted."""
        return self._counter.created

    def retries(self) -> int:
        """Return how many requests were sent again."""
        return self._resent.count

    def close(self) -> None:
        """Close all pools."""
        self._manager.clear()


class Urllib3AgentClient:
    """kabench's agent for threads, as users of urllib3 have it."""

    def __init__(self, settings: ClientSettings) -> None:
        from urllib3 import HTTPHeaderDict

        from kabench.agent import KeepAliveAgent

        self._pairs = HTTPHeaderDict
        self._resent = _RetryCounter()
        self.agent = KeepAliveAgent(
            options=settings.agent_options, retries=self._resent.retry, ssl_context=settings.ssl_context
        )

    def send(self, request: Request) -> Sent:
        """Send a request and return the response's status and body."""
        response = self.agent.request(
            request.method,
            request.url,
            headers=self._pairs(_headers_of(request)),
            body=request.body or None,
            redirect=False,
        )
        return response.status, response.data, _wire_bytes(response.headers, response.data, response.tell())

    def retries(self) -> int:
        """Return how many requests urllib3 sent again; the agent counts what it sends again itself."""
        return self._resent.count

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

            def build_connection_pool_key_attributes(self, *args: Any, **by_name: Any) -> Any:
                host, kw = super().build_connection_pool_key_attributes(*args, **by_name)
                return host, {"ssl_context": settings.ssl_context} if host["scheme"] == "https" else kw

            def cert_verify(self, *_: Any) -> None:
                """Do nothing: the TLS context does all of it."""

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

    def send(self, request: Request) -> Sent:
        """Send a request and return the response's status and body."""
        response = self._session.request(
            request.method,
            request.url,
            headers=_in_one(_headers_of(request)),
            data=request.body or None,
            timeout=self._timeout,
            allow_redirects=False,
        )
        wire_bytes = _wire_bytes(response.headers, response.content, response.raw.tell())
        return response.status_code, response.content, wire_bytes

    def sockets_created(self) -> int:
        """Return what urllib3's connections, which it uses, have counted."""
        return self._counter.created

    def retries(self) -> int:
        """Return 0: its adapter sends nothing again unless it is told to."""
        return 0

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

    async def send(self, request: Request) -> Sent:
        """Send a request and return the response's status and body."""
        response = await self._client.request(
            request.method,
            request.url,
            headers=_headers_of(request),
            content=request.body or None,
            extensions={"trace": self._note},
        )
        wire_bytes = _wire_bytes(response.headers, response.content, response.num_bytes_downloaded)
        return response.status_code, response.content, wire_bytes

    def sockets_created(self) -> int:
        """Return what httpx's trace has counted."""
        return self._created

    def retries(self) -> int:
        """Return 0: its transport sends nothing again unless it is told to."""
        return 0

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

        class Connector(aiohttp.TCPConnector):  # a trace would cost time in each request
            async def _create_connection(self, *args: Any, **by_name: Any) -> Any:
                connection = await super()._create_connection(*args, **by_name)
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

    async def send(self, request: Request) -> Sent:
        """Send a request and return the response's status and body."""
        async with self._session.request(
            request.method,
            self._url(request.url, encoded=True),
            headers=_headers_of(request),
            data=request.body or None,
            allow_redirects=False,
        ) as response:
            body = await response.read()
            told = getattr(response.content, "total_raw_bytes", None)  # older versions do not tell
            return response.status, body, _wire_bytes(response.headers, body, told)

    def sockets_created(self) -> int:
        """Return what its connector has counted."""
        return self._created

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()
