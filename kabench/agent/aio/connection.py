"""`Connection`: one socket of the asyncio agent. It carries out what the book and the cycle decide.

Theory of operation. A connection tells three others what happens on its socket, and does what they answer: the book
(who gets the socket next, and how long it may stay), the `Cycle` (whether a response is whole, whether the socket may
be used again, what an end means) and the exchange (here is your response). What is left lives here: the order in
which these three are asked, how fast bytes are sent and read, and the look at what waits in the kernel before a socket
is used again. Not here: connecting and choosing sockets (`Connector`, the book), framing (`ResponseReader`), TLS
(`TlsConnection`), and time: the caller says what time it is, and the agent has the only timer.

The book is told first and the exchange last: an exchange may start the next request, or close the agent, from within
that call.

This is the hot path: nothing here is done per request that could be done per socket or per agent. So there are two ways
through it. A routine request (see `PreparedRequest`) whose response comes whole, with a head that is known, needs no
`Cycle`: a head is only remembered if it lets its socket be reused. Everything else has one, and a routine request gets
one as soon as anything about its response is not routine.

What is not ideal:
* The short way says again, in fewer words, what the cycle says. Tests make sure that both agree, not the code.
* A look reads from the file descriptor behind the event loop's back, since no loop can be asked to read now. It relies
  on the descriptor being non-blocking and on the loop holding no bytes of its own that it has not delivered.
* What is sent is "sent" when the transport has taken it. Whether a routine request has left
  is not checked.
* `TlsConnection` is a subclass that changes how bytes come and go, and so knows much of what is private here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, cast

from kabench.agent.book import CloseReason, SocketState, ToClose
from kabench.agent.cycle import WRITTEN_AT_ONCE_BYTES, Cycle, Failed, Finished, Go, SendAgain, why_idle_ended
from kabench.agent.errors import AgentError, UploadCancelledError
from kabench.agent.probes import probe_options, set_user_timeout
from kabench.agent.reader import HeadCache, ResponseReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent.aio.exchange import Book, Booked, Carrier, Exchange
    from kabench.agent.aio.upload import Upload
    from kabench.agent.cycle import Step
    from kabench.agent.options import AgentOptions
    from kabench.agent.reader import ResponseHead
    from kabench.agent.tls import SessionCache, TlsContexts
    from kabench.agent.urls import Origin

_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_LEAST_COUNTED_BYTES = 512
"""The least that a piece of an upload counts for: getting a small one takes as long as sending it."""

_LOOKED_AT_AFTER_S = 0.002
"""The time since a socket's last request was sent after which the next one is preceded by a look at what waits in the
kernel (AK-61). A look costs 0.3 us, a request 12; no server gives up a socket in less than 2 ms."""

_READ_BYTES = 65_536


class Connecting(Protocol):
    """A socket on its way to being ready."""

    def cancel(self) -> object:
        """Give up connecting."""


class Owner(Protocol):
    """What a connection needs of its agent's connector."""

    book: Book
    heads: HeadCache
    options: AgentOptions
    tls_contexts: TlsContexts
    tls_sessions: SessionCache

    def connecting(self, booked: Booked, connection: Connecting) -> bool:
        """Note that a socket is there, but not ready yet; return False if it is no longer wanted."""

    def connected(self, booked: Booked) -> bool:
        """Note that a socket is ready; return False if it is no longer wanted."""

    def connect_failed(self, booked: Booked, origin: Origin, error: Exception) -> None:
        """Tell the book and the request that a socket could not be made ready."""

    def open(self, booked: Booked | None) -> None:
        """Open a socket for the request it carries."""

    def replace(self, booked: Booked, reason: CloseReason, now: float) -> None:
        """Give another socket to the request of one that was found dead."""

    def release_all(self, to_close: list[ToClose[Carrier, Exchange]]) -> None:
        """Close sockets that the book has let go of."""


class Connection(asyncio.Protocol):
    """The protocol of one connected socket. `exchange` is the request it carries; None while it is free."""

    __slots__ = (
        "_cycle",
        "_found",
        "_has_ended",
        "_heads",
        "_is_looking",
        "_is_paused",
        "_is_reading_held",
        "_owner",
        "_poll",
        "_reader",
        "_resumed",
        "_sent_at",
        "_unsent",
        "_upload_task",
        "_user_timeout_s",
        "_waits_for_caller",
        "_write",
        "booked",
        "exchange",
        "transport",
    )

    transport: asyncio.Transport
    _write: Callable[[bytes | memoryview], None]
    _has_ended: Callable[[], bool]

    def __init__(self, owner: Owner, booked: Booked) -> None:
        self._owner = owner
        self.booked = booked
        self._heads = owner.heads
        self._reader: ResponseReader | None = None
        self._cycle: Cycle | None = None
        self._is_paused = False
        self._is_reading_held = False
        self._unsent = memoryview(b"")
        self._upload_task: asyncio.Task[None] | None = None
        self._waits_for_caller = False
        self._resumed: asyncio.Event | None = None
        self._sent_at = inf  # so that a fresh socket is not looked at before its first request
        self._poll: Callable[[int], object] | None = None
        self._is_looking = False
        self._found: CloseReason | None = None
        self._user_timeout_s = 0.0
        self.exchange: Exchange | None = None

    # -- the socket ----------------------------------------------------------------------------------------------------

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
        self._has_ended = self.transport.is_closing  # bound once; each request asks
        self._set_socket_options(self._owner.options)
        now = perf_counter()
        self._owner.book.opened(booked, self, now)
        self.send(exchange, now)

    def _raw_socket(self) -> socket.socket:
        raw: socket.socket = self.transport.get_extra_info("socket")
        return raw

    def _set_socket_options(self, options: AgentOptions) -> None:
        """Set what is not the event loop's default, which is TCP_NODELAY and no probes."""
        if options.no_delay and not options.keep_alive and not options.tcp_user_timeout:
            return
        raw = self._raw_socket()
        if raw.family not in _TCP_FAMILIES:
            return
        if not options.no_delay:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        if options.keep_alive:
            for option in probe_options(options.keep_alive_delay):
                raw.setsockopt(*option)
        if options.tcp_user_timeout:
            self._user_timeout_s = options.tcp_user_timeout
            set_user_timeout(raw, self._user_timeout_s)

    def _wait_no_less_than(self, timeout_s: float) -> None:
        """Give the system's user timeout at least as much time as the request's own timeout."""
        seconds = max(self._owner.options.tcp_user_timeout or 0.0, 0.0 if timeout_s == inf else timeout_s)
        if seconds != self._user_timeout_s:
            self._user_timeout_s = seconds
            set_user_timeout(self._raw_socket(), seconds)

    # -- looking before a socket is used again -------------------------------------------------------------------------

    def look(self, now: float) -> CloseReason | None:
        """Return why this socket, which carries no request, cannot be used, by what the system holds for it (AK-61).

        The event loop reads what comes when it turns, and it may have been held, by a blocking call or with the whole
        process, since this socket was last read from.
        """
        self.exchange = None  # a socket handed over has the one before, which gets none of what comes now
        if self._has_ended():
            return why_idle_ended(None)
        if self._poll is None:
            self._poll = _poll_of(self._raw_socket().fileno())
        if not self._poll(0):
            return None
        self._is_looking = True  # what is found is noted, not acted upon: the caller replaces the socket
        ended = self._read_what_waits()
        if isinstance(ended, OSError):
            self._lost(ended, now)
        elif ended:
            self.eof_received()
        self._is_looking = False
        return self._found

    def _read_what_waits(self) -> OSError | bool:
        """Read what the system holds for this socket, as the event loop would; return whether, or why, it has ended."""
        try:
            file_descriptor = self._raw_socket().fileno()
            while self._found is None and self.booked.state is not SocketState.CLOSED:
                data = os.read(file_descriptor, _READ_BYTES)
                if not data:
                    return True
                self.data_received(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            return error
        return False

    def _end_idle(self, reason: CloseReason, now: float) -> None:
        """End a socket on which something came while it carries no request; during a look, only note why."""
        if self._is_looking:
            self._found = reason
        else:
            self.shut(reason, now)

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, exchange: Exchange, now: float) -> None:
        """Write a request that the book has given this socket, if the socket is still alive."""
        if now - self._sent_at > _LOOKED_AT_AFTER_S or self._has_ended():
            found = self.look(now)
            if found is not None:
                self._owner.replace(self.booked, found, now)
                return
        booked = exchange.booked = self.booked
        exchange.reused_socket = booked.request_count > 1
        exchange.sent_at = self._sent_at = now
        self.exchange = exchange
        if self._user_timeout_s:  # else the system has no timeout that is to be lengthened
            self._wait_no_less_than(exchange.timeout)
        if exchange.is_routine:
            self._write(exchange.prepared.wire)
            return
        self._start_cycle(exchange)
        self._unsent = memoryview(exchange.prepared.wire)
        self._write_on()
        if exchange.upload is not None:
            self._upload_task = asyncio.get_running_loop().create_task(self._send_upload(exchange, exchange.upload))

    def _start_cycle(self, exchange: Exchange, *, is_sent: bool = True) -> Cycle:
        """Start a cycle for a request that is not routine, or whose response is not."""
        reader = self._reader
        if reader is None:
            reader = self._reader = ResponseReader(self._heads)
        prepared = exchange.prepared
        reader.begin(is_head_request=prepared.is_head)
        cycle = self._cycle = Cycle(prepared, reader, self.booked.origin, reused=self.booked.reused)
        if exchange.is_routine and is_sent:
            cycle.sent()
        return cycle

    def _write_on(self) -> None:
        """Write as much of a large request as the transport takes for now."""
        while self._unsent and not self._is_paused:
            if self._has_ended():
                return  # connection_lost does the rest
            piece, self._unsent = self._unsent[:WRITTEN_AT_ONCE_BYTES], self._unsent[WRITTEN_AT_ONCE_BYTES:]
            self._write(piece)

    async def _send_upload(self, exchange: Exchange, upload: Upload) -> None:
        """Send a body as it is read. A reader that raises fails the request, with its own error."""
        written = 0
        self._wait_for_caller()
        try:
            async with contextlib.aclosing(upload.pieces()) as pieces:
                async for piece in pieces:
                    if self.exchange is not exchange:
                        return  # the upload was told to stop, and did not
                    self._waits_for_caller = False
                    self._touch(perf_counter())
                    rest = memoryview(piece)
                    while rest:
                        if self._is_paused or self._unsent or self._has_ended():
                            self._resumed = asyncio.Event()
                            await self._resumed.wait()  # for ever, where the transport has ended: it is cancelled
                            continue
                        self._write(rest[:WRITTEN_AT_ONCE_BYTES])
                        rest = rest[WRITTEN_AT_ONCE_BYTES:]
                    written += max(len(piece), _LEAST_COUNTED_BYTES)
                    if written > WRITTEN_AT_ONCE_BYTES:
                        written = 0
                        await asyncio.sleep(0)  # other tasks get their turn, and the server's answer is seen
                    self._wait_for_caller()
        except (Exception, asyncio.CancelledError) as error:
            if self._upload_task is not asyncio.current_task():
                raise  # the upload was told to stop
            self._upload_task = None
            self._waits_for_caller = False
            # The error is the caller's own, and the caller waits for it.
            own = error if isinstance(error, Exception) else UploadCancelledError("the body's iterator was cancelled")
            self.shut(CloseReason.ABORTED, perf_counter())
            exchange.failed(own, perf_counter())
        else:
            self._upload_task = None
            self._waits_for_caller = False
            self._touch(perf_counter())

    def _wait_for_caller(self) -> None:
        """Stop the activity timeout: while the caller has nothing to send, the server need not answer."""
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
        """Stop writing: the transport has enough for now."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on writing: bytes have gone out, which is activity."""
        self._is_paused = False
        if self.exchange is not None:
            if not self._waits_for_caller:
                self._touch(perf_counter())
            self._write_on()
            if self._resumed is not None and not self._is_paused:
                self._resumed.set()

    def pause_reading(self) -> None:
        """Stop reading: the exchange has enough for now. The activity timeout stops until it takes more."""
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
        """Start the activity timeout again: bytes have moved."""
        if not self._is_reading_held:  # the exchange has not asked for more
            self._owner.book.touch(self.booked, now)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take bytes of the response; finish the exchange when it is whole."""
        now = perf_counter()
        exchange = self.exchange
        if exchange is None:
            self._end_idle(why_idle_ended(None, stray_bytes=True), now)
            return
        cycle = self._cycle
        if cycle is None:
            known = self._heads
            # Most responses begin as the one before: to compare those bytes costs less than to find the head's end.
            if (len(data) == known.last_size and data.startswith(known.last_raw)) or known.find(data):
                exchange.first_byte_at = now
                self._finish(exchange, known.last_head, data[len(known.last_raw) :], True, now)
                return
            cycle = self._start_cycle(exchange)
        self._read(exchange, cycle, data, now)

    def _read(self, exchange: Exchange, cycle: Cycle, data: bytes, now: float) -> None:
        reader = cycle.reader
        if cycle.is_silent:
            exchange.first_byte_at = now
        try:
            reader.feed(data)
            if cycle.is_sending and self._is_all_sent():
                cycle.sent()
            step = cycle.received()
            if reader.head is not None and exchange.watches and not isinstance(step, SendAgain | Failed):
                exchange.is_used = True
                exchange.progressed(reader.head, reader)
                if self.exchange is not exchange:
                    return  # the exchange gave up when it was told
        except AgentError as error:
            error.__traceback__ = None  # its frames hold `step`, and so the error: a cycle only a collector ends
            step = cycle.distrust(error)
        self._follow(exchange, cycle, step, now)

    def _follow(self, exchange: Exchange, cycle: Cycle, step: Step, now: float) -> None:
        """Do what the cycle says."""
        if isinstance(step, Finished):
            head = cycle.reader.head
            if step.is_stale:
                self._owner.book.met_stale()
            self._cycle = None
            if head is not None:
                self._finish(exchange, head, cycle.reader.body(), step.reusable, now)
        elif isinstance(step, SendAgain):
            # The request keeps its place in the book, so that it is not overtaken by those that wait for one.
            exchange.first_sent_at = exchange.sent_at
            exchange.is_used = True
            self.close()
            self._owner.open(self._owner.book.reopen(self.booked, step.reason, now))
        elif isinstance(step, Failed):
            self._fail(exchange, step, now)
        else:
            if step is Go.STOP_SENDING:
                self._stop_sending()
            if not self._waits_for_caller:
                self._touch(now)

    def _finish(self, exchange: Exchange, head: ResponseHead, body: bytes, reusable: bool, now: float) -> None:
        owner = self._owner
        decision = owner.book.checkin(self.booked, now, reusable, head.hint)
        if decision is None:
            self.exchange = None
        elif isinstance(decision, ToClose):
            self.close()
            owner.open(decision.then_open)
        else:
            self.send(decision, now)
        exchange.succeeded(head, body, now)  # last: see above

    def _is_all_sent(self) -> bool:
        """Return whether nothing of a request is left to send."""
        return not self._unsent and self._upload_task is None and self.transport.get_write_buffer_size() == 0

    def eof_received(self) -> bool:
        """End the socket: the other side has finished sending, and so have we."""
        self._lost(None, perf_counter())
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End what the closed socket carried. References back to this object go, so that no collection is needed."""
        now = perf_counter()
        cycle, exchange = self._cycle, self.exchange
        # A server that refuses may close before even a routine request has left (AK-50). On a reused socket that looks
        # like an idle socket that was given up, and the cycle treats it as one.
        if cycle is None and exchange is not None and not self.booked.reused:
            cycle = self._start_cycle(exchange, is_sent=False)
        if cycle is not None and cycle.is_sending and exchange is not None:
            cycle.send_failed(error)  # AK-50: whatever the server said before is still there to be read
            self._read_what_waits()
        self._lost(error, now)
        self.booked.handle = self.booked.request = None

    def _lost(self, error: Exception | None, now: float, *, cut_off: bool = False) -> None:
        """Tell the book and the exchange, if the book does not know yet."""
        if self.booked.state is SocketState.CLOSED:
            return
        exchange = self.exchange
        if exchange is None:
            self._end_idle(why_idle_ended(error), now)
            return
        cycle = self._cycle or self._start_cycle(exchange)
        step = cycle.closed(cut_off=cut_off) if error is None else cycle.broken(error, self._user_timeout_s)
        self._follow(exchange, cycle, step, now)

    def timed_out(self, exchange: Exchange) -> Failed:
        """Return the failure of a request for which no byte has moved for as long as it allows."""
        return (self._cycle or self._start_cycle(exchange)).timed_out(exchange.timeout)

    def _fail(self, exchange: Exchange, failed: Failed, now: float) -> None:
        book = self._owner.book
        if failed.is_stale:
            book.met_stale()
        if failed.doubts_idle:
            self._owner.release_all(book.doubt_idle(self.booked, now))
        self.shut(failed.reason, now)
        exchange.failed(failed.error, now)

    def shut(self, reason: CloseReason, now: float) -> None:
        """Close this socket for a reason the driver found, and open another for a pending request where one waits."""
        self.close()
        self._owner.open(self._owner.book.remove(self.booked, reason, now))

    def close(self) -> None:
        """Close the socket at once; the book has let go of it, or is about to."""
        self.exchange = self._cycle = None
        self._stop_sending()
        self._end_transport()

    def _end_transport(self) -> None:
        self.transport.abort()  # not close(), which would first send the rest of an unwanted request


def _poll_of(file_descriptor: int) -> Callable[[int], object]:
    """Return a function that says, at once, whether a socket has anything to be read."""
    if not hasattr(select, "poll"):
        return lambda _: select.select([file_descriptor], (), (), 0)[0]
    poll = select.poll()
    poll.register(file_descriptor, select.POLLIN)
    return poll.poll


def _look_at_outcome(task: asyncio.Task[None]) -> None:
    """Take the outcome of an upload that was told to stop, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
