"""The server itself: sockets in, answers out after their delay, each socket's in order."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, cast

from kabench.server.answers import Answer, AnswerBook, RequestReader, with_requests_left
from kabench.server.certificate import server_context
from kabench.server.counts import ServerCounts
from kabench.server.delay import DelayQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.server.options import ServerOptions

_BACKLOG = 4096
_MAX_WAITING_ANSWERS = 64
"""Pipelined requests that a socket may have unanswered before it is no longer read from."""

_SWEEPS_PER_IDLE_TIMEOUT = 50


class EchoServer:
    """The delayed echo server, in the running event loop."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.counts = ServerCounts()
        self.answer_book = AnswerBook(options)
        self.connections: set[EchoConnection] = set()
        self._loop = asyncio.get_running_loop()
        self.delays: DelayQueue[EchoConnection] = DelayQueue(self._loop, EchoConnection.answer_first)
        self._listeners: list[asyncio.Server] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        self.port = 0
        self.ca_data: str | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        host = self.options.host
        return f"{'https' if self.options.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}/"

    async def start(self) -> None:
        """Accept connections. Raises `OSError` if it cannot listen and `CertificateError` if it has no certificate.

        `ca_data` is the certificate (PEM) of the throw-away authority then, where there is one.
        """
        context = None
        if self.options.tls:
            context, self.ca_data = server_context(self.options)
        self.port = self.options.port
        found = await self._loop.getaddrinfo(self.options.host, self.port, type=socket.SOCK_STREAM)
        try:
            for host in dict.fromkeys(str(address[0]) for *_, address in found):
                listener = await self._loop.create_server(
                    lambda: EchoConnection(self), host, self.port, backlog=_BACKLOG, ssl=context
                )
                self._listeners.append(listener)
                self.port = listener.sockets[0].getsockname()[1]  # a name's other addresses get the same one
        except OSError:
            await self.stop()
            raise
        if self.options.idle_timeout_s is not None:
            self._sweep()

    async def stop(self) -> None:
        """Stop accepting, close all sockets."""
        for listener in self._listeners:
            listener.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self.connections):
            connection.transport.abort()
        self.delays.close()
        await asyncio.sleep(0)

    def snapshot(self) -> ServerCounts:
        """The counts so far."""
        return dataclasses.replace(self.counts)

    def _sweep(self) -> None:
        """Close the sockets that have been idle for too long; it looks at all, so that a request costs nothing."""
        limit = self.options.idle_timeout_s
        if limit is None:
            return
        idle_before = perf_counter() - limit
        for connection in [c for c in self.connections if not c.waiting and c.idle_since <= idle_before]:
            self.counts.idle_closes += 1
            connection.transport.close()
        self._sweep_timer = self._loop.call_later(limit / _SWEEPS_PER_IDLE_TIMEOUT, self._sweep)


def listen_error(error: Exception) -> str:
    """Why a server cannot listen, in the system's words."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
    return os.strerror(number) if number else str(error)


class EchoConnection(asyncio.Protocol):
    """One accepted socket. `waiting` are the answers not yet sent; only the first one's delay runs."""

    __slots__ = (
        "_closing",
        "_counts",
        "_delays",
        "_half_closed",
        "_known",
        "_paused",
        "_reader",
        "_requests_left",
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
        self._known = server.answer_book.answers
        self._reader = RequestReader(server.answer_book)
        self._requests_left = server.options.max_requests_per_socket
        self._tracks_idle = server.options.idle_timeout_s is not None
        self._paused = False
        self._closing = False
        self._half_closed = False
        self.waiting: deque[Answer] = deque()
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the socket."""
        self.transport = cast("asyncio.Transport", transport)
        self._write = self.transport.write
        self.idle_since = perf_counter()
        self._counts.sockets += 1
        self._server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Forget the socket."""
        self.waiting.clear()
        self._closing = True
        self._server.connections.discard(self)
        self._reader.release()

    def eof_received(self) -> bool:
        """The client has finished sending; it still gets the answers it waits for."""
        self._half_closed = True
        return bool(self.waiting) and not self._server.options.tls  # TLS has no half-closed sockets

    def data_received(self, data: bytes) -> None:
        """Read requests; set the delay of the first answer going."""
        if self._closing:
            return
        if self._reader.at_boundary:
            known = self._known.get(data)
            if known is not None:
                self._take(known)
                return
        for made in self._reader.feed(data):
            self._take(made)
        if self._reader.wants_continue():
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
            if len(waiting) > _MAX_WAITING_ANSWERS and not self._paused:
                self._paused = True
                self.transport.pause_reading()
        elif made.delay_s > 0:
            waiting.append(made)
            self._delays.push(perf_counter() + made.delay_s, self)
        else:
            self._send(made)

    def answer_first(self) -> None:
        """The delay of the first waiting answer is over."""
        waiting = self.waiting
        if not waiting:
            return  # the socket was closed meanwhile
        self._send(waiting.popleft())
        while waiting and not self._closing:
            if waiting[0].delay_s > 0:
                self._delays.push(perf_counter() + waiting[0].delay_s, self)
                break
            self._send(waiting.popleft())
        if self._paused and len(waiting) <= _MAX_WAITING_ANSWERS:
            self._paused = False
            if not self._closing:
                self.transport.resume_reading()

    def _send(self, made: Answer) -> None:
        counts = self._counts
        counts.responses += 1
        counts.response_body_bytes += made.body_bytes
        if self._requests_left is None:
            self._write(made.wire)
            closes = made.closes
        else:
            self._requests_left -= 1
            self._write(with_requests_left(made, self._requests_left, self._server.options.keep_alive_hint))
            closes = made.closes or self._requests_left <= 0
        if self._tracks_idle:
            self.idle_since = perf_counter()
        if closes or (self._half_closed and not self.waiting):
            self._closing = True
            self.waiting.clear()
            self.transport.close()
