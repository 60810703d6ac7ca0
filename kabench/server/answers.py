"""From a request to the answer it gets. No I/O: an answer is a pure function of the request and the options.

Being pure, it is kept: load comes as the same bytes over and over, so `RequestReader` knows the requests it has read
before by their bytes, and neither parses them nor makes their answer again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from kabench.server.requests import RefusedRequestError, RequestParser

if TYPE_CHECKING:
    from kabench.server.options import ServerOptions
    from kabench.server.requests import RequestHead

_MAX_KNOWN_REQUESTS = 256
_MAX_KNOWN_REQUEST_BYTES = 4096
_MAX_DELAY_MS = 3_600_000
_MAX_SIZE_BYTES = 1 << 30
_CHUNK_BYTES = 4096
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent, when, and what becomes of the socket. `head` ends before the empty line."""

    delay_s: float
    head: bytes
    body: bytes
    wire: bytes
    body_bytes: int
    request_body_bytes: int
    closes: bool
    is_bad_request: bool = False


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
    """`/<ms>` names a delay; a path without a number has the server's."""
    text = path.strip("/")
    if not text or not text.replace(".", "", 1).isdigit() or not text.isascii():
        return default_s
    milliseconds = float(text)
    if milliseconds > _MAX_DELAY_MS:
        raise BadQueryError(f"/{text}: more than an hour")
    return milliseconds / 1000


def _chunked(body: bytes) -> bytes:
    pieces = [body[at : at + _CHUNK_BYTES] for at in range(0, len(body), _CHUNK_BYTES)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


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
    """Make the answer: JSON of `timeout` (ms), `headers`, `size` and `data`, or what the query asks for."""
    try:
        delay_s = _delay_s(request.path, options.delay_s)
        query = _read_query(request.query)
    except BadQueryError as error:
        return bad_request(str(error), keep_alive=request.keep_alive and options.keep_alive)
    if query.size is not None:
        body, content_type = b"x" * query.size, "application/octet-stream"
    else:
        milliseconds = round(delay_s * 1000.0, 6)
        echo = {
            "timeout": int(milliseconds) if milliseconds.is_integer() else milliseconds,
            "headers": {name.lower(): value for name, value in request.headers},
            "size": len(request.body),
            "data": request.body.decode("utf-8", "replace"),
        }
        body, content_type = json.dumps(echo, separators=(",", ":")).encode(), "application/json"
    has_body = query.status not in (204, 304)
    closes = not (request.keep_alive and options.keep_alive)
    lines = [f"HTTP/1.1 {query.status} {_REASONS.get(query.status, '')}"]
    chunked = query.chunked and has_body and request.http_version == "1.1"
    if has_body:
        lines.append(f"Content-Type: {content_type}")
        lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
    lines.append("Connection: close" if closes else "Connection: keep-alive")
    if options.keep_alive_hint is not None and not closes:
        lines.append(_hint(options.keep_alive_hint, None))
    if request.method == "HEAD" or not has_body:
        body = b""
    sent = _chunked(body) if chunked and request.method != "HEAD" else body
    return _made(lines, sent, len(body), request_body_bytes=len(request.body), delay_s=delay_s, closes=closes)


def bad_request(why: str, *, keep_alive: bool, status: int = 400) -> Answer:
    """400, or another status that refuses, with the reason as text."""
    body = (why + "\n").encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: keep-alive" if keep_alive else "Connection: close",
    ]
    return _made(lines, body, len(body), request_body_bytes=0, delay_s=0, closes=not keep_alive, is_bad_request=True)


def _made(
    lines: list[str],
    sent: bytes,
    body_bytes: int,
    *,
    request_body_bytes: int,
    delay_s: float,
    closes: bool,
    is_bad_request: bool = False,
) -> Answer:
    head = "\r\n".join(lines).encode("latin-1")
    return Answer(
        delay_s, head, sent, head + b"\r\n\r\n" + sent, body_bytes, request_body_bytes, closes, is_bad_request
    )


def _hint(timeout: int | None, max_requests: int | None) -> str:
    parameters = {"timeout": timeout, "max": max_requests}
    return "Keep-Alive: " + ", ".join(f"{name}={value}" for name, value in parameters.items() if value is not None)


def with_requests_left(made: Answer, left: int, timeout: int | None) -> bytes:
    """The wire form of an answer on a socket that carries `left` more requests: it says so, or that it closes."""
    lines = made.head.split(b"\r\n")
    if left > 0 and not made.closes:
        lines = [line for line in lines if not line.startswith(b"Keep-Alive:")]
        lines.append(_hint(timeout, left).encode("latin-1"))
    else:
        lines = [line for line in lines if not line.startswith((b"Keep-Alive:", b"Connection:"))]
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + made.body


class AnswerBook:
    """Answers to requests seen before, by the requests' bytes; one a server, bounded."""

    __slots__ = ("answers", "options")

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.answers: dict[bytes, Answer] = {}

    def learn(self, raw: bytes, made: Answer) -> None:
        """Remember the answer to a request."""
        if len(raw) > _MAX_KNOWN_REQUEST_BYTES or len(made.wire) > _MAX_KNOWN_REQUEST_BYTES:
            return
        if len(self.answers) >= _MAX_KNOWN_REQUESTS:
            self.answers.clear()
        self.answers[raw] = made


class RequestReader(RequestParser):
    """Reads the requests of one socket: bytes in, answers out."""

    __slots__ = ("_book", "_expects_continue", "_head", "_made", "_pieces")

    def __init__(self, book: AnswerBook) -> None:
        super().__init__(book.options.limits)
        self._book = book
        self._made: list[Answer] = []
        self._pieces: list[bytes] = []
        self._expects_continue = False

    def answers_to(self, data: bytes) -> list[Answer]:
        """Take bytes; the answers to the requests that are whole now, in order. One that closes is the last."""
        was_at_boundary = self.at_boundary
        self._made = []
        try:
            self.feed(data)
        except RefusedRequestError as error:
            self._made.append(bad_request(str(error), keep_alive=False, status=error.status))
            return self._made
        if was_at_boundary and self.at_boundary and len(self._made) == 1:
            self._book.learn(data, self._made[0])
        return self._made

    def wants_continue(self) -> bool:
        """Whether the client waits for 100 Continue before it sends its body; True once a request."""
        wants, self._expects_continue = self._expects_continue, False
        return wants

    def head_read(self, head: RequestHead) -> None:
        """A request has begun."""
        self._head = head
        self._pieces = []
        self._expects_continue = head.expects_continue

    def body_read(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(piece)
        self._expects_continue = False

    def end_read(self) -> None:
        """The request is whole: answer it."""
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
            body=b"".join(self._pieces),
            keep_alive=head.keep_alive,
        )
        self._pieces = []
        self._made.append(answer(request, self._book.options))
