"""Reading responses: bytes in, one response at a time out. No I/O.

httptools (llhttp) decides what a response is. In front of it stands a small cache of response heads it has accepted:
servers send the same head again and again (it changes with the Date header, once a second), and the meaning of a head
is a pure function of its bytes. So where a chunk of bytes is exactly a known head and the body length that head
announces, the parser has nothing to add. Everything else (an unknown head, a body in pieces, chunked, until close,
HEAD, 1xx) goes through the parser.
"""

from __future__ import annotations

from dataclasses import dataclass

import httptools

from kabench.agent.errors import ResponseParseError
from kabench.agent.hints import KeepAliveHint, parse_keep_alive

_HEAD_END = b"\r\n\r\n"
_MAX_CACHED_HEADS = 64
_MAX_CACHED_HEAD_BYTES = 2048


@dataclass(frozen=True, slots=True)
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
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            if not self.started:
                self.started = True
                end = data.find(_HEAD_END)
                if end >= 0:
                    self._feed_head(self._parser, data[:end], data[end:])
                    return self.complete
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.complete = True  # a 101: what follows is another protocol's
        except httptools.HttpParserError as error:
            if not self.complete:
                raise ResponseParseError(f"the server did not send an HTTP response: {error}") from error
            self.overrun = True
        return self.complete

    def _feed_head(self, parser: httptools.HttpResponseParser, raw: bytes, rest: bytes) -> None:
        parser.feed_data(raw + _HEAD_END)
        head = self.head
        if head is not None and head.body_length >= 0 and not self._body and not self._is_head_request:
            self._cache.learn(raw + _HEAD_END, head)
        if len(rest) > len(_HEAD_END):
            parser.feed_data(rest[len(_HEAD_END) :])

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
        has_no_body = self._is_head_request or status in (101, 204, 304)
        self.head = ResponseHead(
            status=status,
            reason=self._reason.decode("latin-1"),
            http_version=parser.get_http_version(),
            raw_headers=tuple(self._headers),
            body_length=0 if has_no_body else self._announced_length(),
            keep_alive=status != 101 and self._may_be_reused(parser),
            hint=self._hint(),
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

    def _values(self, wanted: bytes) -> list[bytes]:
        return [value for name, value in self._headers if name.lower() == wanted]

    def _announced_length(self) -> int:
        if self._values(b"transfer-encoding"):
            return -1
        lengths = self._values(b"content-length")
        return int(lengths[0]) if lengths else -1

    def _may_be_reused(self, parser: httptools.HttpResponseParser) -> bool:
        if self._is_head_request:
            # llhttp judges by the framing of a body, and here is none
            options = b",".join(self._values(b"connection")).lower()
            return b"close" not in options and (parser.get_http_version() == "1.1" or b"keep-alive" in options)
        return bool(parser.should_keep_alive())

    def _hint(self) -> KeepAliveHint | None:
        values = self._values(b"keep-alive")
        return parse_keep_alive(b",".join(values).decode("latin-1")) if values else None
