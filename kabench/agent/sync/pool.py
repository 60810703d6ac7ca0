"""urllib3's connection pools, without a queue of their own: the agent's keeper says which socket a request gets.

Everything else of `urlopen` is urllib3's: timeouts, `Retry`, redirects, proxies. A pool that was closed (urllib3 does
so with the least recently used one, and on `clear()`) still carries the requests that found it, and keeps nothing.
"""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any, cast

from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ClosedPoolError, EmptyPoolError, LocationParseError, ProtocolError
from urllib3.util.proxy import connection_requires_http_tunnel

from kabench.agent.book import CloseReason
from kabench.agent.errors import (
    AgentClosedError,
    QueueTimeoutError,
    ResponseParseError,
    SocketClosedError,
    SocketTimeoutError,
    StaleSocketError,
)
from kabench.agent.sync.connection import AgentConnection, AgentTlsConnection

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection
    from urllib3.response import BaseHTTPResponse

    from kabench.agent.sync.keeper import SocketKeeper

_IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class AgentPool(HTTPConnectionPool):
    """The pool of an origin over http, which is a view of the agent's book."""

    ConnectionCls = AgentConnection
    keeper: SocketKeeper
    origin: str

    def adopt(self, keeper: SocketKeeper, origin: str) -> None:
        """Get sockets from `keeper`, under the origin's key. Before anything else."""
        self.keeper = keeper
        self.origin = origin

    def urlopen(self, method: str, url: str, *args: Any, **options: Any) -> BaseHTTPResponse:
        """As urllib3's. Raises `LocationParseError` for a URL with a control character, before anything is sent."""
        refuse_control_characters(url)
        return super().urlopen(method, url, *args, **options)

    def _get_conn(self, timeout: float | None = None) -> BaseHTTPConnection:
        """A connection for a request. `timeout` is how long to wait for one, where that is not the agent's to say."""
        keeper = self.keeper
        wait_s = timeout if timeout is not None else keeper.options.queue_timeout or None
        book = keeper.book
        try:
            booked = keeper.checkout(self.origin, wait_s)
        except QueueTimeoutError as error:
            raise EmptyPoolError(self, str(error)) from error
        except AgentClosedError as error:
            raise ClosedPoolError(self, str(error)) from error
        try:
            while booked.handle is not None:
                kept = cast("AgentConnection", booked.handle)
                why_not = kept.is_stale()
                if why_not is None:
                    return cast("BaseHTTPConnection", kept)
                booked = kept.make_way(why_not)
            connection = cast("AgentConnection", self._new_conn())
            connection.attach(weakref.ref(keeper), book, booked)
        except AgentClosedError as error:
            raise ClosedPoolError(self, str(error)) from error
        except BaseException:  # a signal's, a greenlet's end, an option that is none: the place is not lost
            handle = booked.handle
            keeper.remove(book, booked, CloseReason.ABORTED)
            if handle is not None:
                handle.close_socket()
            raise
        return cast("BaseHTTPConnection", connection)

    def _prepare_proxy(self, conn: BaseHTTPConnection) -> None:
        try:
            super()._prepare_proxy(conn)
        except AgentClosedError as error:
            raise ClosedPoolError(self, str(error)) from error

    def _put_conn(self, conn: BaseHTTPConnection | None) -> None:
        """A request is over. A connection whose response was not read to its end is closed."""
        if isinstance(conn, AgentConnection):
            conn.give_back(wanted=self.pool is not None)

    def _make_request(  # type: ignore[override]  # its many options are passed through
        self,
        conn: BaseHTTPConnection,
        method: str,
        url: str,
        body: Any = None,  # as urllib3's
        **options: Any,  # as urllib3's
    ) -> BaseHTTPResponse:
        """Send a request and read its response, on a second socket if the first was stale and that is safe (AK-34)."""
        connection = cast("AgentConnection", conn)
        position = _position(body)
        try:
            response = self._exchange(connection, method, url, body, options)
        except ProtocolError as error:
            stale = isinstance(error.__cause__, StaleSocketError) and self._may_send_again(method, body, position)
            if not stale or not connection.reopen(CloseReason.SERVER_CLOSED):
                raise
            if position is not None:
                body.seek(position)
            tunnel = connection_requires_http_tunnel(self.proxy, self.proxy_config, self.scheme)
            if self.proxy is not None and tunnel:
                self._prepare_proxy(conn)
            response = self._exchange(connection, method, url, body, options)
        if not options.get("preload_content", True) and response.closed and response.status != 101:
            response.release_conn()  # there is nothing to be read, and so nothing that would release it
        return response

    def _exchange(
        self,
        connection: AgentConnection,
        method: str,
        url: str,
        body: Any,  # as urllib3's
        options: dict[str, Any],  # as urllib3's
    ) -> BaseHTTPResponse:
        """One attempt. Raises urllib3's errors, from ours."""
        if body is not None:
            timeout = self._get_timeout(options.get("timeout", self.timeout))
            timeout.start_connect()
            connection.send_timeout = timeout.read_timeout
        try:
            return super()._make_request(cast("BaseHTTPConnection", connection), method, url, body=body, **options)
        except (SocketClosedError, SocketTimeoutError, ResponseParseError) as error:
            raise ProtocolError("Connection aborted.", error) from error
        except AgentClosedError as error:
            raise ClosedPoolError(self, str(error)) from error

    def _may_send_again(self, method: str, body: object, position: int | None) -> bool:
        return (
            self.keeper.options.retry_stale
            and method.upper() in _IDEMPOTENT_METHODS
            and (body is None or isinstance(body, bytes | bytearray | str) or position is not None)
        )

    def close(self) -> None:
        """Close the free sockets, and the active ones when they come back."""
        was_open, self.pool = self.pool is not None, None
        if was_open and hasattr(self, "keeper"):
            self.keeper.clear(self.origin)


class AgentTlsPool(AgentPool, HTTPSConnectionPool):
    """The pool of an origin over https."""

    ConnectionCls = AgentTlsConnection


def refuse_control_characters(url: str) -> None:
    """Raise `LocationParseError` for a URL that urllib3 would encode, or send, with what splits lines in it."""
    if _CONTROL.search(url):
        raise LocationParseError(f"{url!r} holds a control character")


def _position(body: Any) -> int | None:  # whatever urllib3 takes
    """Where a file stands, if it can be put back there."""
    if not hasattr(body, "tell") or not hasattr(body, "seek"):
        return None
    try:
        return int(body.tell()) if not hasattr(body, "seekable") or body.seekable() else None
    except OSError:
        return None
