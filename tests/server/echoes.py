"""An echo server in the test's own event loop, and sockets to it that see every byte, FIN and RST."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from kabench.server import ServerOptions
from kabench.server.echo import EchoServer
from tests.sockets import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GET = b"GET /0?size=20 HTTP/1.1\r\nHost: h\r\n\r\n"

RST = b"<RST>"
FIN = b"<FIN>"


@contextlib.asynccontextmanager
async def echoing(**options: Any) -> AsyncIterator[EchoServer]:
    """A server without a delay."""
    server = EchoServer(ServerOptions(**({"delay_s": 0.0} | options)))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Listens(Protocol):
    """Whoever listens on 127.0.0.1."""

    @property
    def port(self) -> int: ...


class RawSocket:
    """A client that sees what comes, and how it ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, server: Listens) -> RawSocket:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> bytes:
        """A whole response that says its length, or comes in chunks, which are put together."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            if b"transfer-encoding: chunked\r\n" not in head.lower():
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                return head + await self.reader.readexactly(length)
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return head + body

    async def rest(self) -> bytes:
        """Everything until the end, and how it ended."""
        seen = b""
        try:
            while piece := await asyncio.wait_for(self.reader.read(65_536), PATIENCE_S):
                seen += piece
        except ConnectionResetError:
            return seen + RST
        return seen + FIN

    async def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for a while."""
        try:
            await asyncio.wait_for(self.reader.read(1), seconds)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.writer.close()


async def asked_once(server: Listens, request: bytes = GET) -> bytes:
    """What comes for one request on a socket of its own, to the socket's end."""
    try:
        client = await RawSocket.to(server)
    except ConnectionError:  # a socket that the system has accepted, and the server has not, is reset at once
        return RST
    client.send(request)
    try:
        return await client.rest()
    finally:
        client.close()
