"""`EchoConnection`: one socket of the echo server. Requests in, answers out after their delay, in order."""

from __future__ import annotations

import dataclasses
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from kabench.http1.accepted import AcceptedSocket
from kabench.server.answers import Answer, RequestReader, bad_request, with_requests_left

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from kabench.http1.accepted import AcceptedSockets
    from kabench.server.answers import AnswerBook
    from kabench.server.counts import Counters
    from kabench.server.delay import DelayQueue
    from kabench.server.large_body import LargeBody
    from kabench.server.options import ServerOptions

_MAX_WAITING_ANSWERS = 64
"""Pipelined requests that a socket may have unanswered before it is no longer read from."""

_READ_AT_ONCE_BYTES = 16_384
"""How much is parsed at a time. If enough requests are unanswered then, the rest of what came waits."""


class Owner(Protocol):
    """What a connection needs of its server."""

    options: ServerOptions
    counts: Counters
    answer_book: AnswerBook
    delays: DelayQueue[EchoConnection]
    idle_timeouts_s: list[float]
    accepted: AcceptedSockets[EchoConnection]


class EchoConnection(AcceptedSocket):
    """One accepted socket. `waiting` are the answers not yet sent; only the first one's delay runs.

    `_is_timed`: the delay of the first one runs; `_is_due`: it is over. `_pieces` is the rest of the first, if it is
    large and has been begun. A client that takes nothing more is not read from, and is sent nothing more; `_unread`
    has come from it before that.
    """

    __slots__ = (
        "_book",
        "_closing",
        "_counts",
        "_delays",
        "_is_advancing",
        "_is_due",
        "_is_timed",
        "_known",
        "_paused",
        "_pieces",
        "_reader",
        "_requests_left",
        "_server",
        "_tracks_idle",
        "_unread",
        "idle_since",
        "waiting",
    )

    def __init__(self, server: Owner) -> None:
        super().__init__(server.options.limits)
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
        self._is_timed = self._is_due = self._is_advancing = False
        self._unread = b""
        self._pieces: Iterator[bytes] | None = None
        self.waiting: deque[Answer] = deque()
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the socket, and take the client in or send it away."""
        super().connection_made(transport)
        self.idle_since = perf_counter()
        self._counts.sockets += 1
        accepted = self._server.accepted
        if not accepted.take_in(self):
            self._counts.refused_sockets += 1
            self._write(bad_request(accepted.too_many, keep_alive=False, status=503).wire)
            accepted.send_away(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Forget the socket."""
        self._closing = True
        self._drop_waiting()
        self._server.accepted.forget(self)
        self._reader.release()

    def _drop_waiting(self) -> None:
        """Drop the answers that wait; nobody will get them."""
        for made in self.waiting:
            self._counts.unanswered += self._is_counted(made)
            self._let_go(made)
        self.waiting.clear()
        self._pieces = None
        self._unread = b""

    def _is_counted(self, made: Answer) -> bool:
        """Return whether this is the answer, or its last part, to something that counts as a request."""
        return not made.is_bad_request

    def _let_go(self, made: Answer) -> None:
        """Stop counting the bytes of an answer as held."""
        if made.large is not None:
            self._book.held_bytes -= made.large.held_bytes

    def eof_received(self) -> bool:
        """Keep the socket open for the answers that the client, which has finished sending, waits for."""
        self._half_closed = True
        return bool(self.waiting) and not self._server.options.tls  # TLS has no half-closed sockets

    def data_received(self, data: bytes) -> None:
        """Read requests, and start the delay of the first answer."""
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
        """Send 100 Continue for a request that waits for it, when it is its turn."""
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
        """Send the first waiting answer, whose delay is over."""
        self._is_timed = False
        if self.waiting:  # else the socket was closed meanwhile
            self._is_due = True
            self._advance()

    def _advance(self) -> None:
        """Send the waiting answers, as far as their delays are over and the client takes them."""
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
        """Send and read nothing more: the client is slower than the server."""
        super().pause_writing()
        self._hold_or_go_on()

    def resume_writing(self) -> None:
        """Go on: the client has caught up."""
        super().resume_writing()
        self._advance()

    def _hold_or_go_on(self) -> None:
        """Read no more from the client than can be sent to it."""
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
        """Send the head of a large answer, and a piece. The answer stays first in `waiting` until all of it is sent."""
        wire, closes = self._numbered(made)
        self.waiting.appendleft(dataclasses.replace(made, closes=closes))
        self._pieces = large.pieces()
        self._write(wire + next(self._pieces, b""))

    def _write_piece(self, pieces: Iterator[bytes]) -> None:
        """Send a piece of a large body, or finish its answer."""
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
            self.close()

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
            self.close_lingering()
        elif closes or (self._half_closed and not self.waiting):
            self.close()

    def _numbered(self, made: Answer) -> tuple[bytes, bool]:
        """Return what is sent for an answer on a socket whose requests may be limited, and whether it is the last."""
        if self._requests_left is None:
            return made.wire, made.closes
        self._requests_left -= 1
        wire = with_requests_left(made, self._requests_left, self._server.options.keep_alive_hint)
        return wire, made.closes or self._requests_left <= 0

    def _stop_listening(self) -> None:
        self._closing = True
        self._drop_waiting()

    def look(self, now: float) -> None:
        """Check whether the socket has been idle, or a request under way, for too long. It is called now and then."""
        if self._closing or self._is_writing_held:
            self._cut_off_if_stuck(now)
            return
        reader = self._reader
        if reader.at_boundary:
            if self._tracks_idle and not self.waiting:
                self._look_at_idle(now - self.idle_since)
            return
        refusal = self._slow_request(reader, now, is_read_from=not self._paused)
        if refusal is not None:
            reader.give_up()
            self._take(bad_request(str(refusal), keep_alive=False, status=refusal.status))

    def _look_at_idle(self, idle_s: float) -> None:
        limit = self._server.options.idle_timeout_s
        if limit is not None and idle_s >= limit:
            self._counts.idle_closes += 1
            self.close()
