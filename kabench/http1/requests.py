"""`RequestParser`: reads the requests of one socket, and refuses what a server must not guess about. No I/O.

Where a request ends, the next one begins, so two servers in a row must agree on that: where they do not, one client's
bytes become another's request (request smuggling). llhttp, below httptools, refuses conflicting, doubled or
malformed lengths, a length beside a transfer coding, other codings than chunked, bad chunk sizes, folded lines, bare
line ends and bytes behind `Connection: close` (RFC 9112 sections 2.2, 5.2, 6.1, 6.3, 7.1). Refused here are other
versions of HTTP, a missing or second `Host` (section 3.2), codings on HTTP/1.0 and around chunked (section 6.1), and
what is over the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from kabench.http1.client_limits import ClientLimits

_VERSIONS = frozenset({"1.0", "1.1"})


class RefusedRequestError(ValueError):
    """A request that is not read any further: the socket is closed after an answer of this `status`."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def too_slow(passed_s: float) -> RefusedRequestError:
    """Return the refusal of a request that is not whole after `passed_s` seconds."""
    return RefusedRequestError(408, f"the request was not whole after {passed_s:.0f} s")


@dataclass(slots=True, eq=False)
class RequestHead:
    """Request line and headers. `keep_alive` says whether the socket may carry another request after it.

    `body_length` is in bytes, -1 where the body comes in chunks.
    """

    method: str
    target: str
    http_version: str
    headers: tuple[tuple[str, str], ...]
    keep_alive: bool
    body_length: int
    expects_continue: bool


class RequestParser:
    """Reads requests: `feed` calls `head_read`, `body_read` and `end_read`, which subclasses override.

    `at_boundary`: all requests that have begun are whole. `in_head`: the head of the last one is not. `begun` counts
    requests.
    """

    __slots__ = (
        "_body_bytes",
        "_bytes_without_body",
        "_fields",
        "_has_moved_on",
        "_is_over",
        "_limits",
        "_parser",
        "_refusal",
        "_target",
        "at_boundary",
        "begun",
        "in_head",
    )

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._refusal: RefusedRequestError | None = None
        self._is_over = False
        self._bytes_without_body = 0
        self._has_moved_on = False
        self.at_boundary = True
        self.in_head = False
        self.begun = 0
        self._start()

    def _start(self) -> None:
        self._target = b""
        self._fields: list[tuple[str, str]] = []
        self._body_bytes = 0

    def head_read(self, head: RequestHead) -> None:
        """Take the head of a request that has begun. May raise `RefusedRequestError`."""

    def body_read(self, piece: bytes) -> None:
        """Take a piece of its body, without its transfer coding. May raise `RefusedRequestError`."""

    def end_read(self) -> None:
        """Note that the request is whole."""

    def feed(self, data: bytes) -> None:
        """Take bytes from the socket. Raises `RefusedRequestError`."""
        if self._is_over:
            return  # bytes behind a request that ends the connection are ignored
        self.at_boundary = False
        self._has_moved_on = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_over = True  # what would follow is another protocol, which was declined
        except httptools.HttpParserCallbackError:
            if self._refusal is None:
                raise  # our own mistake, not the client's
            raise self._refusal from None
        except httptools.HttpParserError as error:
            raise RefusedRequestError(400, f"that is not HTTP: {error}") from None
        if self._has_moved_on:
            self._bytes_without_body = 0
            return
        self._bytes_without_body += len(data)  # of a head, chunk extensions or trailers: none of them goes on for ever
        if self._bytes_without_body > self._limits.max_head_bytes:
            raise self._too_large_head()

    def give_up(self) -> None:
        """Take nothing more: what is left of a request that was refused is ignored."""
        self._is_over = True
        self.at_boundary = True
        self.in_head = False

    def release(self) -> None:
        """Drop the parser, which refers back to this reader, so that no garbage collection is needed."""
        del self._parser

    # -- called by httptools -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._start()
        self.at_boundary = False
        self.in_head = True
        self.begun += 1

    def on_url(self, target: bytes) -> None:
        """Take the request target, which may come in pieces."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Look at the head, and pass it on."""
        self.in_head = False
        try:
            self.head_read(self._read_head())
        except RefusedRequestError as error:
            self._refusal = error
            raise

    def on_body(self, piece: bytes) -> None:
        """Pass on a piece of the body."""
        self._has_moved_on = True
        self._body_bytes += len(piece)
        try:
            if self._body_bytes > self._limits.max_body_bytes:
                raise self._too_large_body()
            self.body_read(piece)
        except RefusedRequestError as error:
            self._refusal = error
            raise

    def on_message_complete(self) -> None:
        """Pass on that the request is whole."""
        self._has_moved_on = True
        self.at_boundary = True
        self.end_read()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _read_head(self) -> RequestHead:
        parser = self._parser
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise RefusedRequestError(505, f"HTTP/{version} is not spoken here")
        hosts = length = 0
        size = len(self._target)
        coding = ""
        expects_continue = False
        for name, value in self._fields:
            size += len(name) + len(value) + 4
            match name.lower():
                case "host":
                    hosts += 1
                case "content-length":
                    length = int(value)
                case "transfer-encoding":
                    coding = f"{coding}, {value}" if coding else value
                case "expect":
                    expects_continue = value.lower() == "100-continue" and version == "1.1"
        if size > self._limits.max_head_bytes:
            raise self._too_large_head()
        if hosts > 1 or (not hosts and version == "1.1"):
            raise RefusedRequestError(400, f"a request has one Host header, not {hosts}")
        if coding and version == "1.0":
            raise RefusedRequestError(400, "HTTP/1.0 has no transfer codings")
        if coding and coding.strip().lower() != "chunked":
            raise RefusedRequestError(501, "the only transfer coding read here is chunked")
        if length > self._limits.max_body_bytes:
            raise self._too_large_body()
        return RequestHead(
            method=parser.get_method().decode("ascii"),
            target=self._target.decode("latin-1"),
            http_version=version,
            headers=tuple(self._fields),
            keep_alive=parser.should_keep_alive() and not parser.should_upgrade(),
            body_length=-1 if coding else length,
            expects_continue=expects_continue,
        )

    def _too_large_head(self) -> RefusedRequestError:
        return RefusedRequestError(431, f"the request's head is over {self._limits.max_head_bytes} bytes")

    def _too_large_body(self) -> RefusedRequestError:
        return RefusedRequestError(413, f"the request's body is over {self._limits.max_body_bytes} bytes")
