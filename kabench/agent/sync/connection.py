"""The connections of the threaded agents: urllib3's, told what book and cycle decide, and read by our own reader.

Theory of operation. urllib3 is in charge: its pool calls `request`, then `getresponse`, the caller reads the response,
and the pool takes the connection back. `AgentConnection` stands in these places. http.client writes the head; bodies go
out through `send`, which listens for an early answer; what comes back is read by the strict reader that the asyncio
agents have, and never by http.client's response. The `Cycle` decides what all of it means.

A connection is one socket in the book, from the moment it is to be opened. Whatever closes it (urllib3, an error, the
garbage collector) tells the book, and only once. Not here: which connection a request gets and who waits
(`SocketKeeper`), carrying out a second attempt and raising what urllib3's callers expect (the pool; a connection raises
our errors), TLS contexts and sessions (`sync/tls.py`).

A connection belongs to one thread at a time and has no lock. Only its handle is used by others: the reaper closes free
sockets by it, and an agent that is closed wakes the threads that read. The book holds a connection only while it is
free, by that handle, and a connection holds the keeper weakly: so what is no longer used is collected, sockets included
(AK-58).

What is not ideal:
* http.client keeps a state of its own, which only its own response would end. It is reset by having it close while the
  socket is set aside. urllib3's `_response_options` is private to it, and read all the same.
* Each header is looked at twice: by us, for what may not go on the wire and for the few that count, and by http.client.
* A large request is sent with the socket made non-blocking and back again each time, so that reading and writing can be
  waited for together.
* Callers of urllib3 catch urllib3's errors, so ours are their causes. To see ours, a caller has to walk the chain.
* A response that is dropped unread closes its socket when it is collected, by `__del__`; elsewhere than in CPython that
  can be late.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import socket
import ssl
import weakref
from time import time
from typing import TYPE_CHECKING, Any, cast

from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError as UrllibConnectTimeoutError
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util.wait import wait_for_read, wait_for_socket

from kabench.agent.book import CloseReason, SocketState
from kabench.agent.cycle import (
    WRITTEN_AT_ONCE_BYTES,
    Cycle,
    Failed,
    Finished,
    Go,
    SendAgain,
    SentRequest,
    why_idle_ended,
)
from kabench.agent.errors import (
    AgentClosedError,
    AgentError,
    ConnectTimeoutError,
    ResponseParseError,
    TlsError,
    connect_error,
)
from kabench.agent.probes import set_user_timeout
from kabench.agent.reader import HeadCache, ResponseReader
from kabench.agent.sync.response import AgentResponse, RawBody
from kabench.agent.urls import check_header, checked_method, has_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kabench.agent.cycle import Step
    from kabench.agent.sync.keeper import Book, Booked, SocketKeeper

_READ_BYTES = 65_536
_HELD_BYTES = 16_384
"""A body up to this size leaves together with its head: that saves one system call and mostly one packet, for a
copy that costs less."""

_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


_LENGTHS_OF_NAMES = frozenset({len("connection"), len("expect"), len("upgrade")})
_sent_request = functools.lru_cache(maxsize=64)(SentRequest)
"""Most requests are alike, and making one costs half as much as all else that a cycle does."""


class EarlyResponseError(BrokenPipeError):
    """The server has answered before the request was sent: send no more. urllib3 goes on to read the response."""


class SendAgainError(Exception):
    """The socket was stale: the pool, which catches this, sends the request again on a fresh one."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason)
        self.reason = reason


class ConnectionHandle:
    """What the book has of a connection: all of it while it is free.

    While the connection carries a request, only the caller holds it, so that it is closed once the caller is gone,
    whatever has happened (AK-58).
    """

    __slots__ = ("_connection_of", "_kept", "sock")

    def __init__(self, connection: AgentConnection, sock: socket.socket | None) -> None:
        self._connection_of = weakref.ref(connection)
        self._kept: AgentConnection | None = None
        self.sock = sock

    def keep(self, connection: AgentConnection) -> None:
        """Hold the connection, which is about to be free."""
        self._kept = connection

    def take(self) -> AgentConnection:
        """Give the connection to a request. Raises `AgentClosedError` if it is gone."""
        connection, self._kept = self._kept, None
        if connection is None:
            raise AgentClosedError("the connection is gone")
        return connection

    def close_socket(self) -> None:
        """Close the socket; the book has let go of it."""
        connection = self._kept or self._connection_of()
        if connection is not None:
            connection.close_socket()

    def interrupt(self) -> None:
        """Wake the thread that reads from the socket.

        It shuts down TCP below TLS: shutting the TLS socket down would leave what comes after it encrypted.
        """
        if self.sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class AgentConnection(HTTPConnection):
    """A connection over http. `booked` is its socket in the book, None once it is closed.

    `serial` changes with each request and on closing, so that a response knows whether the connection is still its own.
    `repeatable` and `read_timeout` (seconds or None) belong to the request that is about to be sent.
    """

    keeper_of: weakref.ref[SocketKeeper]
    book: Book
    booked: Booked | None = None
    reader: ResponseReader
    serial = 0
    retried = False
    repeatable = False
    read_timeout: float | None = None

    def attach(self, keeper_of: weakref.ref[SocketKeeper], book: Book, booked: Booked) -> None:
        """Become a socket of a book. Call it before any other method."""
        self.keeper_of = keeper_of
        self.book = book
        self.booked = booked
        self.reader = ResponseReader(HeadCache())
        self._cycle = Cycle(SentRequest(), self.reader, booked.origin, reused=False)
        self._finished: Finished | None = None
        self._session_key: str | None = None
        self._has_kept_session = False
        self._close_reason = CloseReason.ABORTED
        self._user_timeout_s = 0.0
        self._sent_bytes = 0
        self._held: bytearray | None = None
        self._has_set_read_timeout = True
        self._added_connection: str | None = None

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
        """Open the socket and tell the book. Raises urllib3's errors, with our `ConnectError` as their cause."""
        booked = self.booked
        self._close_reason = CloseReason.ERROR  # in case it cannot be opened and is closed
        try:
            super().connect()
        except Exception as error:
            if booked is not None:
                self._explain(error, booked.origin)
            raise
        self._close_reason = CloseReason.ABORTED
        sock = self.sock if isinstance(self.sock, socket.socket) else None
        self._user_timeout_s = 0.0
        if booked is not None and booked.state is not SocketState.ACTIVE:
            self._keeper.opened(self.book, booked, ConnectionHandle(self, sock))

    def _explain(self, error: Exception, origin: str) -> None:
        if isinstance(error, HTTPError | OSError) and not isinstance(error.__cause__, AgentClosedError):
            ours: Exception
            is_timeout = isinstance(error, UrllibConnectTimeoutError | TimeoutError)
            limit = float(self.timeout) if isinstance(self.timeout, int | float) else 0.0
            if (
                is_timeout and limit and not isinstance(error, NewConnectionError)
            ):  # which urllib3 derives from a timeout
                ours = ConnectTimeoutError(f"{origin}: not connected within {limit:g} s", limit)
            elif isinstance(error, ConnectionError) and self.sock is not None and self._tunnel_host is None:
                ours = TlsError(f"{origin}: the server closed the socket in the TLS handshake")
            else:
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
                ours = connect_error(origin, self.host, cause)
            ours.__cause__ = None if error.__cause__ is error else error.__cause__
            error.__cause__ = ours

    def _wait_no_less_than(self, timeout_s: float | None) -> None:
        """Make the system notice a silent peer (`tcp_user_timeout`), but no sooner than the request's own timeout."""
        seconds = self._keeper.options.tcp_user_timeout or 0.0
        if not seconds:
            return
        seconds = max(seconds, timeout_s or 0.0)
        if seconds != self._user_timeout_s and isinstance(self.sock, socket.socket):
            self._user_timeout_s = seconds
            if self.sock.family in _TCP_FAMILIES:
                set_user_timeout(self.sock, seconds)

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
        method = checked_method(method)
        headers = headers or {}
        keep_alive = self._keeper.options.keep_alive
        connection: str | None = None
        expects_continue = asks_to_switch = False
        for name, value in headers.items():
            name, value = _text(name), _text(value)  # they may be bytes
            check_header(name, value)
            if len(name) not in _LENGTHS_OF_NAMES:
                continue
            lowered = name.lower()
            if lowered == "connection":
                connection = value if connection is None else f"{connection},{value}"
            elif lowered == "expect":
                expects_continue = has_token(value, "100-continue")
            elif lowered == "upgrade":
                asks_to_switch = True
        if connection is not None and not keep_alive:  # a plain agent's own `Connection` wins
            each = [(_text(name), _text(value)) for name, value in headers.items()]
            headers = HTTPHeaderDict((name, value) for name, value in each if name.lower() != "connection")
            connection = None
        self._added_connection = None
        if connection is None:
            connection = "keep-alive" if keep_alive or self._keeper.options.hand_off else "close"
            self._added_connection = connection
        closes = connection != "keep-alive" and has_token(connection, "close")
        sent = _sent_request(closes, self.repeatable, expects_continue, asks_to_switch, body is not None)
        self.serial += 1
        self._sent_bytes = 0
        self._finished = None
        self.reader.begin(is_head_request=method == "HEAD")
        origin = "" if self.booked is None else self.booked.origin
        self._cycle = Cycle(sent, self.reader, origin, reused=self.reused)
        holds = body is None or (isinstance(body, bytes | str) and len(body) <= _HELD_BYTES)
        self._held = bytearray() if holds else None
        self._has_set_read_timeout = body is None
        if self.sock is None:
            self.connect()
        self._wait_no_less_than(self.read_timeout)
        super().request(method, url, body=body, headers=headers, **options)
        held, self._held = self._held, None
        if held:
            self.send(bytes(held))
        self._cycle.sent()

    def endheaders(self, *arguments: Any, **options: Any) -> None:  # http.client's
        """End the head. It says `Connection: keep-alive`, since some servers give no hint without it."""
        if self._added_connection is not None:
            self.putheader("Connection", self._added_connection)
        super().endheaders(*arguments, **options)

    def send(self, data: Any) -> None:  # whatever http.client takes
        """Send bytes. Raises `EarlyResponseError` if the server answers before all is sent."""
        if self._held is not None and isinstance(data, bytes):
            self._held += data
            return
        view = memoryview(data).cast("B")
        # urllib3 sets the read timeout once all is sent; until then its connect timeout would hold for a slow upload.
        if not self._has_set_read_timeout and self.sock is not None:
            self._has_set_read_timeout = True
            self.timeout = self.read_timeout
            self.sock.settimeout(self.timeout)
        try:
            if self._sent_bytes > WRITTEN_AT_ONCE_BYTES or len(view) > WRITTEN_AT_ONCE_BYTES:
                self._send_watching(view)
            else:
                self._sent_bytes += len(view)
                super().send(data)
        except AgentError:
            raise
        except TimeoutError as error:
            raise self._failed(self._silence(error)) from error.__cause__
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            # urllib3 goes on to read the response after a broken pipe or a reset, and these are neither.
            self._cycle.send_failed()
            raise EarlyResponseError("the server closed the socket while the request was sent") from error
        except EarlyResponseError:
            raise
        except ConnectionError as error:
            self._cycle.send_failed(error)  # urllib3 goes on to read what the server has said before
            raise

    def _send_watching(self, data: memoryview) -> None:
        """Send bytes while listening for an answer: a server that has answered may never read the rest."""
        if self.sock is None:
            self.connect()
        sock = self.sock
        sock.settimeout(0)  # a blocking write would not notice the answer
        try:
            while data:
                with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    sent = sock.send(data[:WRITTEN_AT_ONCE_BYTES])
                    self._sent_bytes += sent
                    data = data[sent:]
                if data and self._has_answered(sock):
                    raise EarlyResponseError("the server has answered before the request was sent")
                if data and not wait_for_socket(sock, read=True, write=True, timeout=self.timeout):
                    raise self._failed(self._silence(None))
        finally:
            sock.settimeout(self.timeout)

    def _has_answered(self, sock: socket.socket) -> bool:
        """Read what has come while a request is sent; return whether to send no more of it."""
        try:
            data = sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        if not data:
            self._cycle.send_failed()
            return True  # with a close, which reading the response will find again
        step = self._follow(self._read(data))
        return step is Go.STOP_SENDING or isinstance(step, Finished)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def getresponse(self) -> AgentResponse:  # type: ignore[override]  # a kind of urllib3's
        """Return the response to the request that was sent, its body read or to be read.

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
        head = reader.head
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
        """Reset http.client for the next request, as its own response would."""
        sock, self.sock = self.sock, None
        http.client.HTTPConnection.close(self)
        self.sock = sock

    def receive(self) -> None:
        """Read more of the response. Raises as `getresponse` does, and notes why the socket will be closed."""
        self._follow(self._step_of_read())

    def _step_of_read(self) -> Step:
        """Read from the socket; return what to do now."""
        try:
            data = self.sock.recv(_READ_BYTES)
        except TimeoutError as error:
            step = self._silence(error)
        except ssl.SSLEOFError:  # no close_notify: the body may have been cut off
            step = self._cycle.closed(cut_off=True)
        except ssl.SSLError as error:
            self._close_reason = CloseReason.ERROR
            if self.booked is not None:
                error.__cause__ = connect_error(self.booked.origin, self.host, error)
            raise
        except OSError as error:
            step = self._cycle.broken(error, self._user_timeout_s)
        else:
            if data and not self.book.is_closed:
                return self._read(data)
            step = self._cycle.closed()
        if self.book.is_closed:
            raise AgentClosedError("the agent was closed while the request was under way")
        return step

    def _read(self, data: bytes) -> Step:
        """Feed the reader; return what to do now."""
        try:
            if not self.reader.feed_known(data):
                self.reader.feed(data)
        except ResponseParseError as error:
            error.__traceback__ = None  # it is raised again, and its frames would hold it
            return self._cycle.distrust(error)
        return self._cycle.received()

    def _follow(self, step: Step) -> Step:
        """Do what the cycle says. Raises its error, and `SendAgainError`."""
        if isinstance(step, Finished):
            self._finished = step
            if step.is_stale:
                self._keeper.met_stale(self.book)
        elif isinstance(step, SendAgain):
            raise SendAgainError(step.reason)
        elif isinstance(step, Failed):
            try:
                raise self._failed(step)
            finally:
                del step  # which holds the error, whose traceback holds this frame
        return step

    def _silence(self, error: TimeoutError | None) -> Step:
        """Return what to do when no byte has come for too long, by our own clock or by the system's."""
        if error is not None and error.errno == errno.ETIMEDOUT:
            return self._cycle.broken(error, self._user_timeout_s)
        return self._cycle.timed_out(float(self.timeout) if isinstance(self.timeout, int | float) else 0.0)

    def _failed(self, step: Step) -> AgentError:
        """Return the error to raise; tell the book the rest."""
        if not isinstance(step, Failed):
            raise TypeError(f"{step} is no failure")
        self._close_reason = step.reason
        if self.booked is not None:
            if step.is_stale:
                self._keeper.met_stale(self.book)
            if step.doubts_idle:
                self._keeper.doubt_idle(self.book, self.booked)
        return step.error

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def give_back(self, *, wanted: bool) -> None:
        """Give the socket back after a request: to the pool, if the response was read to its end and allows it."""
        booked, head, finished = self.booked, self.reader.head, self._finished
        if booked is None:
            return
        if head is None or finished is None:
            self.close()
            return
        self.retried = False
        self._close_reason = CloseReason.ABORTED
        request = booked.request
        try:
            if isinstance(booked.handle, ConnectionHandle):
                booked.handle.keep(self)  # before the book decides: another thread may take it at once
            reusable = wanted and finished.reusable and self.sock is not None
            known = self._keeper.checkin(self.book, booked, reusable=reusable, hint=head.hint)
        except BaseException:
            if booked.request is request:  # the book has not decided
                self.close()
            raise
        if not known:
            self.close_socket()

    def is_stale(self) -> CloseReason | None:
        """Return why a free socket cannot be used, if so, by what the system or TLS holds for it (AK-61)."""
        sock = self.sock
        if sock is None:
            return why_idle_ended(None)
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return why_idle_ended(None, stray_bytes=True)
        if not wait_for_read(sock, timeout=0.0):
            return None
        sock.settimeout(0)
        try:
            return why_idle_ended(None, stray_bytes=bool(sock.recv(1)))
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # session tickets and the like, which the TLS layer has taken
        except ssl.SSLEOFError:
            return why_idle_ended(None)  # closed without a close_notify
        except OSError as error:
            return why_idle_ended(error)
        finally:
            sock.settimeout(self.timeout)

    def reopen(self, reason: CloseReason) -> bool:
        """Become a fresh socket for the same request; return False if the agent was closed."""
        booked = self.booked
        if booked is None:
            return False
        keeper = self._keeper
        self.serial += 1
        super().close()  # the socket alone: its place becomes another's
        self.retried = True
        self._has_kept_session = False
        return keeper.reopen(self, reason)

    def _keep_session(self) -> None:
        key = self._session_key
        if key is not None and not self._has_kept_session and isinstance(self.sock, ssl.SSLSocket):
            kept = self._keeper.sessions.keep(key, self.sock, time())
            # A server that has given no ticket with its second response gives none.
            self._has_kept_session = kept or (self.booked is not None and self.booked.request_count > 1)

    def close(self) -> None:
        """Close the socket, and tell the book, whatever happens."""
        booked = self.booked
        try:
            self.serial += 1
            super().close()
        finally:
            keeper = None if booked is None else self.keeper_of()
            if booked is not None and keeper is not None:
                keeper.remove(self.book, booked, self._close_reason)
            self.booked = None

    def close_socket(self) -> None:
        """Close the socket; the book has let go of it."""
        self.booked = None
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the interpreter, anything may be gone
            if self.booked is not None:
                self.close()


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


def _text(value: object) -> str:
    if type(value) is str:
        return value
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
