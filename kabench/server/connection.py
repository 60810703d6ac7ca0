"""`EchoConnection`: one socket of the echo server. Requests in, answers out after their delay, in order."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, cast

from kabench.http1.request_watch import RequestWatch
from kabench.http1.requests import too_slow
from kabench.http1.send_watch import SendWatch
from kabench.server.answers import Answer, RequestReader, bad_request, with_requests_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.server.echo import EchoServer
    from kabench.server.large_body import LargeBody

_MAX_WAITING_ANSWERS = 64
"""Pipelined requests that a socket may have unanswered before it is no longer read from."""

_READ_AT_ONCE_BYTES = 16_384
"""Of more that comes in one, the rest waits if that is enough for now."""

_LINGERS_S = 2.0
"""How long a client who was refused may go on sending before he is cut off."""

_MAX_LEAVING = 1000
"""Refused sockets that may linger at the same time."""


class EchoConnection(asyncio.Protocol):
    """One accepted socket. `waiting` are the answers not yet sent; only the first one's delay runs.

    `_is_timed`: the delay of the first one runs; `_is_due`: it is over. `_pieces` are what is left of the first, if it
    is a large one that has been begun. A client who takes nothing more is not read from, and nothing more is sent to
    him; `_unread` has come from him all the same.
    """

    __slots__ = (
        "_book",
        "_closing",
        "_counts",
        "_delays",
        "_half_closed",
        "_is_advancing",
        "_is_due",
        "_is_timed",
        "_is_writing_held",
        "_known",
        "_lingers_until",
        "_paused",
        "_pieces",
        "_reader",
        "_request_watch",
        "_requests_left",
        "_send_watch",
        "_server",
        "_tracks_idle",
        "_unread",
        "_write",
        "idle_since",
        "transport",
        "waiting",
    )

    transport: asyncio.Transport
    _write: Callable[[bytes], None]

    def __init__(self, server: EchoServer) -> None:
        self._server = server
        self._counts = server.counts
        self._delays = server.delays
        self._book = server.answer_book
        self._known = server.answer_book.answers
        self._reader = RequestReader(server.answer_book)
        self._requests_left = server.options.max_requests_per_socket
        self._tracks_idle = bool(server.idle_timeouts_s)
        self._paused = False
        self._closing = False
        self._half_closed = False
        self._is_timed = self._is_due = self._is_advancing = self._is_writing_held = False
        self._unread = b""
        self._pieces: Iterator[bytes] | None = None
        self._send_watch = SendWatch()
        self._request_watch = RequestWatch(server.options.limits)
        self._lingers_until = inf
        self.waiting: deque[Answer] = deque()
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the socket."""
        self.transport = cast("asyncio.Transport", transport)
        self._write = self.transport.write
        self.idle_since = perf_counter()
        self._counts.sockets += 1
        server = self._server
        if len(server.connections) >= server.most_connections:
            self._counts.refused_sockets += 1
            why = f"there are {server.most_connections} connections already"
            self._write(bad_request(why, keep_alive=False, status=503).wire)
            if len(server.leaving) < _MAX_LEAVING:
                server.leaving.add(self)
                self._close_lingering()
            else:
                self._close()
        else:
            server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Forget the socket."""
        self._closing = True
        self._drop_waiting()
        self._server.connections.discard(self)
        self._server.leaving.discard(self)
        self._reader.release()

    def _drop_waiting(self) -> None:
        """Nobody will get these answers."""
        for made in self.waiting:
            self._counts.unanswered += self._is_counted(made)
            self._let_go(made)
        self.waiting.clear()
        self._pieces = None
        self._unread = b""

    def _is_counted(self, made: Answer) -> bool:
        """Whether this is the answer, or its last part, to something that counts as a request."""
        return not made.is_bad_request

    def _let_go(self, made: Answer) -> None:
        """It is not held any more."""
        if made.large is not None:
            self._book.held_bytes -= made.large.held_bytes

    def eof_received(self) -> bool:
        """The client has finished sending; it still gets the answers it waits for."""
        self._half_closed = True
        return bool(self.waiting) and not self._server.options.tls  # TLS has no half-closed sockets

    def data_received(self, data: bytes) -> None:
        """Read requests; set the delay of the first answer going."""
        if self._closing:
            return
        reader = self._reader
        if reader.at_boundary and not self._unread:
            known = self._known.get(data)
            if known is not None:
                self._take(known)
                return
        self._read(self._unread + data if self._unread else data)

    def _read(self, data: bytes) -> None:
        """Read requests, as many as may be unanswered at the same time."""
        reader = self._reader
        self._unread = b""
        for begin in range(0, len(data), _READ_AT_ONCE_BYTES):
            if self._is_full:
                self._unread = data[begin:]
                break
            for made in reader.answers_to(data[begin : begin + _READ_AT_ONCE_BYTES]):
                self._take(made)
            if self._closing:
                return
        self._say_continue()
        if self._tracks_idle:
            self.idle_since = perf_counter()

    def _say_continue(self) -> None:
        """Ask for the body of a request that waits for that, when it is its turn."""
        if not self.waiting and not self._closing and self._reader.wants_continue():
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take(self, made: Answer) -> None:
        if self._closing:
            self._let_go(made)
            return  # behind the last answer of this socket
        counts = self._counts
        if made.is_bad_request:
            counts.bad_requests += 1
        else:
            counts.requests += 1
            counts.request_body_bytes += made.request_body_bytes
        waiting = self.waiting
        if waiting:
            waiting.append(made)
            self._hold_or_go_on()
        elif made.delay_s > 0:
            waiting.append(made)
            self._is_timed = True
            self._delays.push(perf_counter() + made.delay_s, self)
        elif self._is_writing_held or made.large is not None:
            waiting.append(made)
            self._advance()
        else:
            self._send(made)

    def answer_first(self) -> None:
        """The delay of the first waiting answer is over."""
        self._is_timed = False
        if self.waiting:  # else the socket was closed meanwhile
            self._is_due = True
            self._advance()

    def _advance(self) -> None:
        """Send what waits, as far as its delay is over and the client takes it."""
        if self._is_advancing:
            return
        self._is_advancing = True
        waiting = self.waiting
        while waiting and not (self._closing or self._is_writing_held or self.transport.is_closing()):
            if self._pieces is not None:
                self._write_piece(self._pieces)
            elif self._is_due or waiting[0].delay_s <= 0:
                self._is_due = False
                self._send(waiting.popleft())
            else:
                if not self._is_timed:
                    self._is_timed = True
                    self._delays.push(perf_counter() + waiting[0].delay_s, self)
                break
        self._is_advancing = False
        self._hold_or_go_on()
        self._say_continue()

    def pause_writing(self) -> None:
        """The client is slower than the server."""
        self._is_writing_held = True
        self._send_watch.moved()
        self._hold_or_go_on()

    def resume_writing(self) -> None:
        """He has caught up."""
        self._is_writing_held = False
        self._send_watch.moved()
        self._advance()

    def _hold_or_go_on(self) -> None:
        """Read no more from the client than can be sent to him."""
        if self._closing:
            return
        if self._unread and not (self._is_full or self._is_advancing):
            self._read(self._unread)
        is_full = self._is_full or bool(self._unread)
        if is_full == self._paused or self._closing:
            return
        self._paused = is_full
        if is_full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    @property
    def _is_full(self) -> bool:
        return self._is_writing_held or len(self.waiting) > _MAX_WAITING_ANSWERS

    def _begin_large(self, made: Answer, large: LargeBody) -> None:
        """Send its head, and a piece. It stays the first of those that wait, until the last of its body is sent."""
        wire, closes = self._numbered(made)
        self.waiting.appendleft(dataclasses.replace(made, closes=closes))
        self._pieces = large.pieces()
        self._write(wire + next(self._pieces, b""))

    def _write_piece(self, pieces: Iterator[bytes]) -> None:
        """Send a piece of a large body, or see it end."""
        piece = next(pieces, None)
        if piece is not None:
            self._write(piece)
            return
        self._pieces = None
        made = self.waiting.popleft()
        self._let_go(made)
        self._answered(made.body_bytes)
        self._close_or_stay(made)

    def _answered(self, body_bytes: int) -> None:
        self._counts.responses += 1
        self._counts.response_body_bytes += body_bytes
        self.idle_since = perf_counter()

    def _close_or_stay(self, made: Answer) -> None:
        if made.closes or (self._half_closed and not self.waiting):
            self._close()

    def _send(self, made: Answer) -> None:
        if made.large is not None:
            self._begin_large(made, made.large)
            return
        counts = self._counts
        if not made.is_bad_request:
            counts.responses += 1
        counts.response_body_bytes += made.body_bytes
        closes = made.closes
        if self._requests_left is None:
            self._write(made.wire)
        else:
            wire, closes = self._numbered(made)
            self._write(wire)
        if self._tracks_idle:
            self.idle_since = perf_counter()
        if made.is_bad_request and closes:
            self._close_lingering()
        elif closes or (self._half_closed and not self.waiting):
            self._close()

    def _numbered(self, made: Answer) -> tuple[bytes, bool]:
        """What is sent for an answer on a socket whose requests may be counted, and whether that is the last."""
        if self._requests_left is None:
            return made.wire, made.closes
        self._requests_left -= 1
        wire = with_requests_left(made, self._requests_left, self._server.options.keep_alive_hint)
        return wire, made.closes or self._requests_left <= 0

    def _close(self) -> None:
        self._closing = True
        self._drop_waiting()
        self.transport.close()

    def _close_lingering(self) -> None:
        """Close, but let a client who still sends read the answer: a close would reset him (RFC 9112 section 9.6)."""
        self._closing = True
        self._drop_waiting()
        if self._half_closed or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self._lingers_until = perf_counter() + _LINGERS_S

    def look(self, now: float) -> None:
        """See whether the socket has been idle, or a request under way, for too long. It is called now and then."""
        limits = self._server.options.limits
        if self._closing or self._is_writing_held:
            unsent_bytes = self.transport.get_write_buffer_size()
            stands_still_s = self._send_watch.stands_still_for_s(unsent_bytes, now)
            if now >= self._lingers_until or stands_still_s > limits.send_timeout_s:
                self.transport.abort()
            return
        reader = self._reader
        if reader.at_boundary:
            if self._tracks_idle and not self.waiting:
                self._look_at_idle(now - self.idle_since)
            return
        passed_s = self._request_watch.too_slow_s(reader, now, is_read_from=not self._paused)
        if passed_s is not None:
            reader.give_up()
            refusal = too_slow(passed_s)
            self._take(bad_request(str(refusal), keep_alive=False, status=refusal.status))

    def _look_at_idle(self, idle_s: float) -> None:
        limit = self._server.options.idle_timeout_s
        if limit is not None and idle_s >= limit:
            self._counts.idle_closes += 1
            self._close()
