"""Reading responses: bytes in, one response at a time out. No I/O.

What comes off the wire decides whether a socket may be reused, so nothing is guessed: the grammar is that of RFC 9112,
and what does not fit it is an error. Only what the RFC asks a client to mend is mended: the line end of a folded line
becomes a space (section 5.2), unless the line decides the framing, and equal lengths count as one (RFC 9110 section
8.6).

Each head is taken whole, up to its empty line, and understood by itself; nothing of one message is left behind for the
next. Trailers are read and dropped: they change nothing (RFC 9110 section 6.5.1).

In front of it stands a small cache of heads that were understood before: servers send the same head again and again
(it changes with the Date header, once a second), and the meaning of a head is a pure function of its bytes. So if the
bytes that came are exactly a known head and a body of the length that it announces, nothing needs to be parsed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from kabench.agent.errors import ConflictingLengthsError, ResponseParseError
from kabench.agent.hints import parse_keep_alive

if TYPE_CHECKING:
    from kabench.agent.hints import KeepAliveHint

_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_START = b"HTTP/"

_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
_STATUS_LINE = re.compile(rb"HTTP/([0-9]\.[0-9]) ([1-9][0-9]{2})(?: (" + _VALUE + rb"))?\r\n")
_FIELD_LINES = re.compile(rb"(?:(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:|[ \t])" + _VALUE + rb"\r\n)*")
"""Lines of a head, including those that continue the line before (RFC 9112 section 5)."""

_FOLDED_FRAMING = re.compile(
    rb"\n(?:content-length|transfer-encoding|connection):" + _VALUE + rb"\r\n[ \t]", re.IGNORECASE
)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;" + _VALUE + rb")?\r\n")
_CHUNK_LINE_BEGINS = re.compile(rb"[0-9A-Fa-f]{1,15}(?:(?:;" + _VALUE + rb")?\r?)?")

_WITHOUT_BODY = frozenset({101, 204, 304})
_VERSIONS = frozenset({"1.0", "1.1"})
_SWITCHING_PROTOCOLS = 101
_NO_CONTENT = 204
_CONTINUE = 100
_FIRST_FINAL_STATUS = 200
_MAX_CACHED_HEADS = 64
_MAX_CACHED_HEAD_BYTES = 2048
_MAX_HEAD_BYTES = 65_536
"""The most that a response's status line and headers may have, and its trailers. Others stop at less: nginx at 4 or
8 KiB of an upstream's head, Node at 16 KiB."""

_MAX_REASON_BYTES = 8_192
_MAX_STATUS_LINE_BYTES = _MAX_REASON_BYTES + len("HTTP/1.1 200 \r\n")
_MAX_CHUNK_LINE_BYTES = 4_096
_SMALL_BYTES = 256
_MOST_SMALL_PIECES = 1_024
"""Small pieces of a body that may wait to be taken: an object costs some 40 bytes, so more of them are joined."""

_LONG_CHUNK_LINE = f"the line of a chunk is over {_MAX_CHUNK_LINE_BYTES} bytes"
_MAX_INFORMATIONAL_BYTES = 262_144
"""The most that all informational responses before a final one may have."""


@dataclass(slots=True, eq=False)  # not frozen, which would double the cost of making one; none is changed
class ResponseHead:
    """Status line and headers of a final response.

    `body_length` is in bytes, -1 if only the body itself shows its end (chunked, or until the connection closes).
    `keep_alive` says whether the socket may carry another request after it, as far as the head can tell.
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
    """Heads that were parsed before and let their socket carry another request; one cache per agent, bounded.

    Most responses have the same head as the one before: `last_raw` is its bytes with the empty line, and `last_size`
    their number with the body's. `find` searches the other known heads.
    """

    __slots__ = ("_heads", "last_head", "last_raw", "last_size")

    def __init__(self) -> None:
        self._heads: dict[bytes, ResponseHead] = {}
        self.last_raw = _HEAD_END
        self.last_size = 0
        self.last_head = _NO_HEAD

    def find(self, data: bytes) -> bool:
        """Return whether `data` is a known head and exactly its body; if so, make that head the last one."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        raw = data[:end]
        head = self._heads.get(raw)
        if head is None or len(data) - end != head.body_length:
            return False
        self.last_raw, self.last_size, self.last_head = raw, len(data), head
        return True

    def learn(self, raw: bytes, head: ResponseHead) -> None:
        """Remember a head by its bytes, including the empty line."""
        if len(raw) > _MAX_CACHED_HEAD_BYTES:
            return
        if len(self._heads) >= _MAX_CACHED_HEADS:
            self._heads.clear()
        self._heads[raw] = head


class _Framing(Enum):
    """The kind of bytes that come next."""

    HEAD = "head"
    LENGTH = "length"
    CHUNKS = "chunks"
    TRAILERS = "trailers"
    UNTIL_CLOSE = "until_close"
    NOTHING = "nothing"


_HEAD, _BY_LENGTH, _CHUNKS, _TRAILERS = _Framing.HEAD, _Framing.LENGTH, _Framing.CHUNKS, _Framing.TRAILERS
_UNTIL_CLOSE, _NOTHING = _Framing.UNTIL_CLOSE, _Framing.NOTHING


class ResponseReader:
    """Reads the responses of one socket in turn. Call `begin` before each, then `feed` until it returns True.

    Then `head` and `body()` are the response, and `overrun` says whether bytes came behind its end. To take the body as
    it comes, call `body()` earlier: each call returns what came since the one before. `body_bytes` counts all of it.
    `interim_closes` says whether an informational response before it forbids reusing the socket, and `saw_continue`
    whether one of those was a 100. Heads that are read are added to `cache`, if there is one.
    """

    __slots__ = (
        "_body",
        "_cache",
        "_framing",
        "_informational_bytes",
        "_is_chunked",
        "_is_head_request",
        "_left",
        "_partial",
        "_passed_bytes",
        "_small_pieces",
        "body_bytes",
        "complete",
        "head",
        "interim_closes",
        "overrun",
        "saw_continue",
        "started",
    )

    def __init__(self, cache: HeadCache | None = None) -> None:
        self._cache = cache
        self._body: list[bytes] = []
        self.begin(is_head_request=False)

    def begin(self, *, is_head_request: bool) -> None:
        """Expect the response to a request that is about to be sent."""
        self._is_head_request = is_head_request
        self.started = self.complete = self.overrun = self.interim_closes = self.saw_continue = False
        self.head: ResponseHead | None = None
        if self._body:
            self._body = []
        self.body_bytes = 0
        self._small_pieces = 0
        self._is_chunked = False
        self._framing = _HEAD
        self._partial = b""  # of a head, a line or a line's end that is not whole yet
        self._left = 0  # bytes of the body, or of the chunk with its line end
        self._informational_bytes = self._passed_bytes = 0

    def feed_known(self, data: bytes) -> bool:
        """Take a response that came in one piece and has a known head; return False if it has not: then `feed` it."""
        cache = self._cache
        if self.started or self._is_head_request or cache is None or not cache.find(data):
            return False
        self.started = self.complete = True
        self._framing = _NOTHING
        self.head = cache.last_head
        body = data[len(cache.last_raw) :]
        if body:
            self._body.append(body)
        self.body_bytes = len(body)
        return True

    def feed(self, data: bytes) -> bool:
        """Take bytes from the socket; return True when the response is whole. Raises `ResponseParseError`."""
        if not data:
            return self.complete
        begins = not self.started
        self.started = True
        rest: bytes | None = data
        if self._framing is _HEAD:
            rest = self._read_heads(data)
            if not rest:  # a body may still follow a head that came alone
                if begins and self.complete:
                    self._learn(data, rest)
                return self.complete
        if self._framing is _BY_LENGTH:
            self._read_by_length(rest or b"")
        elif self._framing is _CHUNKS:
            self._read_chunks(rest or b"")
        elif self._framing is _TRAILERS:
            self._read_trailers(rest or b"")
        elif self._framing is _UNTIL_CLOSE:
            self._take(rest or b"")
        else:
            self.overrun = True
        if begins and self.complete and not self.overrun:
            self._learn(data, rest)
        return self.complete

    def eof(self) -> bool:
        """Note that the other side has finished; return whether the response is whole."""
        if self._framing is _UNTIL_CLOSE:
            self.complete = True
            self._framing = _NOTHING
        return self.complete

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing but the connection's end says where the body ends."""
        return self._framing is _UNTIL_CLOSE

    def pieces(self) -> list[bytes]:
        """Return the same as `body`, as a list of pieces. A chunk is one, unless it came in parts or was joined."""
        pieces, self._body = self._body, []
        return pieces

    def body(self) -> bytes:
        """Return what has come of the body since the last call, without its transfer coding."""
        pieces = self._body
        if not pieces:
            return b""
        self._body = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- heads ---------------------------------------------------------------------------------------------------------

    def _read_heads(self, data: bytes) -> bytes | None:
        """Take heads up to a final one; return what is behind it, or None if it has not come yet."""
        before = len(self._partial)
        if before:
            data = self._partial + data
        while True:
            end = data.find(_HEAD_END, max(0, before - len(_HEAD_END) + 1))
            if end < 0:
                self._keep_partial_head(data)
                return None
            end += len(_HEAD_END)
            raw, data, before = data[:end], data[end:], 0
            self._partial = b""
            self._passed_bytes = 0
            head = self._understand(raw)
            if head.status < _FIRST_FINAL_STATUS and head.status != _SWITCHING_PROTOCOLS:
                self._pass_over(head, raw)
                continue
            self._frame(head)
            return data

    def _keep_partial_head(self, data: bytes) -> None:
        """Keep the part of a head that has come. Raises `ResponseParseError` once it can no longer become one."""
        if not data.startswith(_START[: len(data)]):
            raise ResponseParseError(f"not an HTTP response: it begins with {data[:16]!r}")
        if len(data) > _MAX_HEAD_BYTES:
            raise ResponseParseError(f"not an HTTP response: its head is over {_MAX_HEAD_BYTES} bytes")
        at, before = self._passed_bytes, len(self._partial)
        if b"\0" in data[before:]:
            raise ResponseParseError("not an HTTP response: there is a NUL in its head")
        self._partial = data
        if b"\n" not in data[before:]:  # no line has ended: each is checked once, when it ends
            if not at and len(data) > _MAX_STATUS_LINE_BYTES:
                raise ResponseParseError(f"not an HTTP response: its reason phrase is over {_MAX_REASON_BYTES} bytes")
            return
        if not at:
            status_line = _STATUS_LINE.match(data)
            if status_line is None:
                raise ResponseParseError(f"not an HTTP response: it begins with {_shown(data)}")
            at = status_line.end()
        lines = _FIELD_LINES.match(data, at)
        at = at if lines is None else lines.end()
        if b"\n" in data[at:]:
            raise ResponseParseError(f"not an HTTP response: {_shown(data[at:])} is no line of a head")
        self._passed_bytes = at

    def _understand(self, raw: bytes) -> ResponseHead:
        """Parse a head. Raises `ResponseParseError`."""
        status_line = _STATUS_LINE.match(raw)
        if status_line is None:
            raise ResponseParseError(f"not an HTTP response: it begins with {_shown(raw)}")
        begins_at = status_line.end()
        lines = _FIELD_LINES.match(raw, begins_at)
        if lines is None or lines.end() != len(raw) - len(_LINE_END):
            at = begins_at if lines is None else lines.end()
            raise ResponseParseError(f"not an HTTP response: {_shown(raw[at:])} is no line of a head")
        if len(raw) > _MAX_HEAD_BYTES:
            raise ResponseParseError(f"not an HTTP response: its head is over {_MAX_HEAD_BYTES} bytes")
        version = status_line[1].decode("ascii")
        if version not in _VERSIONS:
            raise ResponseParseError(f"not an HTTP response: HTTP/{version} is no version of HTTP/1")
        reason = status_line[3] or b""
        if len(reason) > _MAX_REASON_BYTES:
            raise ResponseParseError(f"not an HTTP response: its reason phrase is over {_MAX_REASON_BYTES} bytes")
        fields = raw[begins_at : -len(_HEAD_END)]
        if b"\r\n " in raw or b"\r\n\t" in raw:
            fields = _unfolded(raw, begins_at)
        return self._meaning(int(status_line[2]), reason.decode("latin-1"), version, fields)

    def _meaning(self, status: int, reason: str, version: str, fields: bytes) -> ResponseHead:
        headers = []
        length = -1
        coding = connection = keep_alive = b""
        for line in fields.split(_LINE_END) if fields else ():
            name, _, value = line.partition(b":")
            value = value.strip(b" \t")
            headers.append((name, value))
            lowered = name.lower()
            if lowered == b"content-length":
                length = _length(value, length)
            elif lowered == b"transfer-encoding":
                coding += value.lower() + b","
            elif lowered == b"connection":
                connection += value.lower() + b","
            elif lowered == b"keep-alive":
                keep_alive += value + b","
        options = {option.strip(b" \t") for option in connection.split(b",")} if connection else ()
        is_persistent = b"close" not in options and (version == "1.1" or b"keep-alive" in options)
        if coding and length >= 0 and status >= _FIRST_FINAL_STATUS:
            raise ResponseParseError("not an HTTP response: it has a transfer coding and a length")
        self._is_chunked = bool(coding)
        has_body = not (self._is_head_request or status in _WITHOUT_BODY or status < _FIRST_FINAL_STATUS)
        if has_body and coding and coding.strip(b", \t") != b"chunked":
            raise ResponseParseError("not an HTTP response: it comes in a transfer coding that was not asked for")
        if has_body:
            # RFC 9112 section 6.1 for a coding in HTTP/1.0, section 6.3 for a body that ends with the connection
            is_persistent = is_persistent and (length >= 0 or (bool(coding) and version == "1.1"))
            body_length = length
        else:
            body_length = 0
            if status == _NO_CONTENT:  # AK-53: a server that announces a body which must not be there may well send it
                is_persistent = is_persistent and not coding and length <= 0
        return ResponseHead(
            status,
            reason,
            version,
            tuple(headers),
            body_length,
            is_persistent and status != _SWITCHING_PROTOCOLS,
            parse_keep_alive(keep_alive.decode("latin-1")) if keep_alive else None,
        )

    def _pass_over(self, head: ResponseHead, raw: bytes) -> None:
        """Note what an informational response says of the socket (AK-51)."""
        self.interim_closes = self.interim_closes or not head.keep_alive
        self.saw_continue = self.saw_continue or head.status == _CONTINUE
        self._informational_bytes += len(raw)
        if self._informational_bytes > _MAX_INFORMATIONAL_BYTES:
            raise ResponseParseError(f"{self._informational_bytes} bytes of informational responses, and no other")

    def _frame(self, head: ResponseHead) -> None:
        """Set the framing that the final head announces."""
        self.head = head
        if self._is_head_request or head.status in _WITHOUT_BODY or head.body_length == 0:
            self.complete = True
            self._framing = _NOTHING
        elif head.body_length > 0:
            self._framing = _BY_LENGTH
            self._left = head.body_length
        elif self._is_chunked:
            self._framing = _CHUNKS
        else:
            self._framing = _UNTIL_CLOSE

    def _learn(self, data: bytes, rest: bytes | None) -> None:
        """Remember the head of a response that came in one piece, with nothing before it."""
        head, cache = self.head, self._cache
        if head is None or cache is None or not head.keep_alive or self._is_head_request or head.body_length < 0:
            return
        if not self._informational_bytes:
            cache.learn(data[: len(data) - len(rest or b"")], head)

    # -- bodies --------------------------------------------------------------------------------------------------------

    def _take(self, piece: bytes) -> None:
        if not piece:
            return
        self._body.append(piece)
        self.body_bytes += len(piece)
        if len(piece) >= _SMALL_BYTES:
            self._small_pieces = 0
            return
        self._small_pieces += 1
        if self._small_pieces > _MOST_SMALL_PIECES:
            self._small_pieces = 0
            self._body[-_MOST_SMALL_PIECES:] = [b"".join(self._body[-_MOST_SMALL_PIECES:])]

    def _end(self, *, overrun: bool) -> None:
        self.complete = True
        self.overrun = overrun
        self._framing = _NOTHING

    def _read_by_length(self, data: bytes) -> None:
        left = self._left - len(data)
        if left > 0:
            self._take(data)
            self._left = left
            return
        self._take(data[: self._left] if left else data)
        self._end(overrun=left < 0)

    def _read_chunks(self, data: bytes) -> None:
        """Take chunks (RFC 9112 section 7.1). `_left` counts what is left of one, with its line end."""
        if self._partial:
            data, self._partial = self._partial + data, b""
        at, size = 0, len(data)
        while True:
            left = self._left
            if left:
                of_chunk = min(left - len(_LINE_END), size - at)
                if of_chunk > 0:
                    self._take(data if of_chunk == size else data[at : at + of_chunk])
                    at += of_chunk
                    left -= of_chunk
                if left <= len(_LINE_END):
                    line_end = data[at : at + left]
                    if not _LINE_END[len(_LINE_END) - left :].startswith(line_end):
                        raise ResponseParseError("not an HTTP response: a chunk is longer than its size")
                    at += len(line_end)
                    left -= len(line_end)
                self._left = left
                if left:
                    return
            line = _CHUNK_LINE.match(data, at)
            if line is None:
                self._keep_partial_chunk_line(data[at:])
                return
            if line.end() - at > _MAX_CHUNK_LINE_BYTES:
                raise ResponseParseError(f"not an HTTP response: {_LONG_CHUNK_LINE}")
            at = line.end()
            chunk_bytes = int(line[1], 16)
            if not chunk_bytes:
                self._framing = _TRAILERS
                self._passed_bytes = 0
                self._read_trailers(data[at:])
                return
            self._left = chunk_bytes + len(_LINE_END)

    def _keep_partial_chunk_line(self, rest: bytes) -> None:
        if len(rest) > _MAX_CHUNK_LINE_BYTES:
            raise ResponseParseError(f"not an HTTP response: {_LONG_CHUNK_LINE}")
        if rest and not _CHUNK_LINE_BEGINS.fullmatch(rest):
            raise ResponseParseError(f"not an HTTP response: {_shown(rest)} is no size of a chunk")
        self._partial = rest

    def _read_trailers(self, data: bytes) -> None:
        """Read trailers, and drop them whatever they say."""
        has_ended_a_line = b"\n" in data
        if self._partial:
            data, self._partial = self._partial + data, b""
        if not self._passed_bytes and data[:1] in (b" ", b"\t"):
            raise ResponseParseError("not an HTTP response: its first trailer goes on from no line")
        at = 0
        if has_ended_a_line:
            lines = _FIELD_LINES.match(data)
            at = 0 if lines is None else lines.end()
            self._passed_bytes += at
        rest_bytes = len(data) - at
        is_over = has_ended_a_line and data.startswith(_LINE_END, at)
        if self._passed_bytes + (0 if is_over else rest_bytes) > _MAX_HEAD_BYTES:
            raise ResponseParseError(f"not an HTTP response: its trailers are over {_MAX_HEAD_BYTES} bytes")
        if is_over:
            self._end(overrun=rest_bytes > len(_LINE_END))
            return
        rest = data[at:]
        if b"\0" in rest or (has_ended_a_line and b"\n" in rest):
            raise ResponseParseError(f"not an HTTP response: {_shown(rest)} is no trailer")
        self._partial = rest


def _length(value: bytes, before: int) -> int:
    """Return a Content-Length, which may be given again if it is the same. Raises `ResponseParseError`."""
    if not _LENGTH.fullmatch(value):
        raise ResponseParseError(f"not an HTTP response: {_shown(value)} is no Content-Length")
    length = int(value)
    if before not in (-1, length):
        raise ConflictingLengthsError(f"not an HTTP response: it has two lengths, {before} and {length}")
    return length


def _unfolded(raw: bytes, begins_at: int) -> bytes:
    """Return the fields of a head with its folded lines made one (RFC 9112 section 5.2). Raises `ResponseParseError`.

    A folded field that decides the framing is an error, since different readers understand it differently.
    """
    if raw[begins_at : begins_at + 1] in (b" ", b"\t") or _FOLDED_FRAMING.search(raw, begins_at - 1):
        raise ResponseParseError("not an HTTP response: a line that frames it is folded")
    fields: list[list[bytes]] = []
    for line in raw[begins_at : -len(_HEAD_END)].split(_LINE_END):
        if line[:1] in (b" ", b"\t"):
            fields[-1].append(line.strip(b" \t"))
        else:
            fields.append([line.rstrip(b" \t")])
    return _LINE_END.join(b" ".join(field) for field in fields)


def _shown(data: bytes) -> str:
    """Return the beginning of what came, for an error."""
    return repr(data.split(_LINE_END, 1)[0][:16])
