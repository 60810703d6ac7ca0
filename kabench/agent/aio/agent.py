"""The asyncio agents: they take requests to the book, and set the one timer. Their connector opens the sockets."""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Self

from kabench.agent.aio.connector import Connector
from kabench.agent.aio.exchange import CarefulExchange, Exchange, FutureExchange, StreamExchange
from kabench.agent.aio.request import PreparedRequest, prepare
from kabench.agent.aio.response import StreamedResponse
from kabench.agent.aio.upload import Upload, payload_of
from kabench.agent.book import BookedSocket, CloseReason
from kabench.agent.errors import (
    AgentClosedError,
    AgentError,
    ConnectTimeoutError,
    QueueTimeoutError,
    StreamConsumedError,
    WrongLoopError,
)
from kabench.agent.events import EventSink
from kabench.agent.options import AgentOptionArguments, AgentOptions, parse_duration, parse_limit
from kabench.agent.urls import parse_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from types import TracebackType
    from typing import Unpack

    from kabench.agent.aio.exchange import Carrier
    from kabench.agent.aio.request import Headers
    from kabench.agent.aio.response import Response
    from kabench.agent.aio.upload import Body
    from kabench.agent.book import ToClose
    from kabench.agent.events import EventKind, EventListener
    from kabench.agent.options import Duration
    from kabench.agent.status import AgentStatus
    from kabench.agent.tls import TlsOptions

_CLOSED = "the agent is closed"
_TIMER_SLACK_S = 0.001
"""Event loops count timers in milliseconds; a timer that goes off a moment too early would have to be set again."""


class AsyncAgent:
    """The base of both asyncio agents; use `AsyncKeepAliveAgent` or `AsyncPlainAgent`.

    An agent belongs to the event loop it is first used in. Options are given by name or as an `AgentOptions`, not both.
    `tls` says how https sockets are secured; without it, certificates are verified against the system's authorities.
    `on_event` is called, in the event loop, with each `AgentEvent`. With `connect_to` (`host:port`, IPv6 in brackets)
    or `unix_socket` (a path) all sockets lead there, whatever a URL says; `Host`, the name in the certificate and the
    key that sockets are pooled by stay the URL's.

    Raises `ValueError` for a `connect_to` that is not an address, and where both are given.
    """

    def __init__(
        self,
        options: AgentOptions | None = None,
        *,
        tls: TlsOptions | None = None,
        on_event: EventListener | None = None,
        connect_to: str | None = None,
        unix_socket: str | None = None,
        **given: Unpack[AgentOptionArguments],
    ) -> None:
        options = AgentOptions.chosen(options, given)
        if connect_to is not None and unix_socket is not None:
            raise ValueError("connect_to and unix_socket: give only one of them")
        self.options = options
        self._connector = Connector(
            options, tls, None if connect_to is None else parse_address(connect_to), unix_socket
        )
        self.book = self._connector.book
        self._timeout_s = options.activity_timeout
        self._sends_keep_alive = options.keep_alive or options.hand_off
        self._events = EventSink(on_event)
        self.book.on_event = self._note_event
        self.book.on_deadline = self._wake_at
        self.book.tells_reuse = self._events.wants_reuse
        self._is_telling = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- requests ------------------------------------------------------------------------------------------------------

    def prepare(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | None = None,
        body: bytes | Upload | None = None,
        tls: TlsOptions | None = None,
    ) -> PreparedRequest:
        """Check and encode a request once, for `send` to send any number of times.

        With an `Upload` as its body, it is for an `Exchange` with the same `Upload`, and is sent once. `tls` are TLS
        options for this request; sockets with other options than the agent's are pooled apart.

        Raises `ValueError` for what may not go on the wire, such as an invalid URL or a header that would split a
        line, and `TypeError` for another body.
        """
        if body is not None and not isinstance(body, bytes | bytearray | memoryview | Upload):
            raise TypeError(f"the body of a prepared request is bytes, not {type(body).__name__}; use request()")
        return self._prepare(method, url, headers, body, tls)

    def _prepare(
        self, method: str, url: str, headers: Headers | None, body: bytes | Upload | None, tls: TlsOptions | None
    ) -> PreparedRequest:
        return prepare(
            method,
            url,
            headers,
            body,
            keep_alive=self._sends_keep_alive,
            tls=self._connector.tls_contexts.unless_default(tls),
            retry_stale=self.options.retry_stale,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | None = None,
        body: Body | None = None,
        timeout: Duration | None = None,  # noqa: ASYNC109  # an activity timeout, which no timeout around this can be
        max_response_bytes: int | None = None,
        tls: TlsOptions | None = None,
    ) -> Response:
        """Send a request and return the whole response.

        `body` is bytes, a file opened for reading bytes, or an iterable or async iterable of bytes; a body whose
        length is neither known nor in a `Content-Length` header goes in chunks. What an iterator raises is raised here,
        and closes the socket. See `prepare` and `send` for the other arguments and errors.
        """
        payload = payload_of(body)
        upload = payload if isinstance(payload, Upload) else None
        prepared = self._prepare(method, url, headers, payload, tls)
        exchange = self._begin(prepared, timeout, upload, max_response_bytes)
        try:
            return await exchange.future
        except asyncio.CancelledError:
            self.abort(exchange)
            raise

    async def send(
        self,
        prepared: PreparedRequest,
        *,
        timeout: Duration | None = None,  # noqa: ASYNC109  # as above
        max_response_bytes: int | None = None,
    ) -> Response:
        """Send a prepared request and return the whole response.

        `timeout` is the activity timeout of this request (0: none) and `max_response_bytes` the limit of its body;
        None: the agent's. Cancelling closes the socket the request is on.

        Raises `ConnectError` and its kinds, `SocketTimeoutError`, `QueueTimeoutError`, `SocketClosedError` and its
        kinds `StaleSocketError` and `IncompleteResponseError`, `ResponseParseError`, `ResponseTooLargeError`,
        `AgentClosedError`, and `WrongLoopError` where the agent belongs to another event loop.
        """
        exchange = self._begin(prepared, timeout, None, max_response_bytes)
        try:
            return await exchange.future
        except asyncio.CancelledError:
            self.abort(exchange)
            raise

    def _begin(
        self,
        prepared: PreparedRequest,
        timeout: Duration | None,
        upload: Upload | None,
        max_response_bytes: int | None,
    ) -> FutureExchange:
        future = self._bind().create_future()
        seconds = self._timeout_s if timeout is None else parse_duration(timeout)
        limit = self.options.max_response_bytes
        if max_response_bytes is not None:
            limit = parse_limit("max_response_bytes", max_response_bytes)
        if upload is None and limit is None:
            exchange = FutureExchange(prepared, seconds, future)
        else:
            exchange = CarefulExchange(prepared, seconds, future, upload, limit)
        self.start(exchange, perf_counter())
        return exchange

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | None = None,
        body: Body | None = None,
        timeout: Duration | None = None,  # noqa: ASYNC109  # as above
        tls: TlsOptions | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        """Send a request and read the response as it comes; arguments and errors are those of `request`.

        async with agent.stream("GET", url) as response:
            async for piece in response.aiter_bytes():
                ...

        The socket is read no faster than the pieces are taken; while 256 KiB wait to be taken, `timeout` does not run.
        On leaving, a socket whose response was not read to its end is closed.
        """
        payload = payload_of(body)
        upload = payload if isinstance(payload, Upload) else None
        prepared = self._prepare(method, url, headers, payload, tls)
        self._bind()
        seconds = self._timeout_s if timeout is None else parse_duration(timeout)
        exchange = StreamExchange(prepared, seconds, upload)
        now = perf_counter()
        self.start(exchange, now)
        try:
            yield StreamedResponse(await exchange.until_head(), exchange)
        finally:
            if not exchange.is_over:
                self.abort(exchange)
                exchange.failed(StreamConsumedError("the response was left before it was read to its end"), now)

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which becomes this agent's. Raises `WrongLoopError` if the agent has another."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None and not self.book.is_closed:
                raise WrongLoopError(
                    "this agent belongs to another event loop, where its sockets are; make an agent for each loop"
                )
            self._loop = loop
        return loop

    def start(self, exchange: Exchange, now: float) -> None:
        """Start an exchange; `now` is `time.perf_counter()`. Its `succeeded` or `failed` will be called.

        Raises `AgentClosedError` if the agent is closed.
        """
        book = self.book
        if book.is_closed:
            raise AgentClosedError(_CLOSED)
        if book.next_deadline <= now:
            self._look_at_deadlines(now)
            if book.is_closed:  # by an exchange that was told of a timeout
                raise AgentClosedError(_CLOSED)
        exchange.started_at = now
        if exchange.is_used:
            exchange.reset()
        decision = book.checkout(exchange, now)
        if isinstance(decision, BookedSocket):
            connection = decision.handle
            if connection is not None:
                connection.send(exchange, now)
        elif decision is not None:
            if decision.instead_of is not None:
                self._connector.release(decision.instead_of)
            self._connector.open(decision.socket)

    def abort(self, exchange: Exchange) -> None:
        """Give up an exchange. Its socket is closed, since bytes are outstanding on it; neither callback is called."""
        if exchange.pending:
            self.book.cancel(exchange)
            return
        booked = exchange.booked
        if booked is None or booked.request is not exchange:
            return
        self._connector.drop(booked, CloseReason.ABORTED, perf_counter())

    # -- the agent itself ----------------------------------------------------------------------------------------------

    def get_current_status(self) -> AgentStatus:
        """Return counters, and sockets and pending requests by origin, as they are now."""
        return self.book.status()

    @property
    def status_changed(self) -> bool:
        """True once after any counter moved, then False until the next one does."""
        return self.book.status_changed()

    @property
    def tls_handshake_count(self) -> int:
        """TLS handshakes finished."""
        return self._connector.tls_sessions.handshake_count

    @property
    def tls_resumed_count(self) -> int:
        """TLS handshakes that resumed a session."""
        return self._connector.tls_sessions.resumed_count

    def add_event_listener(self, listener: EventListener, kinds: Collection[EventKind] | None = None) -> None:
        """Call `listener` with each `AgentEvent` of these kinds (None: all) from now on, as `on_event` is called.

        Listening to `EventKind.REUSED` costs something with each request.
        """
        self._events.add(listener, kinds)
        self.book.tells_reuse = self._events.wants_reuse

    def _note_event(self, kind: EventKind, origin: str, reason: str, request_count: int, age_s: float) -> None:
        if self._events.tell(kind, origin, reason, request_count, age_s) and not self._is_telling:
            self._tell_soon()

    def _tell_soon(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended; `close_now` delivers
            (self._loop or asyncio.get_running_loop()).call_soon(self._deliver)
            self._is_telling = True

    def _deliver(self) -> None:
        """Tell the listeners. If one raises a `BaseException` such as SystemExit, the rest is told in a later turn."""
        self._is_telling = False
        try:
            self._events.deliver()
        finally:
            if self._events.has_news and not self._is_telling:
                self._tell_soon()

    async def close(self) -> None:
        """Close all sockets. Requests in flight and pending ones fail with `AgentClosedError`; closing twice is fine.

        Raises `WrongLoopError` in another event loop than the agent's, unless the agent's is closed.
        """
        loop = self._loop
        if loop is not None and loop is not asyncio.get_running_loop() and not loop.is_closed():
            raise WrongLoopError("this agent belongs to another event loop; close it there")
        self.close_now()
        await asyncio.sleep(0)  # let the transports finish

    def close_now(self) -> None:
        """Close as `close` does, for callers that cannot await."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = perf_counter()
        sockets, pending = self.book.close(now)
        cut_off = [booked.request for booked in sockets if booked.request is not None]
        for booked in sockets:
            self._connector.release(booked)
        for exchange in cut_off:
            self._fail(exchange, AgentClosedError("the agent was closed while the request was under way"), now)
        for exchange in pending:
            self._fail(exchange, AgentClosedError("the agent was closed while the request waited for a socket"), now)
        if self._loop is not None and self._loop.is_closed():
            self._events.deliver()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _fail(self, exchange: Exchange, error: AgentError, now: float) -> None:
        """Fail one of several exchanges. If its `failed` raises, the others are still told."""
        try:
            exchange.failed(error, now)
        except Exception as raised:
            loop = self._loop or asyncio.get_running_loop()
            loop.call_exception_handler({"message": "Exchange.failed() raised", "exception": raised})

    # -- time ----------------------------------------------------------------------------------------------------------

    def _wake_at(self, deadline: float) -> None:
        """Set the one timer. The book calls this with each deadline that is nearer than the one before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline < inf:
            loop = self._loop or asyncio.get_running_loop()
            delay = max(0.0, deadline - perf_counter()) + _TIMER_SLACK_S
            self._timer = loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._look_at_deadlines(perf_counter())

    def _look_at_deadlines(self, now: float) -> None:
        """Do what the book finds due; only then tell the exchanges, since they may call back."""
        book = self.book
        due = book.due(now)
        failures: list[tuple[Exchange, AgentError]] = []
        to_close = due.close
        for closed in due.close:
            exchange = closed.socket.request
            if exchange is None:
                continue
            error, doubtful = self._timeout_error(closed, exchange, now)
            failures.append((exchange, error))
            to_close = to_close + doubtful
        waited = self.options.queue_timeout or 0.0
        failures += [
            (exchange, QueueTimeoutError(f"no socket was free within {waited:g} s", waited)) for exchange in due.late
        ]
        self._connector.release_all(to_close)
        self._wake_at(book.next_deadline)
        for exchange, error in failures:
            self._fail(exchange, error, now)

    def _timeout_error(
        self, closed: ToClose[Carrier, Exchange], exchange: Exchange, now: float
    ) -> tuple[AgentError, list[ToClose[Carrier, Exchange]]]:
        """Return the error of a request whose socket came due, and other sockets to close with it."""
        booked = closed.socket
        if booked.handle is None:
            limit = self.options.effective_connect_timeout
            return ConnectTimeoutError(f"{booked.origin}: not connected within {limit:g} s", limit), []
        failed = booked.handle.timed_out(exchange)
        return failed.error, self.book.doubt_idle(booked, now) if failed.doubts_idle else []


class AsyncKeepAliveAgent(AsyncAgent):
    """A pooling agent for asyncio. See `AgentOptions` for the options.

    async with AsyncKeepAliveAgent(max_sockets=50, free_socket_timeout="30s") as agent:
        response = await agent.request("GET", "http://127.0.0.1:8080/")
    """


class AsyncPlainAgent(AsyncAgent):
    """An agent that pools nothing: one request per socket, `Connection: close`.

    With `hand_off=True` it is Node's normal agent with finite `max_sockets`: it sends `Connection: keep-alive`, a
    socket goes straight to a pending request if there is one, and is closed if there is none.
    """

    def __init__(
        self,
        options: AgentOptions | None = None,
        *,
        tls: TlsOptions | None = None,
        on_event: EventListener | None = None,
        connect_to: str | None = None,
        unix_socket: str | None = None,
        **given: Unpack[AgentOptionArguments],
    ) -> None:
        if options is None:
            given.setdefault("keep_alive", False)
        super().__init__(options, tls=tls, on_event=on_event, connect_to=connect_to, unix_socket=unix_socket, **given)
        if self.options.keep_alive:
            raise ValueError("keep_alive: True is not for a plain agent; use AsyncKeepAliveAgent")
