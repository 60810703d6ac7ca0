"""The response of the threaded agents (urllib3's, with `reused_socket`), and the body that it is read from.

`RawBody` stands where urllib3 expects an `http.client.HTTPResponse`, and reads through the same strict reader as the
asyncio agents do.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from urllib3.exceptions import DecodeError, ProtocolError, ResponseNotChunked
from urllib3.response import HTTPResponse

from kabench.agent.errors import AgentClosedError, ResponseParseError, ResponseTooLargeError
from kabench.agent.sync.errors import untrusted

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator

    from urllib3 import HTTPHeaderDict

    from kabench.agent.reader import ResponseHead, ResponseReader


_DECODED_AT_ONCE_BYTES = 65_536
"""Bytes of a limited body that are decoded at a time: a small body can decode to a thousand times its size."""


class BodySource(Protocol):
    """What a body needs of its connection. Once `serial` has changed, the connection is no longer the body's."""

    serial: int
    reader: ResponseReader

    @property
    def sock(self) -> socket.socket | None:
        """The socket; None once it is closed."""

    def receive(self) -> None:
        """Read more of the response into the reader."""

    def close(self) -> None:
        """Close the socket."""


class RawBody:
    """The body of one response, read from its connection, which it lets go of with its last byte."""

    def __init__(
        self,
        connection: BodySource,
        head: ResponseHead,
        headers: HTTPHeaderDict,
        method: str,
        max_bytes: int | None,
    ) -> None:
        self._connection: BodySource | None = connection
        self._serial = connection.serial
        self._pieces: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._max_bytes = max_bytes
        self._head = head
        self._method = method
        self.msg = self.headers = headers
        self.status = head.status
        self.reason = head.reason
        self.version = 11 if head.http_version == "1.1" else 10
        self._take_pieces()

    # -- as a file -----------------------------------------------------------------------------------------------------

    def read(self, amt: int | None = None) -> bytes:
        """Return `amt` bytes, fewer only at the end; None: all that is left. urllib3 turns its errors into its own."""
        if amt is not None and amt < 0:
            amt = None
        while self._connection is not None and (amt is None or self._buffered_bytes < amt):
            self._read_more(self._connection)
        if amt is None or amt >= self._buffered_bytes:
            data = b"".join(self._pieces) if len(self._pieces) != 1 else self._pieces[0]
            self._pieces.clear()
            self._buffered_bytes = 0
            return data
        return b"".join(self._split(amt))

    def read1(self, amt: int | None = None) -> bytes:
        """Return the next piece as it came (of a chunked body, a chunk), of `amt` bytes at most; empty at the end."""
        while self._connection is not None and not self._pieces:
            self._read_more(self._connection)
        if not self._pieces:
            return b""
        size = len(self._pieces[0])
        return b"".join(self._split(size if amt is None or amt < 0 else min(amt, size)))

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a buffer; return how many bytes were put into it."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _split(self, amt: int) -> list[bytes]:
        taken = []
        while amt > 0:
            piece = self._pieces.popleft()
            if len(piece) > amt:
                self._pieces.appendleft(piece[amt:])
                piece = piece[:amt]
            amt -= len(piece)
            self._buffered_bytes -= len(piece)
            taken.append(piece)
        return taken

    @property
    def closed(self) -> bool:
        """Whether there is nothing left to be read."""
        return self._connection is None and not self._pieces

    def isclosed(self) -> bool:
        """Return `closed`, under the name that `http.client` has for it."""
        return self.closed

    def readable(self) -> bool:
        """Return True."""
        return True

    def flush(self) -> None:
        """Do nothing: nothing is written."""

    def fileno(self) -> int:
        """Return the socket's file descriptor. Raises `OSError` once the socket has been given back."""
        if self._connection is None or self._connection.sock is None:
            raise OSError("the socket of this response has been given back")
        return self._connection.sock.fileno()

    def close(self) -> None:
        """Read no more. A connection whose response was not read to its end is closed."""
        connection, self._connection = self._connection, None
        self._pieces.clear()
        self._buffered_bytes = 0
        if connection is not None and connection.serial == self._serial:
            connection.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take_pieces(self) -> None:
        connection = self._connection
        if connection is None:
            return
        reader = connection.reader
        for piece in reader.pieces():
            self._pieces.append(piece)
            self._buffered_bytes += len(piece)
        limit = self._max_bytes
        if limit is not None and max(self._head.body_length, reader.body_bytes) > limit:
            connection.close()
            self._connection = None
            raise_too_large(limit)
        if reader.complete:
            self._connection = None

    def _read_more(self, connection: BodySource) -> None:
        if connection.serial != self._serial:
            self._connection = None
            raise ProtocolError("the connection of this response was closed before it was read to its end")
        try:
            connection.receive()
        except ResponseParseError as error:
            raise untrusted("Connection broken", error) from error
        except AgentClosedError as error:
            raise ProtocolError("Connection broken", error) from error
        self._take_pieces()


def raise_too_large(limit: int) -> NoReturn:
    """Raise `ResponseTooLargeError` as one of urllib3's errors."""
    error = ResponseTooLargeError(f"the response is over {limit} bytes")
    raise DecodeError("Response too large", error) from error  # no ProtocolError, which would be retried


class AgentResponse(HTTPResponse):
    """urllib3's response. `reused_socket` says whether its socket had carried a request before.

    `retried` says whether the request was sent twice because its first socket was stale. A body that is read at
    once has at most `max_bytes` bytes when decoded: see `read`.
    """

    reused_socket: bool = False
    retried: bool = False

    def __init__(self, *arguments: Any, max_bytes: int | None, **named: Any) -> None:
        self._max_bytes = max_bytes
        super().__init__(*arguments, **named)  # which reads the body if it is to be preloaded

    def read(
        self, amt: int | None = None, decode_content: bool | None = None, cache_content: bool = False
    ) -> bytes:  # as urllib3 declares it
        """Read as urllib3 does. Raises `DecodeError` for a whole body that is over the limit once decoded."""
        limit = self._max_bytes
        if limit is None or amt is not None:
            return super().read(amt, decode_content, cache_content)
        pieces = []
        decoded_bytes = 0
        while piece := super().read(_DECODED_AT_ONCE_BYTES, decode_content):
            decoded_bytes += len(piece)
            if decoded_bytes > limit:
                self.close()
                raise_too_large(limit)
            pieces.append(piece)
        body = b"".join(pieces)
        if cache_content:
            self._body = body
        return body

    def supports_chunked_reads(self) -> bool:
        """Return True: a chunked body can be read as it comes."""
        return True

    def read_chunked(
        self, amt: int | None = None, decode_content: bool | None = None
    ) -> Generator[bytes, Any, None]:  # as urllib3 declares it
        """Yield the body in pieces as they come, each of `amt` bytes at most. Raises `ResponseNotChunked`."""
        self._init_decoder()
        if not self.chunked:
            raise ResponseNotChunked("Response is not chunked. Header 'transfer-encoding: chunked' is missing.")
        while amt != 0 and (piece := self.read1(amt, decode_content)):
            yield piece
