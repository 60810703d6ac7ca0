"""What a response of the threaded agents is read from, and the response: urllib3's, with `reused_socket`.

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
"""Of a body with a limit: a small one can decode to a thousand times its size."""


class BodySource(Protocol):
    """What a body needs of the connection that it comes off. A `serial` that has changed: it is the body's no more."""

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
    """The body of one response, as it comes off its connection. Let go of the connection with its last byte."""

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
        """`amt` bytes, fewer only at the end; None: all that is left. Raises what urllib3 makes its own errors of."""
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
        """The next piece as it came (of a chunked body, a chunk), of `amt` bytes at most; empty at the end."""
        while self._connection is not None and not self._pieces:
            self._read_more(self._connection)
        if not self._pieces:
            return b""
        size = len(self._pieces[0])
        return b"".join(self._split(size if amt is None or amt < 0 else min(amt, size)))

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a buffer; how many bytes were put into it."""
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
        """The same, as `http.client` calls it."""
        return self.closed

    def readable(self) -> bool:
        """It is."""
        return True

    def flush(self) -> None:
        """Nothing is written."""

    def fileno(self) -> int:
        """The socket's file descriptor. Raises `OSError` where there is none any more."""
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

    `retried` says whether the request was sent twice because its first socket was stale. Of a body that is read at
    once, no more than `max_bytes` are taken, however small it was on its way: see `read`.
    """

    reused_socket: bool = False
    retried: bool = False

    def __init__(self, *arguments: Any, max_bytes: int | None, **named: Any) -> None:
        self._max_bytes = max_bytes
        super().__init__(*arguments, **named)  # which reads the body if it is to be preloaded

    def read(
        self, amt: int | None = None, decode_content: bool | None = None, cache_content: bool = False
    ) -> bytes:  # as urllib3 declares it
        """As urllib3's. Raises `DecodeError` for a whole body that is over the limit once its coding is undone."""
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
        """Whether a chunked body can be read as it comes: yes."""
        return True

    def read_chunked(
        self, amt: int | None = None, decode_content: bool | None = None
    ) -> Generator[bytes, Any, None]:  # as urllib3 declares it
        """The body in pieces as they come, each of `amt` bytes at most. Raises `ResponseNotChunked`."""
        self._init_decoder()
        if not self.chunked:
            raise ResponseNotChunked("Response is not chunked. Header 'transfer-encoding: chunked' is missing.")
        while amt != 0 and (piece := self.read1(amt, decode_content)):
            yield piece
