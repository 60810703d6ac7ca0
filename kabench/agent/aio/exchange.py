"""`Exchange`: one request on its way through an agent, and what becomes of it.

The agent calls `succeeded` or `failed` exactly once, from inside the event loop. `FutureExchange` is the one behind
`await agent.send()`, `StreamExchange` the one behind `agent.stream()`. A load generator that cannot afford a future and
a task step per request subclasses `Exchange` and sends the same object again and again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kabench.agent.aio.response import Response
from kabench.agent.book import BookedRequest
from kabench.agent.errors import ResponseTooLargeError, StreamConsumedError

if TYPE_CHECKING:
    from kabench.agent.aio.request import PreparedRequest
    from kabench.agent.aio.upload import Upload
    from kabench.agent.book import BookedSocket, CloseReason, SocketBook
    from kabench.agent.cycle import Failed
    from kabench.agent.reader import ResponseHead, ResponseReader

    Book: TypeAlias = SocketBook["Carrier", "Exchange"]
    Booked: TypeAlias = BookedSocket["Carrier", "Exchange"]

_HELD_ABOVE_BYTES = 262_144
"""Bytes of a streamed body that may wait to be taken before the socket is no longer read from."""


class Carrier(Protocol):
    """The connected socket that carries an exchange, as the book's `handle`: what exchanges and agents do with it."""

    def send(self, exchange: Exchange, now: float) -> None:
        """Write a request that the book has given this socket, if the socket is still alive."""

    def look(self, now: float) -> CloseReason | None:
        """Return why the socket, which carries no request, cannot be used; None if it can."""

    def timed_out(self, exchange: Exchange) -> Failed:
        """Return what becomes of a request for which no byte has moved for too long."""

    def pause_reading(self) -> None:
        """Stop reading: the caller has enough of the body for now."""

    def resume_reading(self) -> None:
        """Go on reading."""

    def close(self) -> None:
        """Close the socket at once; the book has let go of it, or is about to."""


class Exchange(BookedRequest):
    """A request under way.

    Its times are seconds of the agent's clock (`time.perf_counter`): `started_at` when the agent got it,
    `opening_at` when a new socket began to be opened for it (0.0: it used an existing one), `sent_at` when it was
    written, `first_byte_at` when the response began. `first_sent_at` is when it was sent first, if it had to be sent
    again on a fresh socket, else 0.0. `reused_socket` says whether its socket has carried a request before.

    `watches`: `progressed` is called for a response that comes in pieces. `is_routine`: its request is, and
    `progressed` need not be called for a response that comes whole. `is_used`: something is to be reset before it
    carries the next request.
    """

    __slots__ = (
        "booked",
        "first_byte_at",
        "first_sent_at",
        "is_routine",
        "is_used",
        "opening_at",
        "prepared",
        "reused_socket",
        "sent_at",
        "started_at",
    )

    upload: Upload | None = None
    watches = False

    def __init__(self, prepared: PreparedRequest, timeout: float) -> None:
        super().__init__(prepared.origin_key, timeout or inf)
        self.carry(prepared)
        self.booked: Booked | None = None
        self.reused_socket = False
        self.started_at = self.opening_at = self.sent_at = self.first_byte_at = self.first_sent_at = 0.0
        self.is_used = False

    def carry(self, prepared: PreparedRequest) -> None:
        """Carry this request from now on. Call it only between two requests."""
        self.prepared = prepared
        self.origin = prepared.origin_key
        self.is_routine = prepared.is_routine

    def reset(self) -> None:
        """Reset it for its next request. Only the agent's `start` calls this, if it `is_used`.

        A subclass with more to reset overrides this. A routine request leaves nothing that must be reset.
        """
        self.opening_at = self.first_sent_at = 0.0
        self.is_used = False

    def progressed(self, head: ResponseHead, reader: ResponseReader) -> None:
        """Take more of the response. May raise an `AgentError`, which closes the socket and fails the exchange."""

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Take the whole response; `body` is what `progressed` has not taken of it."""
        raise NotImplementedError

    def failed(self, error: Exception, now: float) -> None:
        """Take the error: there will be no response, or no more of it."""
        raise NotImplementedError


class FutureExchange(Exchange):
    """An exchange whose response is awaited."""

    __slots__ = ("future",)

    def __init__(self, prepared: PreparedRequest, timeout: float, future: asyncio.Future[Response]) -> None:
        super().__init__(prepared, timeout)
        self.future = future

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:  # noqa: ARG002
        """Give the response to the task that awaits it."""
        if not self.future.done():
            self.future.set_result(
                Response(head, body, reused_socket=self.reused_socket, retried=self.first_sent_at > 0)
            )

    def failed(self, error: Exception, now: float) -> None:  # noqa: ARG002
        """Raise the error where it is awaited."""
        if not self.future.done():
            self.future.set_exception(error)


class CarefulExchange(FutureExchange):
    """An awaited exchange with a body that is not bytes, or with a limit on the response's body."""

    __slots__ = ("_max_response_bytes", "upload")

    watches = True

    def __init__(
        self,
        prepared: PreparedRequest,
        timeout: float,
        future: asyncio.Future[Response],
        upload: Upload | None,
        max_response_bytes: int | None,
    ) -> None:
        super().__init__(prepared, timeout, future)
        self.upload = upload
        self._max_response_bytes = inf if max_response_bytes is None else max_response_bytes
        self.is_routine = False

    def progressed(self, head: ResponseHead, reader: ResponseReader) -> None:
        """Raise `ResponseTooLargeError` at the limit, or as soon as the head says that it will be passed."""
        if max(head.body_length, reader.body_bytes) > self._max_response_bytes:
            raise ResponseTooLargeError(f"the response is over {self._max_response_bytes} bytes")


class StreamExchange(Exchange):
    """An exchange whose response is taken piece by piece; its socket is read no faster than that."""

    __slots__ = ("_error", "_is_whole", "_pieces", "_waiter", "_waiting_bytes", "head", "upload")

    watches = True

    def __init__(self, prepared: PreparedRequest, timeout: float, upload: Upload | None = None) -> None:
        super().__init__(prepared, timeout)
        self.upload = upload
        self.head: ResponseHead | None = None
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_whole = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come off the wire."""
        return self._is_whole or self._error is not None

    async def until_head(self) -> ResponseHead:
        """Wait for the response to begin, and return its head. Raises what `send` raises."""
        while self.head is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self.head

    async def next_piece(self) -> bytes:
        """Return the next piece of the body; empty at its end. Raises as `send` does, once earlier pieces are taken."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._is_whole:
                return b""
            if self._waiter is not None:
                raise StreamConsumedError("another task is reading this body")
            await self._wait()
        piece = self._pieces.popleft()
        self._waiting_bytes -= len(piece)
        if self._waiting_bytes <= _HELD_ABOVE_BYTES // 2:
            connection = self._connection
            if connection is not None:
                connection.resume_reading()
        return piece

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @property
    def _connection(self) -> Carrier | None:
        """The connection, as long as it carries this request."""
        booked = self.booked
        return booked.handle if booked is not None and booked.request is self else None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def progressed(self, head: ResponseHead, reader: ResponseReader) -> None:
        """Take what has come; stop reading from the socket if the pieces are not taken."""
        self.head = head
        self._take(reader.body())
        if self._waiting_bytes > _HELD_ABOVE_BYTES and not reader.complete:
            connection = self._connection
            if connection is not None:
                connection.pause_reading()

    def _take(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._waiting_bytes += len(piece)
        self._wake()

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:  # noqa: ARG002
        """Take the last piece."""
        self.head = head
        self._is_whole = True
        self._take(body)

    def failed(self, error: Exception, now: float) -> None:  # noqa: ARG002
        """Raise the error where the next piece is awaited."""
        self._error = error
        self._wake()
