"""Servers and bodies for the tests of streaming."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.sockets import OK, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

    from kabench.agent import StreamedResponse

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"
MANY_BYTES = 50_000_000
PIECE = bytes(65_536)


class OwnError(Exception):
    """What a caller's own iterator raises."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def head_of(peer: Peer) -> bytes:
    """The head of the next request; its body is left on the wire."""
    return await peer.reader.readuntil(b"\r\n\r\n")


async def upload_to(peer: Peer) -> tuple[bytes, bytes]:
    """The next request's head and its body, put together where it comes in chunks."""
    head = await head_of(peer)
    if b"\r\nTransfer-Encoding: chunked\r\n" not in head:
        length = head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0]
        return head, await peer.reader.readexactly(int(length or 0))
    assert b"content-length" not in head.lower()
    body = b""
    while size := int(await peer.reader.readuntil(b"\r\n"), 16):
        body += await peer.reader.readexactly(size)
        assert await peer.reader.readexactly(2) == b"\r\n"
    assert await peer.reader.readexactly(2) == b"\r\n"
    return head, body


class Uploads:
    """Takes uploads whole and answers each. `taken` is what came, `ends` how many sockets ended before a whole one."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, bytes]] = []
        self.ends = 0

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                self.taken.append(await upload_to(peer))
                await peer.send(OK)
        except (EOFError, ConnectionError):
            self.ends += 1
            raise


async def never_reads(peer: Peer) -> None:
    """Take a request's head and no more; look now and then whether the client has gone."""
    await head_of(peer)
    while not peer.writer.is_closing():  # noqa: ASYNC110  # only the transport knows
        await asyncio.sleep(0.01)


async def collect(response: StreamedResponse, into: bytearray) -> None:
    """Read a body to its end, or to the error that is there instead."""
    async for piece in response.aiter_bytes():
        into += piece


async def enter(stream: AbstractAsyncContextManager[StreamedResponse]) -> None:
    """Wait for the head of a response that does not come."""
    async with stream:
        raise AssertionError("there is no response")


async def steady(count: Callable[[], int]) -> int:
    """What a count comes to, once it has stopped growing."""
    before = -1
    while count() != before:
        before = count()
        await asyncio.sleep(0.15)
    return before


class Supply:
    """An endless supply of pieces, which knows how much was drawn and whether it was closed."""

    def __init__(self, most: int = 10**9) -> None:
        self.drawn = 0
        self.most = most
        self.is_closed = False

    def pieces(self) -> Iterator[bytes]:
        try:
            while self.drawn < self.most:
                self.drawn += len(PIECE)
                yield PIECE
        finally:
            self.is_closed = True

    async def async_pieces(self) -> AsyncIterator[bytes]:
        try:
            while self.drawn < self.most:
                self.drawn += len(PIECE)
                yield PIECE
                await asyncio.sleep(0)
        finally:
            self.is_closed = True

    def body(self, is_async: bool) -> Iterator[bytes] | AsyncIterator[bytes]:
        return self.async_pieces() if is_async else self.pieces()
