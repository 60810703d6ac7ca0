"""`Connection`: one socket of the asyncio agent. It carries out what the book has decided and reports what happened.

This is the hot path: nothing here is done per request that could be done per socket or per agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, cast

from kabench.agent.book import CloseReason, SocketState, ToClose
from kabench.agent.errors import (
    AgentError,
    IncompleteResponseError,
    ResponseParseError,
    SocketClosedError,
    StaleSocketError,
    UploadCancelledError,
)
from kabench.agent.probes import probe_options
from kabench.agent.reader import HeadCache, ResponseReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent.aio.exchange import Exchange
    from kabench.agent.aio.request import Origin, PreparedRequest
    from kabench.agent.aio.tls_connection import TlsConnection
    from kabench.agent.aio.upload import Upload
    from kabench.agent.book import BookedSocket, SocketBook
    from kabench.agent.options import AgentOptions
    from kabench.agent.reader import ResponseHead
    from kabench.agent.tls import SessionCache, TlsContexts

_NOT_WHOLE = "the server closed the socket in the middle of its response"
_WRITTEN_AT_ONCE_BYTES = 65_536
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_LEAST_COUNTED_BYTES = 512
"""What a piece of an upload counts for at least: to draw a small one takes as long as to send it."""

_FIRST_UNWANTED_STATUS = 300
"""A response of this status or more that comes before the request was sent means that the rest is not wanted."""


class Owner(Protocol):
    """What a connection needs of its agent."""

    book: SocketBook[Connection, Exchange]
    heads: HeadCache
    options: AgentOptions
    timer_at: float
    tls_contexts: TlsContexts
    tls_sessions: SessionCache

    def connecting(self, booked: BookedSocket[Connection, Exchange], connection: TlsConnection) -> bool:
        """A socket is there, but not ready yet; False if nobody wants it any more."""

    def connected(self, booked: BookedSocket[Connection, Exchange]) -> bool:
        """A socket is ready; False if nobody wants it any more."""

    def connect_failed(self, booked: BookedSocket[Connection, Exchange], origin: Origin, error: Exception) -> None:
        """A socket could not be made ready."""

    def open(self, booked: BookedSocket[Connection, Exchange]) -> None:
        """Open a socket for the request it carries."""

    def watch_deadlines(self) -> None:
        """See to it that the agent wakes up at the book's next deadline."""


class Connection(asyncio.Protocol):
    """The protocol of one connected socket. `exchange` is the request it carries; None while it is free."""

    __slots__ = (
        "_heads",
        "_in_response",
        "_is_answered_early",
        "_is_paused",
        "_is_reading_held",
        "_owner",
        "_reader",
        "_resumed",
        "_unsent",
        "_upload_task",
        "_waits_for_caller",
        "_write",
        "booked",
        "exchange",
        "transport",
    )

    transport: asyncio.Transport
    _write: Callable[[bytes | memoryview], None]

    def __init__(self, owner: Owner, booked: BookedSocket[Connection, Exchange]) -> None:
        self._owner = owner
        self.booked = booked
        self._heads = owner.heads
        self._reader: ResponseReader | None = None
        self._in_response = False
        self._is_answered_early = False
        self._is_paused = False
        self._is_reading_held = False
        self._unsent = memoryview(b"")
        self._upload_task: asyncio.Task[None] | None = None
        self._waits_for_caller = False
        self._resumed: asyncio.Event | None = None
        self.exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with the request the socket was opened for."""
        self.transport = cast("asyncio.Transport", transport)
        self._write = self.transport.write
        self._begin()

    def _begin(self) -> None:
        booked = self.booked
        exchange = booked.request
        if exchange is None or not self._owner.connected(booked):
            self.transport.abort()
            return
        self._set_socket_options(self._owner.options)
        now = perf_counter()
        owner = self._owner
        owner.book.opened(booked, self, now)
        if owner.book.next_deadline < owner.timer_at:
            owner.watch_deadlines()
        self.send(exchange, now)

    def _set_socket_options(self, options: AgentOptions) -> None:
        """Set what is not the event loop's default, which is TCP_NODELAY and no probes."""
        if options.no_delay and not options.keep_alive:
            return
        raw: socket.socket = self.transport.get_extra_info("socket")
        if raw.family not in _TCP_FAMILIES:
            return
        if not options.no_delay:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        if options.keep_alive:
            for option in probe_options(options.keep_alive_delay):
                raw.setsockopt(*option)

    def send(self, exchange: Exchange, now: float) -> None:
        """Write a request; the book has given it this socket."""
        booked = exchange.booked = self.booked
        exchange.reused_socket = booked.request_count > 1
        exchange.sent_at = now
        self.exchange = exchange
        prepared = exchange.prepared
        if prepared.needs_a_look:
            self._unsent = memoryview(prepared.wire)
            self._write_on()
            if exchange.upload is not None:
                self._upload_task = asyncio.get_running_loop().create_task(self._send_upload(exchange, exchange.upload))
        else:
            self._write(prepared.wire)

    def _write_on(self) -> None:
        """Write as much of a large request as the transport takes for now."""
        while self._unsent and not self._is_paused:
            piece, self._unsent = self._unsent[:_WRITTEN_AT_ONCE_BYTES], self._unsent[_WRITTEN_AT_ONCE_BYTES:]
            self._write(piece)

    async def _send_upload(self, exchange: Exchange, upload: Upload) -> None:
        """Send a body as it is read. A reader that raises fails the request, with its own error."""
        written = 0
        self._wait_for_caller()
        try:
            async with contextlib.aclosing(upload.pieces()) as pieces:
                async for piece in pieces:
                    if self.exchange is not exchange:
                        return  # it was told to stop, and would not
                    self._waits_for_caller = False
                    self._touch(perf_counter())
                    rest = memoryview(piece)
                    while rest:
                        if self._is_paused or self._unsent:
                            self._resumed = asyncio.Event()
                            await self._resumed.wait()
                            continue
                        self._write(rest[:_WRITTEN_AT_ONCE_BYTES])
                        rest = rest[_WRITTEN_AT_ONCE_BYTES:]
                    written += max(len(piece), _LEAST_COUNTED_BYTES)
                    if written > _WRITTEN_AT_ONCE_BYTES:
                        written = 0
                        await asyncio.sleep(0)  # others have their turn too, and the server's answer is seen
                    self._wait_for_caller()
        except (Exception, asyncio.CancelledError) as error:
            if self._upload_task is not asyncio.current_task():
                raise  # it was told to stop
            self._upload_task = None
            self._waits_for_caller = False
            # The error is the caller's own, and he waits for it.
            own = error if isinstance(error, Exception) else UploadCancelledError("the body's iterator was cancelled")
            self._fail(exchange, own, CloseReason.ABORTED, perf_counter())
        else:
            self._upload_task = None
            self._waits_for_caller = False
            self._touch(perf_counter())

    def _wait_for_caller(self) -> None:
        """While the caller has nothing to send, the server need not answer."""
        self._waits_for_caller = True
        self._owner.book.hold(self.booked)

    def _stop_sending(self) -> None:
        """Send no more of the request."""
        self._unsent = memoryview(b"")
        self._waits_for_caller = False
        task, self._upload_task = self._upload_task, None
        if task is not None:
            task.add_done_callback(_look_at_outcome)
            task.cancel()

    def pause_writing(self) -> None:
        """The transport has enough for now."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Bytes have gone out, which is activity; go on."""
        self._is_paused = False
        if self.exchange is not None:
            if not self._waits_for_caller:
                self._touch(perf_counter())
            self._write_on()
            if self._resumed is not None and not self._is_paused:
                self._resumed.set()

    def pause_reading(self) -> None:
        """The one who reads the body has enough for now; as long as he waits, no byte is missed."""
        exchange = self.exchange
        if exchange is not None and not self._is_reading_held and not self.transport.is_closing():
            self._is_reading_held = True
            self.transport.pause_reading()
            self._owner.book.hold(self.booked)

    def resume_reading(self) -> None:
        """Go on reading."""
        if self.exchange is not None and self._is_reading_held and not self.transport.is_closing():
            self._is_reading_held = False
            self.transport.resume_reading()
            self._touch(perf_counter())

    def _touch(self, now: float) -> None:
        """Bytes have moved, perhaps for the first time since none were expected."""
        owner = self._owner
        owner.book.touch(self.booked, now)
        if owner.book.next_deadline < owner.timer_at:
            owner.watch_deadlines()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the response; finish the exchange when it is whole."""
        now = perf_counter()
        exchange = self.exchange
        if exchange is None:
            self.shut(CloseReason.STRAY_BYTES, now)
            return
        if not self._in_response:
            exchange.first_byte_at = now
            known = self._heads
            if (
                (len(data) == known.last_size and data.startswith(known.last_raw)) or known.find(data)
            ) and not exchange.needs_reader:
                head = known.last_head
                self._finish(exchange, head, data[len(known.last_raw) :], head.keep_alive, now)
                return
            self._in_response = True
            if self._reader is None:
                self._reader = ResponseReader(known)
            self._reader.begin(is_head_request=exchange.prepared.is_head)
        self._read(exchange, data, now)

    def _read(self, exchange: Exchange, data: bytes, now: float) -> None:
        reader = self._reader
        if reader is None:
            return
        try:
            complete = reader.feed(data)
            if reader.head is not None and exchange.watches:
                exchange.progressed(reader.head, reader)
        except AgentError as error:
            reason = CloseReason.ERROR if isinstance(error, ResponseParseError) else CloseReason.ABORTED
            self._fail(exchange, error, reason, now)
            return
        if complete:
            self._finish_read(exchange, reader, now)
            return
        if reader.head is not None and (self._unsent or self._upload_task is not None):
            self._is_answered_early = True
            if reader.head.status >= _FIRST_UNWANTED_STATUS:
                self._stop_sending()  # RFC 9112 section 9.5; a server that answers as it reads gets the rest
        if not self._is_reading_held and not self._waits_for_caller:
            self._touch(now)

    def _finish_read(self, exchange: Exchange, reader: ResponseReader, now: float) -> None:
        head = reader.head
        if head is not None:
            self._in_response = False
            self._finish(exchange, head, reader.body(), head.keep_alive and not reader.overrun, now)

    def _finish(self, exchange: Exchange, head: ResponseHead, body: bytes, reusable: bool, now: float) -> None:
        if exchange.prepared.needs_a_look and not self._is_all_sent(exchange.prepared):
            reusable = False
        owner = self._owner
        book = owner.book
        decision = book.checkin(self.booked, now, reusable, head.hint)
        if decision is None:
            self.exchange = None
        elif isinstance(decision, ToClose):
            self.close()
            if decision.then_open is not None:
                owner.open(decision.then_open)
        else:
            self.send(decision, now)
        if book.next_deadline < owner.timer_at:
            owner.watch_deadlines()
        exchange.succeeded(head, body, now)

    def _is_all_sent(self, prepared: PreparedRequest) -> bool:
        """Whether nothing of a request is left to send, and more requests may follow it."""
        return (
            not prepared.closes
            and not self._is_answered_early
            and not self._unsent
            and self._upload_task is None
            and self.transport.get_write_buffer_size() == 0
        )

    def eof_received(self) -> bool:
        """The other side has finished sending, and so have we."""
        self._lost(None, perf_counter())
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed, by whichever side. What refers back here lets go, so that no collection is needed."""
        self._lost(error, perf_counter())
        self.booked.handle = self.booked.request = None
        if self._reader is not None:
            self._reader.release()

    def _lost(self, error: Exception | None, now: float) -> None:
        """Tell the book and the one who waits, if the book does not know yet."""
        booked = self.booked
        if booked.state is SocketState.CLOSED:
            return
        exchange = self.exchange
        reason = CloseReason.SERVER_CLOSED if error is None else CloseReason.ERROR
        if exchange is None:
            self.shut(reason, now)
            return
        reader = self._reader
        if self._in_response and reader is not None:
            if error is None and reader.eof():
                self._finish_read(exchange, reader, now)
                return
            self._fail(exchange, IncompleteResponseError(_NOT_WHOLE, reused_socket=booked.reused), reason, now)
        elif not booked.reused:
            how = "closed the socket without a response" if error is None else f"broke off before a response: {error}"
            self._fail(exchange, SocketClosedError(f"the server {how}", reused_socket=False), reason, now)
        elif self._owner.options.retry_stale and exchange.prepared.idempotent and not exchange.first_sent_at:
            exchange.first_sent_at = exchange.sent_at
            self.close()
            self._owner.open(self._owner.book.reopen(booked, reason, now))
        else:
            why = "the reused socket was closed by the server while the request was on its way"
            self._fail(exchange, StaleSocketError(why, reused_socket=True), reason, now)

    def _fail(self, exchange: Exchange, error: Exception, reason: CloseReason, now: float) -> None:
        self.shut(reason, now)
        exchange.failed(error, now)

    def shut(self, reason: CloseReason, now: float) -> None:
        """Close this socket for a reason the driver found, and open another for a pending request where one waits."""
        self.close()
        then_open = self._owner.book.remove(self.booked, reason, now)
        if then_open is not None:
            self._owner.open(then_open)

    def close(self) -> None:
        """Close the socket at once; the book has let go of it, or is about to."""
        self.exchange = None
        self._stop_sending()
        self._end_transport()

    def _end_transport(self) -> None:
        self.transport.abort()


def _look_at_outcome(task: asyncio.Task[None]) -> None:
    """An upload that was told to stop may end as it likes; nobody is to be told."""
    if not task.cancelled():
        task.exception()
