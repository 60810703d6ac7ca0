"""Reading responses: bytes in, one response at a time out. No I/O.

httptools (llhttp) decides what a response is. In front of it stands a small cache of response heads it has accepted:
servers send the same head again and again (it changes with the Date header, once a second), and the meaning of a head
is a pure function of its bytes. So where a chunk of bytes is exactly a known head and the body length that head
announces, the parser has nothing to add. Everything else (an unknown head, a body in pieces, chunked, until close,
HEAD, 1xx) goes through the parser.

What comes off the wire decides whether a socket may be reused, so nothing is guessed. llhttp refuses conflicting or
malformed lengths, a length beside a transfer coding, bad chunk sizes, folded lines and bare line ends (RFC 9112
sections 2.2, 5.2, 6.3, 7.1, 11.2); other versions of HTTP, and heads or trailers without end, are refused here.
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
_TAIL_BYTES = 6
"""Of what was fed before, to be looked at together with what comes: a head's end and another line's."""

_NO_BODY = frozenset({101, 204, 304})
_VERSIONS = frozenset({"1.0", "1.1"})
_MAX_CACHED_HEADS = 64
_MAX_CACHED_HEAD_BYTES = 2048
_MAX_HEAD_BYTES = 65_536
"""Of a response's status line and headers. Servers stop at less: nginx at 4 or 8 KiB for an upstream's, Node at 16."""

_MAX_REASON_BYTES = 8_192
_MAX_BYTES_WITHOUT_BODY = 262_144 + _MAX_HEAD_BYTES
"""That may come before the next byte of a body, or the end: informational responses, chunk extensions, trailers. It is
more than what a socket is read of at once, so that a whole head is measured as such."""


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

    It adds the heads it reads to `cache`, where there is one.

    Then `head` and `body()` are the response, and `overrun` says whether bytes came behind its end. Who wants the body
    as it comes takes its pieces with `body()` before: what has been taken is not in the next one. `body_bytes` counts
    all of it.
    """

    __slots__ = (
        "_body",
        "_bytes_behind_head",
        "_bytes_without_body",
        "_cache",
        "_headers",
        "_heads_in_feed",
        "_informational",
        "_is_head_request",
        "_parser",
        "_problem",
        "_reason",
        "_tail",
        "body_bytes",
        "complete",
        "head",
        "overrun",
        "started",
    )

    def __init__(self, cache: HeadCache | None = None) -> None:
        self._cache = cache
        self._body: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._parser: httptools.HttpResponseParser | None = None
        self._is_head_request = False
        self.head: ResponseHead | None = None
        self.started = False
        self.complete = False
        self.overrun = False
        self.body_bytes = 0
        self._bytes_behind_head = self._bytes_without_body = 0
        self._heads_in_feed = 0
        self._tail = b""
        self._problem: str | None = None
        self._begin_message()

    def begin(self, *, is_head_request: bool) -> None:
        """Expect the response to a request that is about to be sent."""
        self._is_head_request = is_head_request
        self.started = self.complete = self.overrun = False
        self.head = None
        self.body_bytes = self._bytes_without_body = self._bytes_behind_head = 0
        self._tail = b""

    def feed_known(self, data: bytes) -> bool:
        """Take a response that came in one piece and has a known head; False: `feed` it. Needs a cache."""
        cache = self._cache
        if self.started or self._is_head_request or cache is None or not cache.find(data):
            return False
        self.started = self.complete = True
        self.head = cache.last_head
        body = data[len(cache.last_raw) :]
        self._body = [body] if body else []
        self.body_bytes = len(body)
        return True

    def release(self) -> None:
        """Drop the parser, which refers back to this reader, so that no garbage collection is needed."""
        self._parser = None

    def feed(self, data: bytes) -> bool:
        """Take bytes from the socket; True when the response is whole. Raises `ResponseParseError`."""
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
        begins = not self.started
        if begins and not data.startswith(b"H"):
            raise ResponseParseError(f"not an HTTP response: it begins with {data[:16]!r}")
        self.started = True
        body_bytes = self.body_bytes
        self._heads_in_feed = 0
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.complete = True  # a 101: what follows is another protocol's
        except httptools.HttpParserError as error:
            if not self.complete:
                raise ResponseParseError(f"not an HTTP response: {self._problem or error}") from error
            self.overrun = True
        self._count_behind(data)
        if not self.complete:
            self._bytes_without_body = 0 if self.body_bytes > body_bytes else self._bytes_without_body + len(data)
            if self._bytes_without_body > _MAX_BYTES_WITHOUT_BODY:
                raise ResponseParseError(f"{self._bytes_without_body} bytes of a response, and no byte of a body")
        if self._cache is not None and self.complete and begins and not self.overrun:
            self._learn(self._cache, data)
        return self.complete

    def _count_behind(self, data: bytes) -> None:
        """See whether the response ends where the bytes do: llhttp passes over line ends between messages."""
        head = self.head
        seen = self._tail + data
        end = 0
        for _ in range(self._heads_in_feed):
            end = seen.find(_HEAD_END, end) + len(_HEAD_END)
        self._tail = seen[max(end, len(seen) - _TAIL_BYTES) :]
        if head is None:
            return
        if head.body_length < 0:
            if self.complete and len(seen) - len(seen.rstrip(b"\r\n")) > len(_HEAD_END):
                self.overrun = True
            return
        if self._heads_in_feed:
            self._bytes_behind_head = len(seen) - end
        else:
            self._bytes_behind_head += len(data)
        if self._bytes_behind_head > head.body_length:
            self.overrun = True

    def _learn(self, cache: HeadCache, data: bytes) -> None:
        """Remember the head of a response that came in one piece, with nothing before or behind it."""
        head = self.head
        if head is None or head.body_length < 0 or self._is_head_request:
            return
        end = len(data) - head.body_length
        if data.find(_HEAD_END) + len(_HEAD_END) == end:
            cache.learn(data[:end], head)

    def eof(self) -> bool:
        """The other side has finished: True if that is what ends the response."""
        if self.head is not None and not self.complete and self.head.body_length < 0 and not self.head.keep_alive:
            self.complete = not any(name.lower() == b"transfer-encoding" for name, _ in self.head.raw_headers)
        return self.complete

    def pieces(self) -> list[bytes]:
        """The same as `body`, as it came: a chunk is a piece, unless it was cut on its way."""
        pieces, self._body = self._body, []
        return pieces

    def body(self) -> bytes:
        """What has come of the body since the last call, decoded of its transfer coding."""
        pieces, self._body = self._body, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- called by httptools -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A response begins; one more after the end of ours is one nobody asked for."""
        if self.complete:
            self.overrun = True
        self._begin_message()

    def on_status(self, reason: bytes) -> None:
        """Take the reason phrase, which may come in pieces."""
        self._reason += reason
        if len(self._reason) > _MAX_REASON_BYTES:
            raise self._refuse(f"its status line is over {_MAX_REASON_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Make the head of a final response; an informational one (1xx) is passed over."""
        parser = self._parser
        if parser is None or self.complete:
            return
        self._heads_in_feed += 1
        status = parser.get_status_code()
        self._informational = 100 <= status < 200 and status != 101
        if self._informational:
            return
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise self._refuse(f"HTTP/{version} is no version of HTTP/1")
        length = -1
        coding = connection = keep_alive = b""
        head_bytes = len(self._reason)
        for name, value in self._headers:
            head_bytes += len(name) + len(value) + 4
            lowered = name.lower()
            if lowered == b"content-length":
                length = int(value)
            elif lowered == b"transfer-encoding":
                coding += value.lower() + b","
            elif lowered == b"connection":
                connection += value.lower() + b","
            elif lowered == b"keep-alive":
                keep_alive += value + b","
        if head_bytes > _MAX_HEAD_BYTES:
            raise self._refuse(f"its headers are over {_MAX_HEAD_BYTES} bytes")
        has_body = not (self._is_head_request or status in _NO_BODY)
        if coding and has_body and coding.strip(b", \t") != b"chunked":
            raise self._refuse("it comes in a transfer coding that was not asked for")
        if self._is_head_request:
            # llhttp judges by the framing of a body, and here is none
            may_be_reused = b"close" not in connection and (version == "1.1" or b"keep-alive" in connection)
        else:
            may_be_reused = parser.should_keep_alive()
            may_be_reused = may_be_reused and not (coding and version == "1.0")  # RFC 9112 section 6.1
        if not has_body:
            length = 0
        elif coding:
            length = -1
        self.head = ResponseHead(
            status,
            self._reason.decode("latin-1"),
            version,
            tuple(self._headers),
            length,
            may_be_reused and status != 101,
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
            self.body_bytes += len(body)

    def on_message_complete(self) -> None:
        """The response is whole, unless it was an informational one."""
        if not self._informational and self.head is not None:
            self.complete = True

    # -- inside --------------------------------------------------------------------------------------------------------

    def _refuse(self, problem: str) -> ResponseParseError:
        """An error for httptools to stop at; it passes none on, so `feed` raises what is noted here."""
        self._problem = problem
        return ResponseParseError(problem)

    def _begin_message(self) -> None:
        if not self.complete:
            self._headers = []
            self._body = []
        self._reason = b""
        self._informational = False
