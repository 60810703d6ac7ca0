"""urllib3's connection pools, without a queue of their own: the agent's keeper says which socket a request gets.

Everything else of `urlopen` is urllib3's: timeouts, `Retry`, redirects, proxies. A pool that was closed still carries
out requests that are made through it, but keeps no sockets. A pool that urllib3 has only evicted from its cache (the
least recently used one) goes on keeping sockets as long as something holds it (AK-60).
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, cast

from urllib3 import Retry, Timeout
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ClosedPoolError,
    EmptyPoolError,
    HTTPError,
    LocationParseError,
    ProtocolError,
)
from urllib3.util.proxy import connection_requires_http_tunnel

from kabench.agent.errors import (
    AgentClosedError,
    QueueTimeoutError,
    ResponseParseError,
    SocketClosedError,
    SocketTimeoutError,
)
from kabench.agent.sync.connection import AgentConnection, AgentTlsConnection, ConnectionHandle, SendAgainError
from kabench.agent.sync.errors import UntrustedResponseError, untrusted
from kabench.agent.sync.keeper import SyncRequest
from kabench.agent.urls import checked_method, has_control_characters, is_repeatable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3._base_connection import BaseHTTPConnection
    from urllib3.response import BaseHTTPResponse

    from kabench.agent.sync.keeper import SocketKeeper

_NO_RESEND = "_kabench_no_resend"
"""Marks a `Retry(False)` that the caller passed with a request: it turns off AK-34 too."""

_ADAPTER_DEFAULT = "_kabench_adapter_default"
"""Marks the `Retry` that an adapter passes where its caller passed none."""


class _UntrustedError(HTTPError):
    """Carries an `UntrustedResponseError` past urllib3's retries, which any `ProtocolError` would start."""

    def __init__(self, error: UntrustedResponseError) -> None:
        super().__init__(str(error))
        self.error = error


def as_adapter_default(retries: Retry) -> Retry:
    """Mark the `retries` that an adapter passes where its caller passed none: they do not turn off AK-34."""
    setattr(retries, _ADAPTER_DEFAULT, True)
    return retries


class AgentPool(HTTPConnectionPool):
    """The pool of an origin over http, which is a view of the agent's book."""

    ConnectionCls = AgentConnection
    keeper: SocketKeeper
    origin: str

    def adopt(self, keeper: SocketKeeper, origin: str) -> None:
        """Get sockets from `keeper`, under the origin's key. Call it before any other method."""
        self.keeper = keeper
        self.origin = origin
        keeper.pools.add(self)
        weakref.finalize(self, _pool_is_gone, weakref.ref(keeper), origin).atexit = False

    def urlopen(  # type: ignore[override]  # its many options are passed through
        self,
        method: str,
        url: str,
        body: Any = None,  # as urllib3's
        headers: Mapping[str, str] | None = None,
        retries: Retry | bool | int | None = None,
        *args: Any,  # as urllib3's
        **options: Any,  # as urllib3's
    ) -> BaseHTTPResponse:
        """Send a request as urllib3 does. Raises `LocationParseError` for a URL with a control character, unsent.

        A response that cannot be trusted raises `UntrustedResponseError` (AK-56), and its request is not sent again.
        """
        refuse_control_characters(url)
        if retries is False:
            retries = Retry(False, redirect=False)
        if isinstance(retries, Retry) and retries.total is False and not hasattr(retries, _ADAPTER_DEFAULT):
            setattr(retries, _NO_RESEND, True)
        try:
            response = super().urlopen(checked_method(method), url, body, headers, retries, *args, **options)
        except _UntrustedError as error:
            raise error.error from error.error.__cause__
        if response.retries is not None and response.retries.history:
            for past in response.retries.history:
                _let_go_of_frames(past.error)
        return response

    def _get_conn(self, timeout: float | None = None) -> BaseHTTPConnection:
        """Return a connection for a request. `timeout`: seconds to wait for one; None: the agent's `queue_timeout`."""
        keeper = self.keeper
        book = keeper.book
        request = SyncRequest(self.origin)
        try:
            booked = keeper.checkout(request, timeout if timeout is not None else keeper.options.queue_timeout or None)
            while isinstance(booked.handle, ConnectionHandle):
                kept = booked.handle.take()
                why_not = kept.is_stale()
                if why_not is None:
                    return cast("BaseHTTPConnection", kept)
                kept.close_socket()
                booked = keeper.replace(book, request, why_not)
            connection = cast("AgentConnection", self._new_conn())
            connection.attach(weakref.ref(keeper), book, booked)
        except QueueTimeoutError as error:
            raise EmptyPoolError(self, str(error)) from error
        except AgentClosedError as error:
            keeper.give_up(book, request)
            raise ClosedPoolError(self, str(error)) from error
        except BaseException:  # a signal, the end of a greenlet, an invalid option: the place must not be lost
            keeper.give_up(book, request)
            raise
        return cast("BaseHTTPConnection", connection)

    def _prepare_proxy(self, conn: BaseHTTPConnection) -> None:
        try:
            super()._prepare_proxy(conn)
        except AgentClosedError as error:
            raise ClosedPoolError(self, str(error)) from error

    def _put_conn(self, conn: BaseHTTPConnection | None) -> None:
        """Take back a connection after its request; close it if the response was not read to its end."""
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
        can_restart = body is None or isinstance(body, bytes | bytearray | str) or position is not None
        connection.repeatable = (
            can_restart
            and not hasattr(options.get("retries"), _NO_RESEND)
            and is_repeatable(method, options.get("headers") or (), self.keeper.options.retry_stale)
        )
        try:
            response = self._exchange(connection, method, url, body, options)
        except SendAgainError as again:
            if not connection.reopen(again.reason):
                raise ClosedPoolError(self, "the agent was closed while the request was under way") from None
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
        """Send a request once. Raises urllib3's errors, caused by ours, and `SendAgainError`."""
        connection.read_timeout = self._read_timeout(options.get("timeout", self.timeout))
        try:
            return super()._make_request(cast("BaseHTTPConnection", connection), method, url, body=body, **options)
        except ResponseParseError as error:
            raise _UntrustedError(untrusted("Connection aborted.", error)) from error
        except UntrustedResponseError as error:  # raised by a body that is read at once
            raise _UntrustedError(error) from error
        except (SocketClosedError, SocketTimeoutError) as error:
            raise ProtocolError("Connection aborted.", error) from error
        except AgentClosedError as error:
            raise ClosedPoolError(self, str(error)) from error

    def _read_timeout(self, timeout: Any) -> float | None:  # whatever urllib3 takes
        """Return the activity timeout (seconds; None: none) of a request that is about to begin."""
        if isinstance(timeout, Timeout) and timeout.total is None:
            return timeout.read_timeout
        begun = self._get_timeout(timeout)
        begun.start_connect()
        return begun.read_timeout

    def close(self) -> None:
        """Close the free sockets now, and the active ones when they come back."""
        was_open, self.pool = self.pool is not None, None
        if was_open and hasattr(self, "keeper"):
            self.keeper.clear(self.origin)


class AgentTlsPool(AgentPool, HTTPSConnectionPool):
    """The pool of an origin over https."""

    ConnectionCls = AgentTlsConnection


def refuse_control_characters(url: str) -> None:
    """Raise `LocationParseError` for a URL with a control character, which urllib3 would encode or even send."""
    if has_control_characters(url):
        raise LocationParseError(f"{url!r} holds a control character")


def _pool_is_gone(keeper_of: weakref.ref[SocketKeeper], origin: str) -> None:
    """Close the free sockets of an origin, unless another pool of it is left."""
    keeper = keeper_of()
    if keeper is not None and all(pool.origin != origin for pool in keeper.pools):
        keeper.pool_dropped(origin)


def _let_go_of_frames(error: object) -> None:
    """Drop the tracebacks of an error that a retry has overcome.

    Their frames lead to those of the callers, which hold the response, and so a response dropped unread would keep its
    socket until the cyclic garbage collector came by (AK-59).
    """
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            found.__traceback__ = None
            waiting += [found.__cause__, found.__context__, *found.args]


def _position(body: Any) -> int | None:  # whatever urllib3 takes
    """Return the position of a file, if it can be set back to it."""
    if not hasattr(body, "tell") or not hasattr(body, "seek"):
        return None
    try:
        return int(body.tell()) if not hasattr(body, "seekable") or body.seekable() else None
    except OSError:
        return None
