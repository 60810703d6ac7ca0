"""Bodies that are not bytes: files, iterables and async iterables, sent as they are read.

A body of unknown length goes in chunks (RFC 9112 section 7.1). Files are read in the loop's threads, since reading one
blocks; iterables run in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from typing import IO, TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable

Streamable: TypeAlias = IO[bytes] | Iterable[bytes] | AsyncIterable[bytes]
Body: TypeAlias = bytes | bytearray | memoryview | Streamable
"""What can be sent: bytes, a file opened for reading bytes, or an iterable or async iterable of bytes."""

_READ_BYTES = 262_144


class Upload:
    """A body to be sent in pieces. `length` is in bytes; None: unknown, or not known yet.

    `can_restart` says whether it can be sent a second time, which a seekable file can.

    Raises `TypeError` for anything else.
    """

    def __init__(self, body: Streamable) -> None:
        self.length: int | None = None
        self.can_restart = False
        self._is_measured = False
        self._read: Callable[[], AsyncGenerator[bytes, None]]
        if hasattr(body, "read"):
            self._read = self._measure(cast("IO[bytes]", body))
        elif isinstance(body, AsyncIterable):
            self._read = lambda: _each_of(body)
        elif isinstance(body, str | Mapping) or not isinstance(body, Iterable):
            raise TypeError(f"a body is bytes, a file or an (async) iterable of bytes, not {type(body).__name__}")
        else:
            self._read = lambda: _each(body)

    def _measure(self, file: IO[bytes]) -> Callable[[], AsyncGenerator[bytes, None]]:
        is_seekable = getattr(file, "seekable", bool)  # bool() is False
        if inspect.iscoroutinefunction(is_seekable) or not is_seekable():
            return lambda: _each_read(file)
        start = file.tell()
        self.length = file.seek(0, io.SEEK_END) - start
        file.seek(start)
        self.can_restart = self._is_measured = True
        turn = asyncio.Lock()  # a second attempt begins when the first has let go of the file

        async def from_the_start() -> AsyncGenerator[bytes, None]:
            async with turn, contextlib.aclosing(_each_read(file)) as pieces:
                file.seek(start)
                left = self.length or 0
                async for piece in pieces:
                    yield piece[:left]  # no more than was measured, in case the file has grown
                    left -= len(piece)
                    if left <= 0:
                        break

        return from_the_start

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes to be sent, framed. Raises `ValueError` if there are more or fewer than `length`."""
        sent = 0
        async with contextlib.aclosing(self._read()) as pieces:
            async for piece in pieces:
                if not isinstance(piece, bytes | bytearray | memoryview):
                    raise TypeError(f"a body is made of bytes, not {type(piece).__name__}; open files with 'rb'")
                size = memoryview(piece).nbytes
                if not size:
                    continue  # an empty chunk would be the end
                sent += size
                if self.length is None:
                    yield b"%x\r\n%b\r\n" % (size, piece)
                elif sent <= self.length:
                    yield bytes(piece)
                else:
                    raise ValueError(f"the body is longer than its Content-Length, {self.length} bytes")
                if sent == self.length and self._is_measured:
                    break  # without waiting for the end of the file, which the server's answer may outrun
        if self.length is None:
            yield b"0\r\n\r\n"
        elif sent < self.length:
            raise ValueError(f"the body ended after {sent} of the {self.length} bytes of its Content-Length")


def payload_of(body: Body | None) -> bytes | Upload | None:
    """Return a body as bytes, if it is that, or as an `Upload`. Raises `TypeError` for anything else."""
    return bytes(body) if isinstance(body, bytes | bytearray | memoryview) else None if body is None else Upload(body)


async def _each(body: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        for piece in body:
            yield piece
    finally:
        if inspect.isgenerator(body):
            body.close()


async def _each_of(body: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in body:
            yield piece
    finally:
        if inspect.isasyncgen(body):
            await body.aclose()


async def _each_read(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while True:
        if inspect.iscoroutinefunction(file.read):
            piece = await file.read(_READ_BYTES)
        elif isinstance(file, io.BytesIO):
            piece = file.read(_READ_BYTES)
        else:
            piece = await _read_in_a_thread(file)
        if not piece:
            return
        yield piece


async def _read_in_a_thread(file: IO[bytes]) -> bytes:
    """Read in a thread. If cancelled, wait until the thread lets go of the file, since nothing can stop it."""
    reading = asyncio.ensure_future(asyncio.to_thread(file.read, _READ_BYTES))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()  # the caller is gone, so that asyncio need not log it
        raise
