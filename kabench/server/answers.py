"""Makes the answer to a request. No I/O: an answer is a pure function of the request and the options.

So answers are kept: a load sends the same bytes over and over, and `RequestReader` knows the requests that it has read
before by their bytes, and neither parses them nor makes their answers again.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from kabench.http1.requests import RefusedRequestError, RequestParser
from kabench.server.large_body import (
    FILLER,
    LAST_CHUNK,
    MOST_AT_ONCE_BYTES,
    MOST_FILLER_AT_ONCE_BYTES,
    LargeBody,
    in_chunks,
)

if TYPE_CHECKING:
    from kabench.http1.requests import RequestHead
    from kabench.server.options import ServerOptions

_MAX_KNOWN_REQUESTS = 256
_MAX_KNOWN_REQUEST_BYTES = 4096
_MAX_DELAY_MS = 3_600_000
_MAX_SIZE_BYTES = 1 << 30
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its bytes, its delay, and whether it closes the socket. `head` ends before the empty line.

    A `large` body is sent after `wire`, and is not in it.
    """

    delay_s: float
    head: bytes
    body: bytes
    wire: bytes
    body_bytes: int
    request_body_bytes: int
    closes: bool
    is_bad_request: bool = False
    large: LargeBody | None = None


class BadQueryError(ValueError):
    """A path or query that the server does not understand."""


@dataclass(frozen=True, slots=True)
class _Query:
    size: int | None = None
    status: int = 200
    chunked: bool = False


def _whole_number(name: str, text: str, largest: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > largest:
        raise BadQueryError(f"{name}={text}: not a whole number from 0 to {largest}")
    return int(text)


def _read_query(text: str) -> _Query:
    query = dict(parse_qsl(text, keep_blank_values=True))
    status = _whole_number("status", query.get("status", "200"), 999)
    if status < 200:
        raise BadQueryError(f"status={status}: not a final status (200 to 999)")
    size = query.get("size")
    return _Query(
        size=None if size is None else _whole_number("size", size, _MAX_SIZE_BYTES),
        status=status,
        chunked=query.get("chunked", "0") not in ("", "0"),
    )


def _delay_s(path: str, default_s: float) -> float:
    """Return the delay of a path: `/<ms>` names one, a path without a number has the server's."""
    text = path.strip("/")
    if not text or not text.replace(".", "", 1).isdigit() or not text.isascii():
        return default_s
    milliseconds = float(text)
    if milliseconds > _MAX_DELAY_MS:
        raise BadQueryError(f"/{text}: more than an hour")
    return milliseconds / 1000


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    method: str
    path: str
    query: str
    http_version: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    keep_alive: bool


def answer(request: Request, options: ServerOptions) -> Answer:
    """Return the answer: JSON of `timeout` (ms), `headers`, `size` and `data`, or what the query asks for."""
    try:
        delay_s = _delay_s(request.path, options.delay_s)
        query = _read_query(request.query)
    except BadQueryError as error:
        keep_alive = request.keep_alive and options.keep_alive
        return bad_request(str(error), keep_alive=keep_alive, is_head=request.method == "HEAD")
    body: bytes | None = None
    if query.size is not None:
        size, content_type = query.size, "application/octet-stream"
    else:
        milliseconds = round(delay_s * 1000.0, 6)
        echo = {
            "timeout": int(milliseconds) if milliseconds.is_integer() else milliseconds,
            "headers": {name.lower(): value for name, value in request.headers},
            "size": len(request.body),
            "data": request.body.decode("utf-8", "replace"),
        }
        body, content_type = json.dumps(echo, separators=(",", ":")).encode(), "application/json"
        size = len(body)
    has_body = query.status not in (204, 304)
    closes = not (request.keep_alive and options.keep_alive)
    lines = [f"HTTP/1.1 {query.status} {_REASONS.get(query.status, '')}"]
    chunked = query.chunked and has_body and request.http_version == "1.1"
    if has_body:
        lines.append(f"Content-Type: {content_type}")
        lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}")
    lines.append("Connection: close" if closes else "Connection: keep-alive")
    if options.keep_alive_hint is not None and not closes:
        lines.append(_hint(options.keep_alive_hint, None))
    sent, large = b"", None
    if request.method == "HEAD" or not has_body:
        size = 0
    elif size > (MOST_FILLER_AT_ONCE_BYTES if body is None else MOST_AT_ONCE_BYTES):
        large = LargeBody(size, chunked, body)
    else:
        sent = FILLER[:size] if body is None else body
        sent = in_chunks(sent) + LAST_CHUNK if chunked else sent
    return _made(lines, sent, size, request_body_bytes=len(request.body), delay_s=delay_s, closes=closes, large=large)


def bad_request(why: str, *, keep_alive: bool, status: int = 400, is_head: bool = False) -> Answer:
    """Return an answer of 400, or of another status that refuses, with the reason as text."""
    body = (why + "\n").encode()
    sent = b"" if is_head else body
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: keep-alive" if keep_alive else "Connection: close",
    ]
    return _made(lines, sent, len(sent), request_body_bytes=0, delay_s=0, closes=not keep_alive, is_bad_request=True)


def _made(
    lines: list[str],
    sent: bytes,
    body_bytes: int,
    *,
    request_body_bytes: int,
    delay_s: float,
    closes: bool,
    is_bad_request: bool = False,
    large: LargeBody | None = None,
) -> Answer:
    head = "\r\n".join(lines).encode("latin-1")
    wire = head + b"\r\n\r\n" + sent
    return Answer(delay_s, head, sent, wire, body_bytes, request_body_bytes, closes, is_bad_request, large)


def as_one(made: Answer) -> Answer:
    """Return the same answer with all of its body in memory."""
    if made.large is None:
        return made
    body = b"".join(made.large.pieces())
    return dataclasses.replace(made, body=body, wire=made.wire + body, large=None)


def _hint(timeout: int | None, max_requests: int | None) -> str:
    parameters = {"timeout": timeout, "max": max_requests}
    return "Keep-Alive: " + ", ".join(f"{name}={value}" for name, value in parameters.items() if value is not None)


def with_requests_left(made: Answer, left: int, timeout: int | None) -> bytes:
    """Return the bytes of an answer on a socket that carries `left` more requests: they say so, or that it closes."""
    lines = made.head.split(b"\r\n")
    if left > 0 and not made.closes:
        lines = [line for line in lines if not line.startswith(b"Keep-Alive:")]
        lines.append(_hint(timeout, left).encode("latin-1"))
    else:
        lines = [line for line in lines if not line.startswith((b"Keep-Alive:", b"Connection:"))]
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + made.body


class AnswerBook:
    """Answers to requests seen before, by the requests' bytes; one per server, bounded.

    `held_bytes` counts the bytes of the bodies that are under way, in either direction.
    """

    __slots__ = ("answers", "held_bytes", "options")

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.answers: dict[bytes, Answer] = {}
        self.held_bytes = 0

    def learn(self, raw: bytes, made: Answer) -> None:
        """Remember the answer to a request."""
        if len(raw) > _MAX_KNOWN_REQUEST_BYTES or len(made.wire) > _MAX_KNOWN_REQUEST_BYTES:
            return
        if len(self.answers) >= _MAX_KNOWN_REQUESTS:
            self.answers.clear()
        self.answers[raw] = made


class RequestReader(RequestParser):
    """Reads the requests of one socket: bytes in, answers out."""

    __slots__ = ("_body", "_book", "_expects_continue", "_head", "_held_bytes", "_made")

    def __init__(self, book: AnswerBook) -> None:
        super().__init__(book.options.limits)
        self._book = book
        self._made: list[Answer] = []
        self._body = bytearray()  # pieces may be so small that a list of them is many times their size
        self._held_bytes = 0
        self._expects_continue = False

    def answers_to(self, data: bytes) -> list[Answer]:
        """Take bytes; return the answers to the requests that are whole now, in order. One that closes is the last."""
        was_at_boundary = self.at_boundary
        self._made = []
        try:
            self.feed(data)
        except RefusedRequestError as error:
            self.give_up()
            self._made.append(bad_request(str(error), keep_alive=False, status=error.status))
            return self._made
        if was_at_boundary and self.at_boundary and len(self._made) == 1:
            self._book.learn(data, self._made[0])
        return self._made

    def wants_continue(self) -> bool:
        """Return whether the client waits for 100 Continue before it sends its body; True only once per request."""
        wants, self._expects_continue = self._expects_continue, False
        return wants

    def head_read(self, head: RequestHead) -> None:
        """Keep the head of a request that has begun."""
        self._head = head
        self._expects_continue = head.expects_continue

    def body_read(self, piece: bytes) -> None:
        """Take a piece of the body. Raises `RefusedRequestError` where there is no room for it."""
        self._body += piece
        self._expects_continue = False
        book = self._book
        book.held_bytes += len(piece)
        self._held_bytes += len(piece)
        if book.held_bytes > book.options.limits.max_held_bytes:
            raise RefusedRequestError(503, "too many large requests are under way")

    def end_read(self) -> None:
        """Make the answer to a request that is whole."""
        self._expects_continue = False
        head = self._head
        path, _, query = head.target.partition("?")
        if "://" in path:  # absolute form, as sent to a proxy (RFC 9112 section 3.2.2)
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        request = Request(
            method=head.method,
            path=path,
            query=query.partition("#")[0],
            http_version=head.http_version,
            headers=head.headers,
            body=bytes(self._body),
            keep_alive=head.keep_alive,
        )
        self._let_go()
        made = answer(request, self._book.options)
        if made.large is not None:
            self._book.held_bytes += made.large.held_bytes
        self._made.append(made)

    def give_up(self) -> None:
        """Take nothing more, and let go of what has come."""
        super().give_up()
        self._expects_continue = False
        self._let_go()

    def release(self) -> None:
        """Let go of what has come of a request that will not be whole."""
        super().release()
        self._let_go()

    def _let_go(self) -> None:
        self._body = bytearray()
        self._book.held_bytes -= self._held_bytes
        self._held_bytes = 0
