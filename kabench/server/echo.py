"""The delayed echo server: it listens, and looks after the sockets that it has accepted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kabench.http1.accepted import AcceptedSockets
from kabench.server.answers import AnswerBook
from kabench.server.certificate import server_context
from kabench.server.connection import EchoConnection
from kabench.server.counts import ServerCounts, open_counters, reading_of
from kabench.server.delay import DelayQueue
from kabench.server.faults import FAULT_NUMBERS, FaultKind
from kabench.server.faulty import FaultChances, FaultyConnection
from kabench.system.listening import Listeners

if TYPE_CHECKING:
    import ssl

    from kabench.server.faults import Fault
    from kabench.server.options import ServerOptions

_LISTEN_AGAIN_S = 0.05


class EchoServer:
    """The delayed echo server, in the running event loop."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.counts = open_counters(options.counts_file)
        self.answer_book = AnswerBook(options)
        self.accepted: AcceptedSockets[EchoConnection] = AcceptedSockets(options.limits.connections_for(files=1))
        self.delays: DelayQueue[EchoConnection] = DelayQueue(asyncio.get_running_loop(), EchoConnection.answer_first)
        self._chances = FaultChances(options.faults, options.seed) if options.faults else None
        self.idle_timeouts_s: list[float] = [
            *([] if options.idle_timeout_s is None else [options.idle_timeout_s]),
            *(each.duration_s for each in options.faults if each.kind in (FaultKind.CLOSE_IDLE, FaultKind.DROP_IDLE)),
        ]
        self._context: ssl.SSLContext | None = None
        self._listeners = Listeners(options.host, options.port, self._accept)
        self._refusals: list[asyncio.Task[None]] = []
        self.ca_data: str | None = None

    @property
    def connections(self) -> set[EchoConnection]:
        """The sockets that are served."""
        return self.accepted.connections

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._listeners.port

    @property
    def url(self) -> str:
        """The URL that it listens at."""
        return f"{'https' if self.options.tls else 'http'}://{self._listeners.authority}/"

    async def start(self) -> None:
        """Accept connections. Raises `OSError` if it cannot listen and `CertificateError` if it has no certificate.

        `ca_data` is then the certificate (PEM) of the throw-away authority, if there is one.
        """
        if self.options.tls:
            self._context, self.ca_data = server_context(self.options)
        try:
            await self._listen()
        except OSError:
            await self.stop()
            raise
        limits = self.options.limits
        self.accepted.start_looking(min((*self.idle_timeouts_s, limits.head_timeout_s, limits.request_timeout_s)))
        for fault in self.options.faults:
            if fault.kind is FaultKind.REFUSE and fault.period_s:
                self._refusals.append(asyncio.create_task(self._refuse_now_and_then(fault)))

    async def _listen(self) -> None:
        await self._listeners.open(self._context, self.options.limits.head_timeout_s)

    def _accept(self) -> EchoConnection:
        return EchoConnection(self) if self._chances is None else FaultyConnection(self, self._chances)

    async def _refuse_now_and_then(self, fault: Fault) -> None:
        """Stop listening for the last part of each period; accepted sockets are still served."""
        while True:
            await asyncio.sleep(fault.period_s - fault.duration_s)
            self.counts.faults[FAULT_NUMBERS[FaultKind.REFUSE]] += 1
            self._listeners.close()
            await asyncio.sleep(fault.duration_s)
            while not self._listeners.is_open:
                try:
                    await self._listen()
                except OSError:  # another process has taken the port meanwhile
                    self._listeners.close()
                    await asyncio.sleep(_LISTEN_AGAIN_S)

    async def stop(self) -> None:
        """Stop accepting, and close all sockets."""
        for task in self._refusals:
            task.cancel()
        self._listeners.close()
        self.accepted.abort()
        self.delays.close()
        await asyncio.sleep(0)

    def snapshot(self) -> ServerCounts:
        """Return the counts so far."""
        return reading_of(self.counts)
