"""The delayed echo server: it listens, and looks after the sockets that it has accepted."""

from __future__ import annotations

import asyncio
import os
import socket
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.server.answers import AnswerBook
from kabench.server.certificate import server_context
from kabench.server.connection import EchoConnection
from kabench.server.counts import ServerCounts, open_counters, reading_of
from kabench.server.delay import DelayQueue
from kabench.server.faults import FAULT_NUMBERS, FaultKind
from kabench.server.faulty import FaultChances, FaultyConnection

if TYPE_CHECKING:
    import ssl

    from kabench.server.faults import Fault
    from kabench.server.options import ServerOptions

_BACKLOG = 4096
_SWEEPS_PER_IDLE_TIMEOUT = 50
_SWEEP_AT_MOST_EVERY_S = 1.0
_LISTEN_AGAIN_S = 0.05


class EchoServer:
    """The delayed echo server, in the running event loop."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.counts = open_counters(options.counts_file)
        self.answer_book = AnswerBook(options)
        self.connections: set[EchoConnection] = set()
        self.leaving: set[EchoConnection] = set()
        self._loop = asyncio.get_running_loop()
        self.delays: DelayQueue[EchoConnection] = DelayQueue(self._loop, EchoConnection.answer_first)
        self._chances = FaultChances(options.faults, options.seed) if options.faults else None
        self.idle_timeouts_s = [
            *([] if options.idle_timeout_s is None else [options.idle_timeout_s]),
            *(each.duration_s for each in options.faults if each.kind in (FaultKind.CLOSE_IDLE, FaultKind.DROP_IDLE)),
        ]
        self.most_connections = options.limits.connections_for(files=1)
        self._hosts: list[str] = []
        self._context: ssl.SSLContext | None = None
        self._listeners: list[asyncio.Server] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._refusals: list[asyncio.Task[None]] = []
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
        if self.options.tls:
            self._context, self.ca_data = server_context(self.options)
        self.port = self.options.port
        found = await self._loop.getaddrinfo(self.options.host, self.port, type=socket.SOCK_STREAM)
        self._hosts = list(dict.fromkeys(str(address[0]) for *_, address in found))
        try:
            await self._listen()
        except OSError:
            await self.stop()
            raise
        self._sweep()
        for fault in self.options.faults:
            if fault.kind is FaultKind.REFUSE and fault.period_s:
                self._refusals.append(asyncio.create_task(self._refuse_now_and_then(fault)))

    async def _listen(self) -> None:
        for host in self._hosts:
            listener = await self._loop.create_server(
                self._accept,
                host,
                self.port,
                backlog=_BACKLOG,
                ssl=self._context,
                ssl_handshake_timeout=self.options.limits.head_timeout_s if self._context is not None else None,
            )
            self._listeners.append(listener)
            self.port = listener.sockets[0].getsockname()[1]  # a name's other addresses get the same one

    def _accept(self) -> EchoConnection:
        return EchoConnection(self) if self._chances is None else FaultyConnection(self, self._chances)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _refuse_now_and_then(self, fault: Fault) -> None:
        """Listen to nobody for the last part of each period; whoever is there already is served."""
        while True:
            await asyncio.sleep(fault.period_s - fault.duration_s)
            self.counts.faults[FAULT_NUMBERS[FaultKind.REFUSE]] += 1
            self._stop_listening()
            await asyncio.sleep(fault.duration_s)
            while not self._listeners:
                try:
                    await self._listen()
                except OSError:  # somebody else has taken the port meanwhile
                    self._stop_listening()
                    await asyncio.sleep(_LISTEN_AGAIN_S)

    async def stop(self) -> None:
        """Stop accepting, close all sockets."""
        for task in self._refusals:
            task.cancel()
        self._stop_listening()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in [*self.connections, *self.leaving]:
            connection.transport.abort()
        self.delays.close()
        await asyncio.sleep(0)

    def snapshot(self) -> ServerCounts:
        """The counts so far."""
        return reading_of(self.counts)

    def _sweep(self) -> None:
        """Look after the sockets that are idle or slow; it looks at all, so that a request costs nothing."""
        now = perf_counter()
        for connection in [*self.connections, *self.leaving]:
            connection.look(now)
        limits = self.options.limits
        shortest_s = min((*self.idle_timeouts_s, limits.head_timeout_s, limits.request_timeout_s))
        again_s = min(_SWEEP_AT_MOST_EVERY_S, shortest_s / _SWEEPS_PER_IDLE_TIMEOUT)
        self._sweep_timer = self._loop.call_later(again_s, self._sweep)


def listen_error(error: Exception) -> str:
    """Why a server cannot listen, in the system's words."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
    return os.strerror(number) if number else str(error)
