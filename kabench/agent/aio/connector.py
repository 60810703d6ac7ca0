"""`Connector`: opens the sockets that the book has places for, and holds what all connections of an agent share.

It makes the connections, which ask it for another socket, and closes the sockets that the book lets go of.
"""

from __future__ import annotations

import asyncio
import contextlib
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.agent.aio.connection import Connection
from kabench.agent.aio.resolver import Resolver, is_address
from kabench.agent.aio.tls_connection import TlsConnection
from kabench.agent.book import SocketBook
from kabench.agent.errors import connect_error
from kabench.agent.reader import HeadCache
from kabench.agent.tls import SessionCache, TlsContexts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kabench.agent.aio.connection import Connecting
    from kabench.agent.aio.exchange import Book, Booked, Carrier, Exchange
    from kabench.agent.book import CloseReason, ToClose
    from kabench.agent.options import AgentOptions
    from kabench.agent.tls import TlsOptions
    from kabench.agent.urls import Origin

_PATIENCE_WITH_AN_ADDRESS_S = 30.0


class Connector:
    """Opens and closes an agent's sockets, as its book says. Connections know it as their `Owner`."""

    def __init__(
        self,
        options: AgentOptions,
        tls: TlsOptions | None,
        connect_to: tuple[str, int] | None,
        unix_socket: str | None,
    ) -> None:
        self.options = options
        self.book: Book = SocketBook(options)
        self.heads = HeadCache()
        self.tls_contexts = TlsContexts(tls)
        self.tls_sessions = SessionCache(options.max_cached_sessions)
        self._connect_to = connect_to
        self._unix_socket = unix_socket
        self._resolver = Resolver()
        self._connecting: dict[Booked, Connecting] = {}

    # -- opening -------------------------------------------------------------------------------------------------------

    def open(self, booked: Booked | None) -> None:
        """Open a socket for the request that the book has given this place to, if there is one."""
        exchange = None if booked is None else booked.request
        if booked is None or exchange is None:
            return
        exchange.booked = booked
        exchange.opening_at = perf_counter()
        exchange.is_used = True
        loop = asyncio.get_running_loop()
        self._connecting[booked] = loop.create_task(self._connect(loop, booked, exchange.prepared.origin))

    def replace(self, booked: Booked, reason: CloseReason, now: float) -> None:
        """Give another socket to a request whose socket was found dead: a free one that is alive, or a fresh one.

        The request has not been sent on the dead socket, and keeps its turn.
        """
        exchange = booked.request
        found: CloseReason | None = reason
        while found is not None and exchange is not None:
            if booked.handle is not None:
                booked.handle.close()
            booked, then_open = self.book.replace(booked, found, now)
            self.open(then_open)
            connection = booked.handle
            if connection is None:
                self.open(booked)
                return
            found = connection.look(now)
            if found is None:
                connection.send(exchange, now)

    async def _connect(self, loop: asyncio.AbstractEventLoop, booked: Booked, origin: Origin) -> None:
        try:
            if origin.scheme == "https":
                self.tls_contexts.get(origin.tls)  # made here, so that an error reaches the request
            if self._unix_socket is not None:
                await loop.create_unix_connection(lambda: self._protocol(booked, origin), self._unix_socket)
                return
            host, port = self._connect_to or (origin.host, origin.port)
            hosts = [host] if is_address(host) else await self._resolver.addresses(host)
            await self._connect_to_any(loop, booked, hosts, port, origin)
        except Exception as error:  # whatever it is, the request must hear of it
            self.connect_failed(booked, origin, error)

    async def _connect_to_any(
        self, loop: asyncio.AbstractEventLoop, booked: Booked, hosts: list[str], port: int, origin: Origin
    ) -> None:
        """Connect to the first address that answers. Raises the last one's `OSError` if none does.

        An address that does not answer gets an equal share of the time, so that the next one is tried too.
        """
        limit_s = self.options.effective_connect_timeout or _PATIENCE_WITH_AN_ADDRESS_S * len(hosts)
        for host in hosts[:-1]:
            with contextlib.suppress(OSError):  # a TimeoutError is one
                async with asyncio.timeout(limit_s / len(hosts)):
                    await loop.create_connection(lambda: self._protocol(booked, origin), host, port)
                    return
        await loop.create_connection(lambda: self._protocol(booked, origin), hosts[-1], port)

    def _protocol(self, booked: Booked, origin: Origin) -> Connection:
        if origin.scheme == "https":
            return TlsConnection(self, booked, origin)
        return Connection(self, booked)

    def connecting(self, booked: Booked, connection: Connecting) -> bool:
        """Note which object is connecting a socket now; return False if the socket is no longer wanted."""
        if booked not in self._connecting:
            return False
        self._connecting[booked] = connection
        return True

    def connected(self, booked: Booked) -> bool:
        """Note that connecting is over; return False if the socket is no longer wanted."""
        return self._connecting.pop(booked, None) is not None

    def connect_failed(self, booked: Booked, origin: Origin, error: Exception) -> None:
        """Tell the book and the request that a socket could not be connected."""
        if not self.connected(booked):
            return
        self.tls_sessions.drop(booked.origin)
        now = perf_counter()
        exchange = booked.request
        self.open(self.book.open_failed(booked, now))
        booked.request = None
        if exchange is not None:
            exchange.failed(connect_error(*self._where(origin), error), now)

    def _where(self, origin: Origin) -> tuple[str, str]:
        """Return where a socket leads to, for an error, and the host name that is looked up for it."""
        if self._unix_socket is not None:
            return self._unix_socket, origin.host
        if self._connect_to is not None:
            host, port = self._connect_to
            return f"{origin.key} at {f'[{host}]' if ':' in host else host}:{port}", host
        return origin.key, origin.host

    # -- closing -------------------------------------------------------------------------------------------------------

    def release(self, booked: Booked) -> None:
        """Close, or stop connecting, a socket that the book has let go of."""
        connecting = self._connecting.pop(booked, None)
        if connecting is not None:
            connecting.cancel()
            booked.request = None
        if booked.handle is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its sockets go with their transports
                booked.handle.close()

    def release_all(self, to_close: Iterable[ToClose[Carrier, Exchange]]) -> None:
        """Close sockets that the book has let go of, then open those that take their places."""
        to_close = list(to_close)
        for closed in to_close:
            self.release(closed.socket)
        for closed in to_close:
            self.open(closed.then_open)

    def drop(self, booked: Booked, reason: CloseReason, now: float) -> None:
        """Close a socket whose request is given up."""
        self.release(booked)
        self.open(self.book.remove(booked, reason, now))
