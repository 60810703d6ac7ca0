"""The connections of the threaded agents: urllib3's, told what the book decides, and read by our own reader.

A connection is one socket in the book, from the moment it is to be opened. Whatever closes it (urllib3, an error, the
garbage collector) tells the book, and only once.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import re
import socket
import ssl
from time import time
from typing import TYPE_CHECKING, Any, cast

from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError as UrllibConnectTimeoutError
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util.wait import wait_for_read, wait_for_socket

from kabench.agent.book import CloseReason, SocketState
from kabench.agent.errors import (
    AgentClosedError,
    ConnectTimeoutError,
    IncompleteResponseError,
    ResponseParseError,
    SocketClosedError,
    SocketTimeoutError,
    StaleSocketError,
    TlsError,
    connect_error,
)
from kabench.agent.reader import HeadCache, ResponseReader
from kabench.agent.sync.response import AgentResponse, RawBody

if TYPE_CHECKING:
    import weakref
    from collections.abc import Iterable, Mapping

    from kabench.agent.reader import ResponseHead
    from kabench.agent.sync.keeper import Book, Booked, SocketKeeper

_READ_BYTES = 65_536
_SENT_UNWATCHED_BYTES = 65_536
"""What is sent before it is looked whether the server has already answered."""

_HELD_BYTES = 16_384
"""A body up to this size leaves together with its head."""

_UNSET = object()
_FIRST_UNWANTED_STATUS = 300
"""A response of this status or more that comes before the request was sent means that the rest is not wanted."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_SPLITS_A_LINE = re.compile(r"[\r\n\0]")
_NOT_WHOLE = "the server closed the socket in the middle of its response"


class EarlyResponseError(BrokenPipeError):
    """The server has answered before the request was sent: send no more. urllib3 goes on to read the response."""


class AgentConnection(HTTPConnection):
    """A connection over http. `booked` is its socket in the book, None once it is closed.

    `serial` changes with each request and on closing, so that a response knows whether the connection is still its own.
    """

    keeper_of: weakref.ref[SocketKeeper]
    book: Book
    booked: Booked | None = None
    reader: ResponseReader
    serial = 0
    retried = False
    send_timeout: Any = _UNSET  # seconds or None, while a request's body is about to be sent

    def attach(self, keeper_of: weakref.ref[SocketKeeper], book: Book, booked: Booked) -> None:
        """Become a socket of a book. Before anything else."""
        self.keeper_of = keeper_of
        self.book = book
        self.booked = booked
        self.reader = ResponseReader(HeadCache())
        self._interruptible: socket.socket | None = None
        self._session_key: str | None = None
        self._has_kept_session = False
        self._close_reason = CloseReason.ABORTED
        self._sent_bytes = 0
        self._held: bytearray | None = None
        self._is_sent = True
        self._is_answered_early = False
        self._asks_to_close = False
        self._added_connection: str | None = None
        self._head: ResponseHead | None = None

    @property
    def _keeper(self) -> SocketKeeper:
        keeper = self.keeper_of()
        if keeper is None:
            raise AgentClosedError("the agent of this connection is gone")
        return keeper

    @property
    def reused(self) -> bool:
        """Whether the socket has carried a request before the present one."""
        return self.booked is not None and self.booked.reused

    # -- opening -------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the socket and tell the book. What fails has our `ConnectError` as its cause."""
        booked = self.booked
        self._close_reason = CloseReason.ERROR
        try:
            super().connect()
        except Exception as error:
            if booked is not None:
                self._explain(error, booked.origin)
            raise
        self._close_reason = CloseReason.ABORTED
        self._interruptible = self.sock if isinstance(self.sock, socket.socket) else None
        if booked is not None and booked.state is not SocketState.ACTIVE:
            self._keeper.opened(self.book, booked, self)

    def _explain(self, error: Exception, origin: str) -> None:
        if isinstance(error, HTTPError | OSError) and not isinstance(error.__cause__, AgentClosedError):
            ours: Exception
            is_timeout = isinstance(error, UrllibConnectTimeoutError | TimeoutError)
            if is_timeout and not isinstance(error, NewConnectionError):  # which urllib3 counts as one
                limit = float(self.timeout) if isinstance(self.timeout, int | float) else 0.0
                ours = ConnectTimeoutError(f"{origin}: not connected within {limit:g} s", limit)
            elif isinstance(error, ConnectionError) and self.sock is not None and self._tunnel_host is None:
                ours = TlsError(f"{origin}: the server closed the socket in the TLS handshake")
            else:
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
                ours = connect_error(origin, self.host, cause)
            ours.__cause__ = None if error.__cause__ is error else error.__cause__
            error.__cause__ = ours

    # -- sending -------------------------------------------------------------------------------------------------------

    def request(  # type: ignore[override]  # as urllib3's
        self,
        method: str,
        url: str,
        body: Any = None,  # whatever urllib3 takes
        headers: Mapping[str, str] | None = None,
        **options: Any,  # urllib3's
    ) -> None:
        """Send a request. Raises `ValueError` for what may not go on the wire."""
        keeper = self._keeper
        headers = _checked(method, headers or {})
        asked = [_lowered(value) for name, value in headers.items() if _lowered(name) == "connection"]
        agent_options = keeper.options
        if asked and not agent_options.keep_alive:  # of a plain agent, its own word counts
            headers = HTTPHeaderDict((name, value) for name, value in headers.items() if _lowered(name) != "connection")
            asked = []
        self._added_connection = None
        if not asked:
            self._added_connection = "keep-alive" if agent_options.keep_alive or agent_options.hand_off else "close"
            asked = [self._added_connection]
        self._asks_to_close = any("close" in value for value in asked)
        self.serial += 1
        self._sent_bytes = 0
        self._is_sent = self._is_answered_early = False
        self._head = None
        self.reader.begin(is_head_request=method.upper() == "HEAD")
        holds = body is None or (isinstance(body, bytes | str) and len(body) <= _HELD_BYTES)
        self._held = bytearray() if holds else None
        if self.sock is None:
            self.connect()
        super().request(method, url, body=body, headers=headers, **options)
        held, self._held = self._held, None
        if held:
            self.send(bytes(held))
        self._is_sent = True

    def endheaders(self, *arguments: Any, **options: Any) -> None:  # http.client's
        """End the head. `Connection: keep-alive` is said aloud, because some servers give no hint without it."""
        if self._added_connection is not None:
            self.putheader("Connection", self._added_connection)
        super().endheaders(*arguments, **options)

    def send(self, data: Any) -> None:  # whatever http.client takes
        """Send bytes. Raises `EarlyResponseError` if the server answers before all is sent."""
        if self._held is not None and isinstance(data, bytes):
            self._held += data
            return
        view = memoryview(data).cast("B")
        if self.send_timeout is not _UNSET and self.sock is not None:
            self.timeout, self.send_timeout = self.send_timeout, _UNSET
            self.sock.settimeout(self.timeout)
        try:
            if self._sent_bytes > _SENT_UNWATCHED_BYTES or len(view) > _SENT_UNWATCHED_BYTES:
                self._send_watching(view)
            else:
                self._sent_bytes += len(view)
                super().send(data)
        except SocketTimeoutError:
            raise
        except TimeoutError:
            raise self._timed_out() from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise EarlyResponseError("the server closed the socket while the request was sent") from error

    def _send_watching(self, data: memoryview) -> None:
        """Send bytes while listening for an answer: a server that has answered may never read the rest."""
        if self.sock is None:
            self.connect()
        sock = self.sock
        sock.settimeout(0)
        try:
            while data:
                with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    sent = sock.send(data[:_SENT_UNWATCHED_BYTES])
                    self._sent_bytes += sent
                    data = data[sent:]
                if data and self._has_answered(sock):
                    raise EarlyResponseError("the server has answered before the request was sent")
                if data and not wait_for_socket(sock, read=True, write=True, timeout=self.timeout):
                    raise self._timed_out()
        finally:
            sock.settimeout(self.timeout)

    def _has_answered(self, sock: socket.socket) -> bool:
        """Whether the server wants no more; an informational response (100 Continue) does not say so."""
        try:
            data = sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        if not data:
            return True  # with a close, which reading the response will find again
        self.reader.feed(data)
        head = self.reader.head
        if head is None:
            return False
        self._is_answered_early = True
        return head.status >= _FIRST_UNWANTED_STATUS or self.reader.complete

    # -- receiving -----------------------------------------------------------------------------------------------------

    def getresponse(self) -> AgentResponse:  # type: ignore[override]  # a kind of urllib3's
        """The response to the request that was sent, its body read or to be read.

        Raises `SocketTimeoutError`, `SocketClosedError` and its kinds, and `ResponseParseError`; the pool makes
        urllib3's errors of them.
        """
        options, self._response_options = self._response_options, None
        if options is None or self.sock is None:
            raise http.client.ResponseNotReady
        self.sock.settimeout(self.timeout)
        keeper = self._keeper
        reader = self.reader
        while reader.head is None:
            self.receive()
        head = self._head = reader.head
        self._keep_session()
        headers = HTTPHeaderDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.raw_headers)
        limit = keeper.options.max_response_bytes if options.preload_content else None
        reused = self.reused
        sock_shutdown = getattr(self.sock, "shutdown", None)  # TLS within TLS has none
        self._forget_http_client_state()
        raw = RawBody(self, head, headers, options.request_method, limit)
        response = AgentResponse(
            body=cast("Any", raw),  # a file as http.client's response is
            headers=headers,
            status=head.status,
            version=raw.version,
            version_string=f"HTTP/{head.http_version}",
            reason=head.reason,
            preload_content=options.preload_content,
            decode_content=options.decode_content,
            original_response=cast("Any", raw),
            enforce_content_length=options.enforce_content_length,
            request_method=options.request_method,
            request_url=options.request_url,
            sock_shutdown=sock_shutdown,
            max_bytes=limit,
        )
        response.reused_socket = reused
        response.retried = self.retried
        return response

    def _forget_http_client_state(self) -> None:
        """Have http.client ready for the next request, which its own response would see to."""
        sock, self.sock = self.sock, None
        http.client.HTTPConnection.close(self)
        self.sock = sock

    def receive(self) -> None:
        """Read more of the response. Raises as `getresponse` does, and notes why the socket will be closed."""
        reader = self.reader
        try:
            data = self.sock.recv(_READ_BYTES)
        except TimeoutError as error:
            if error.errno == errno.ETIMEDOUT:  # the system gave up, not we
                raise self._closed_by_server(error) from error
            raise self._timed_out() from None
        except ssl.SSLEOFError as error:
            data = b""
            cut_off: Exception | None = error  # no close_notify: a body that ends so may have been cut off
        except ssl.SSLError as error:
            self._close_reason = CloseReason.ERROR
            if self.booked is not None:
                error.__cause__ = connect_error(self.booked.origin, self.host, error)
            raise
        except OSError as error:
            raise self._closed_by_server(error) from error
        else:
            cut_off = None
        if self.book.is_closed:
            raise AgentClosedError("the agent was closed while the request was under way")
        if data:
            try:
                reader.feed_known(data) or reader.feed(data)
            except ResponseParseError:
                self._close_reason = CloseReason.ERROR
                raise
        elif cut_off is not None or not reader.eof():
            raise self._closed_by_server(cut_off)

    def _timed_out(self) -> SocketTimeoutError:
        self._close_reason = CloseReason.ACTIVE_TIMEOUT
        silent_s = float(self.timeout) if isinstance(self.timeout, int | float) else 0.0
        origin = "" if self.booked is None else self.booked.origin
        return SocketTimeoutError(f"{origin}: no byte for {silent_s:g} s", silent_s, reused_socket=self.reused)

    def _closed_by_server(self, error: Exception | None) -> Exception:
        if self.book.is_closed:
            return AgentClosedError("the agent was closed while the request was under way")
        self._close_reason = CloseReason.SERVER_CLOSED if error is None else CloseReason.ERROR
        if self.reader.started:
            return IncompleteResponseError(_NOT_WHOLE, reused_socket=self.reused)
        if self.reused:
            return StaleSocketError(
                "the reused socket was closed by the server while the request was on its way", reused_socket=True
            )
        how = "closed the socket without a response" if error is None else f"broke off before a response: {error}"
        return SocketClosedError(f"the server {how}", reused_socket=False)

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def give_back(self, *, wanted: bool) -> None:
        """The request is over: back to the pool, if its response was read to the end and allows it."""
        booked, head = self.booked, self._head
        if booked is None:
            return
        if head is None or not self.reader.complete:
            self.close()
            return
        self.retried = False
        reusable = (
            wanted
            and head.keep_alive
            and not self.reader.overrun
            and self._is_sent
            and not self._is_answered_early
            and not self._asks_to_close
            and self.sock is not None
        )
        self._close_reason = CloseReason.ABORTED
        if not self._keeper.checkin(self.book, booked, reusable=reusable, hint=head.hint):
            self.close_socket()

    def is_stale(self) -> CloseReason | None:
        """Why a free socket cannot be used, if so: the server has closed it, or has sent what nobody asked for."""
        sock = self.sock
        if sock is None:
            return CloseReason.SERVER_CLOSED
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return CloseReason.STRAY_BYTES
        if not wait_for_read(sock, timeout=0.0):
            return None
        sock.settimeout(0)
        try:
            return CloseReason.STRAY_BYTES if sock.recv(1) else CloseReason.SERVER_CLOSED
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # session tickets and the like, which the TLS layer has taken
        except OSError:
            return CloseReason.ERROR
        finally:
            sock.settimeout(self.timeout)

    def make_way(self, reason: CloseReason) -> Booked:
        """Close the socket, which is dead; the one that its request gets instead. Raises `AgentClosedError`."""
        booked, self.booked = self.booked, None
        self.close()
        if booked is None:
            raise AgentClosedError("the agent was closed while the request was under way")
        return self._keeper.replace(self.book, booked, reason)

    def reopen(self, reason: CloseReason) -> bool:
        """Become a fresh socket for the same request; False if the agent was closed."""
        booked, self.booked = self.booked, None
        if booked is None:
            return False
        reopened = self._keeper.reopen(self.book, booked, reason)
        self.close()
        self.booked = reopened
        self.retried = True
        self._has_kept_session = False
        return reopened is not None

    def _keep_session(self) -> None:
        key = self._session_key
        if key is not None and not self._has_kept_session and isinstance(self.sock, ssl.SSLSocket):
            kept = self._keeper.sessions.keep(key, self.sock, time())
            # A server that has given no ticket with its second response gives none.
            self._has_kept_session = kept or (self.booked is not None and self.booked.request_count > 1)

    def close(self) -> None:
        """Close the socket; the book is told."""
        booked, self.booked = getattr(self, "booked", None), None
        self.serial += 1
        super().close()
        if booked is not None:
            keeper = self.keeper_of()
            if keeper is not None:
                keeper.remove(self.book, booked, self._close_reason)

    def close_socket(self) -> None:
        """Close the socket; the book has let go of it."""
        self.booked = None
        self.close()

    def interrupt(self) -> None:
        """Wake whoever reads from the socket.

        Below TLS: shutting a TLS socket down would leave what comes after it undeciphered.
        """
        sock = self._interruptible
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class AgentTlsConnection(AgentConnection, HTTPSConnection):
    """A connection over https."""

    def connect(self) -> None:
        """Open the socket, with a context that resumes the origin's last session."""
        keeper = self._keeper
        origin = "" if self.booked is None else self.booked.origin
        try:
            self._session_key, given = keeper.contexts.lend(self, origin)
        except Exception as error:  # a file that cannot be used
            self._close_reason = CloseReason.ERROR
            self._explain(error, origin)
            raise
        try:
            super().connect()
        except Exception:
            if self._session_key is not None:
                keeper.sessions.drop(self._session_key)
            raise
        finally:
            keeper.contexts.take_back(self, given)
        if isinstance(self.sock, ssl.SSLSocket):
            keeper.sessions.shook_hands(resumed=bool(self.sock.session_reused))


def _lowered(text: str | bytes) -> str:
    return (text.decode("latin-1") if isinstance(text, bytes) else str(text)).lower()


def _checked(method: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is no HTTP method")
    if method.upper() == "CONNECT":
        raise ValueError("CONNECT makes a tunnel, which this agent does not; for a proxy, use KeepAliveProxyAgent")
    items: Iterable[tuple[Any, Any]] = headers.items()
    for name, value in items:
        if not _TOKEN.fullmatch(name.decode("latin-1") if isinstance(name, bytes) else name):
            raise ValueError(f"{name!r} is no header name")
        if _SPLITS_A_LINE.search(value.decode("latin-1") if isinstance(value, bytes) else str(value)):
            raise ValueError(f"header {name}: its value holds CR, LF or NUL")
    return headers
