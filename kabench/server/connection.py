"""`EchoConnection`: one socket of the echo server. Requests in, answers out after their delay, in order."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, cast

from kabench.server.answers import Answer, RequestReader, bad_request, with_requests_left
from kabench.server.send_watch import SendWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.server.echo import EchoServer
    from kabench.server.large_body import LargeBody

_MAX_WAITING_ANSWERS = 64
"""Pipelined requests that a socket may have unanswered before it is no longer read from."""

_LINGERS_S = 2.0
"""How long a client who was refused may go on sending before he is cut off."""


class EchoConnection(asyncio.Protocol):
    """One accepted socket. `waiting` are the answers not yet sent; only the first one's delay runs.

    A client who takes nothing more is not read from, and nothing more is sent to him. `_is_due`: that is all that the
    first answer waits for. `_pieces` are what is left of the first answer, if it is a large one that has been begun.
    """

    __slots__ = (
        "_book",
        "_closing",
        "_counts",
        "_delays",
        "_half_closed",
        "_is_due",
        "_is_writing_held",
        "_known",
        "_lingers_until",
        "_paused",
        "_pieces",
        "_reader",
        "_request_began_at",
        "_requests_left",
        "_send_watch",
        "_server",
        "_tracks_idle",
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
        self._is_due = self._is_writing_held = False
        self._pieces: Iterator[bytes] | None = None
        self._send_watch = SendWatch()
        self._request_began_at = self._lingers_until = inf
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
            self._close()
        else:
            server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Forget the socket."""
        self._closing = True
        self._drop_waiting()
        self._server.connections.discard(self)
        self._reader.release()

    def _drop_waiting(self) -> None:
        """Nobody will get these answers."""
        self._counts.unanswered += len(self.waiting)
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._book.held_bytes -= sum(made.large.held_bytes for made in self.waiting if made.large is not None)
        self.waiting.clear()
        self._pieces = None

    def eof_received(self) -> bool:
        """The client has finished sending; it still gets the answers it waits for."""
        self._half_closed = True
        return bool(self.waiting) and not self._server.options.tls  # TLS has no half-closed sockets

    def data_received(self, data: bytes) -> None:
        """Read requests; set the delay of the first answer going."""
        if self._closing:
            return
        reader = self._reader
        if reader.at_boundary:
            known = self._known.get(data)
            if known is not None:
                self._take(known)
                return
            self._request_began_at = perf_counter()
        for made in reader.answers_to(data):
            self._take(made)
        if reader.wants_continue():
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._tracks_idle:
            self.idle_since = perf_counter()

    def _take(self, made: Answer) -> None:
        if self._closing:
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
            self._delays.push(perf_counter() + made.delay_s, self)
        elif self._is_writing_held:
            waiting.append(made)
            self._is_due = True
        else:
            self._send(made)

    def answer_first(self) -> None:
        """The delay of the first waiting answer is over."""
        if not self.waiting:
            return  # the socket was closed meanwhile
        if self._is_writing_held:
            self._is_due = True
            return
        self._send(self.waiting.popleft())
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what waits, as far as its delay is over and the client takes it."""
        waiting = self.waiting
        while waiting and not self._closing and self._pieces is None:
            if waiting[0].delay_s > 0:
                self._delays.push(perf_counter() + waiting[0].delay_s, self)
                break
            if self._is_writing_held:
                self._is_due = True
                break
            self._send(waiting.popleft())
        self._hold_or_go_on()

    def pause_writing(self) -> None:
        """The client is slower than the server."""
        self._is_writing_held = True
        self._send_watch.moved()
        self._hold_or_go_on()

    def resume_writing(self) -> None:
        """He has caught up."""
        self._is_writing_held = False
        self._send_watch.moved()
        if self._pieces is not None:
            self._write_pieces()
        elif self._is_due:
            self._is_due = False
            self.answer_first()
        self._hold_or_go_on()

    def _hold_or_go_on(self) -> None:
        """Read no more from the client than can be sent to him."""
        is_full = self._is_writing_held or len(self.waiting) > _MAX_WAITING_ANSWERS
        if is_full == self._paused or self._closing:
            return
        self._paused = is_full
        if is_full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _begin_large(self, made: Answer, large: LargeBody) -> None:
        """Send its head. It stays the first of those that wait, until the last of its body is sent."""
        wire, closes = self._numbered(made)
        self.waiting.appendleft(dataclasses.replace(made, closes=closes))
        self._pieces = large.pieces()
        self._write(wire)
        self._write_pieces()

    def _write_pieces(self) -> None:
        """Send of a large body what the client takes, and after its end what waits behind it."""
        while self._pieces is not None and not self._is_writing_held:
            piece = next(self._pieces, None)
            if piece is not None:
                self._write(piece)
                continue
            self._pieces = None
            made = self.waiting.popleft()
            if made.large is not None:
                self._book.held_bytes -= made.large.held_bytes
            self._answered(made.body_bytes)
            self._close_or_stay(made)
            self._send_waiting()

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

    def _refuse(self, status: int, why: str) -> None:
        """Say why, and close."""
        self._write(bad_request(why, keep_alive=False, status=status).wire)
        self._close_lingering()

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
        passed_s = now - self._request_began_at
        if passed_s > limits.request_timeout_s or (reader.in_head and passed_s > limits.head_timeout_s):
            self._counts.bad_requests += 1
            self._refuse(408, f"the request was not whole after {passed_s:.0f} s")

    def _look_at_idle(self, idle_s: float) -> None:
        limit = self._server.options.idle_timeout_s
        if limit is not None and idle_s >= limit:
            self._counts.idle_closes += 1
            self._close()
