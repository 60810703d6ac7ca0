"""Reading responses: bytes in, one response at a time out. No I/O.

httptools (llhttp) decides what a response is. In front of it stands a small cache of response heads it has accepted:
servers send the same head again and again (it changes with the Date header, once a second), and the meaning of a head
is a pure function of its bytes. So where a chunk of bytes is exactly a known head and the body length that head
announces, the parser has nothing to add. Everything else (an unknown head, a body in pieces, chunked, until close,
HEAD, 1xx) goes through the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools

from kabench.agent.errors import ResponseParseError
from kabench.agent.hints import parse_keep_alive

if TYPE_CHECKING:
    from kabench.agent.hints import KeepAliveHint

_HEAD_END = b"\r\n\r\n"
_NO_BODY = frozenset({101, 204, 304})
_MAX_CACHED_HEADS = 64
_MAX_CACHED_HEAD_BYTES = 2048


@dataclass(slots=True, eq=False)  # not frozen, which would double what it costs to make; nobody changes one
class ResponseHead:
    """Status line and headers of a final response.

    `body_length` is in bytes, -1 where only the body itself tells (chunked, or until the connection closes).
    `keep_alive` says whether the socket may carry another request after it.
    """

    status: int
    reason: str
    http_version: str
    raw_headers: tuple[tuple[bytes, bytes], ...]
    body_length: int
    keep_alive: bool
    hint: KeepAliveHint | None


_NO_HEAD = ResponseHead(0, "", "", (), 0, False, None)


class HeadCache:
    """Heads that httptools has accepted; one cache an agent, bounded.

    The head of the response before is most often the one: `last_raw` is its bytes with the empty line, and
    `last_size` those and the body's. `find` knows some more.
    """

    __slots__ = ("_heads", "last_head", "last_raw", "last_size")

    def __init__(self) -> None:
        self._heads: dict[bytes, ResponseHead] = {}
        self.last_raw = _HEAD_END
        self.last_size = 0
        self.last_head = _NO_HEAD

    def find(self, data: bytes) -> bool:
        """Whether `data` is a head that is known and exactly its body; if so, that head is now the last one."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        raw = data[:end]
        head = self._heads.get(raw)
        if head is None or len(data) - end != head.body_length:
            return False
        self.last_raw, self.last_size, self.last_head = raw, len(data), head
        return True

    def learn(self, raw: bytes, head: ResponseHead) -> None:
        """Remember a head by its bytes, the empty line included."""
        if len(raw) > _MAX_CACHED_HEAD_BYTES:
            return
        if len(self._heads) >= _MAX_CACHED_HEADS:
            self._heads.clear()
        self._heads[raw] = head


class ResponseReader:
    """Reads the responses of one socket, one after the other; `begin` before each, `feed` until it says True.

    Then `head` and `body()` are the response, and `overrun` says whether bytes came behind its end.
    """

    __slots__ = (
        "_body",
        "_cache",
        "_headers",
        "_informational",
        "_is_head_request",
        "_parser",
        "_reason",
        "complete",
        "head",
        "overrun",
        "started",
    )

    def __init__(self, cache: HeadCache) -> None:
        self._cache = cache
        self._parser: httptools.HttpResponseParser | None = None
        self._is_head_request = False
        self.head: ResponseHead | None = None
        self.started = False
        self.complete = False
        self.overrun = False
        self._begin_message()

    def begin(self, *, is_head_request: bool) -> None:
        """Expect the response to a request that is about to be sent."""
        self._is_head_request = is_head_request
        self.started = self.complete = self.overrun = False
        self.head = None

    def release(self) -> None:
        """Drop the parser, which refers back to this reader, so that no garbage collection is needed."""
        self._parser = None

    def feed(self, data: bytes) -> bool:
        """Take bytes from the socket; True when the response is whole. Raises `ResponseParseError`."""
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
        begins = not self.started
        self.started = True
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.complete = True  # a 101: what follows is another protocol's
        except httptools.HttpParserError as error:
            if not self.complete:
                raise ResponseParseError(f"the server did not send an HTTP response: {error}") from error
            self.overrun = True
        if self.complete and begins and not self.overrun:
            self._learn(data)
        return self.complete

    def _learn(self, data: bytes) -> None:
        """Remember the head of a response that came in one piece, with nothing before or behind it."""
        head = self.head
        if head is None or head.body_length < 0 or self._is_head_request:
            return
        end = len(data) - head.body_length
        if data.find(_HEAD_END) + len(_HEAD_END) == end:
            self._cache.learn(data[:end], head)

    def eof(self) -> bool:
        """The other side has finished: True if that is what ends the response."""
        if self.head is not None and not self.complete and self.head.body_length < 0 and not self.head.keep_alive:
            self.complete = not any(name.lower() == b"transfer-encoding" for name, _ in self.head.raw_headers)
        return self.complete

    def body(self) -> bytes:
        """The body of the response, decoded of its transfer coding."""
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    # -- called by httptools -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A response begins; one more after the end of ours is one nobody asked for."""
        if self.complete:
            self.overrun = True
        self._begin_message()

    def on_status(self, reason: bytes) -> None:
        """Take the reason phrase, which may come in pieces."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Make the head of a final response; an informational one (1xx) is passed over."""
        parser = self._parser
        if parser is None or self.complete:
            return
        status = parser.get_status_code()
        self._informational = 100 <= status < 200 and status != 101
        if self._informational:
            return
        length = -1
        is_coded = False
        connection = keep_alive = b""
        for name, value in self._headers:
            lowered = name.lower()
            if lowered == b"content-length":
                length = int(value)
            elif lowered == b"transfer-encoding":
                is_coded = True
            elif lowered == b"connection":
                connection += value.lower() + b","
            elif lowered == b"keep-alive":
                keep_alive += value + b","
        if self._is_head_request:
            # llhttp judges by the framing of a body, and here is none
            may_be_reused = b"close" not in connection and (
                parser.get_http_version() == "1.1" or b"keep-alive" in connection
            )
        else:
            may_be_reused = status != 101 and parser.should_keep_alive()
        if self._is_head_request or status in _NO_BODY:
            length = 0
        elif is_coded:
            length = -1
        self.head = ResponseHead(
            status,
            self._reason.decode("latin-1"),
            parser.get_http_version(),
            tuple(self._headers),
            length,
            may_be_reused,
            parse_keep_alive(keep_alive.decode("latin-1")) if keep_alive else None,
        )
        if self._is_head_request:
            # llhttp would now wait for the body that a HEAD response describes and does not have
            self.complete = True
            self._parser = None

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self.complete:
            self.overrun = True
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """The response is whole, unless it was an informational one."""
        if not self._informational and self.head is not None:
            self.complete = True

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin_message(self) -> None:
        if not self.complete:
            self._headers: list[tuple[bytes, bytes]] = []
            self._body: list[bytes] = []
        self._reason = b""
        self._informational = False
