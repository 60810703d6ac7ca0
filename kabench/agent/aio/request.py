"""A request as it goes on the wire: checked and encoded once, sent any number of times. Nothing here sends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from kabench.agent.urls import (
    BODY_EXPECTED,
    Origin,
    basic,
    check_header,
    checked_method,
    has_token,
    is_repeatable,
    parse_url,
)

if TYPE_CHECKING:
    from kabench.agent.aio.upload import Upload
    from kabench.agent.options import RetryStale
    from kabench.agent.tls import TlsOptions

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
_SENT_AT_ONCE_BYTES = 16_384
"""A request up to this size leaves in one write: it finds an empty send buffer, and those are larger."""


class PreparedRequest:
    """A request encoded for one kind of agent. Made by `agent.prepare()`; immutable by convention.

    `wire` is what is sent, or only its head where an `Upload` has the body. `repeatable` says whether it may be sent
    again by itself (AK-34). `is_routine`: it is sent in one write, and nothing about it keeps its socket from being
    reused or changes what the head of its response means. So a response with a known head needs no further check.
    """

    __slots__ = (
        "_is_simple",
        "asks_to_switch",
        "closes",
        "expects_continue",
        "has_body",
        "is_head",
        "is_routine",
        "method",
        "origin",
        "origin_key",
        "repeatable",
        "wire",
    )

    def __init__(self, method: str, origin: Origin, wire: bytes) -> None:
        self.method = method
        self.origin = origin
        self.origin_key = origin.key
        self.wire = wire
        self.is_head = method == "HEAD"
        self.closes = self.repeatable = self.expects_continue = self.asks_to_switch = self.has_body = False
        self._is_simple = self.is_routine = True

    def with_wire(self, wire: bytes) -> PreparedRequest:
        """Return the same request, for the same origin, with other bytes."""
        other: PreparedRequest = object.__new__(PreparedRequest)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.wire = wire
        other.is_routine = self._is_simple and len(wire) <= _SENT_AT_ONCE_BYTES
        return other

    def settle(self, head: _Head, upload: Upload | None, retry_stale: RetryStale) -> PreparedRequest:
        """Set what depends on the whole head and on the body; return the request itself."""
        self.closes = head.closes
        self.expects_continue = head.expects_continue
        self.asks_to_switch = "upgrade" in head.names
        self.repeatable = is_repeatable(self.method, head.names, retry_stale) and (upload is None or upload.can_restart)
        is_special = self.is_head or self.closes or self.expects_continue or self.asks_to_switch
        self._is_simple = upload is None and not is_special
        self.is_routine = self._is_simple and len(self.wire) <= _SENT_AT_ONCE_BYTES
        return self

    def __repr__(self) -> str:
        return f"<PreparedRequest {self.method} {self.origin_key}>"


def prepare(
    method: str,
    url: str,
    headers: Headers | None,
    body: bytes | Upload | None,
    *,
    keep_alive: bool,
    tls: TlsOptions | None = None,
    retry_stale: RetryStale = "safe",
) -> PreparedRequest:
    """Check and encode a request; of an `Upload`, only the head.

    A Host, Connection or Content-Length that the caller gives is kept, with two exceptions: `Connection: close` of
    an agent that pools nothing wins, and a Content-Length that is not the body's is an error. `retry_stale` is the
    agent's.

    Raises `ValueError` for what may not be sent, `TypeError` for a body that is not bytes.
    """
    method = checked_method(method)
    target = parse_url(url)
    origin = target.origin
    if tls is not None:
        if origin.scheme != "https":
            raise ValueError(f"tls: {url!r} is no https URL")
        origin = Origin(origin.scheme, origin.host, origin.port, tls)
    head = _Head(f"{method} {target.path} HTTP/1.1", closes=not keep_alive)
    for name, value in headers.items() if isinstance(headers, Mapping) else headers or ():
        head.add(name, value)
    if "host" not in head.names:
        head.lines.insert(1, f"Host: {origin.host_header}")
    if "connection" not in head.names or not keep_alive:
        head.lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
    if "authorization" not in head.names and target.credentials is not None:
        head.lines.append(f"Authorization: {basic(target.credentials)}")
    if body is None or isinstance(body, bytes | bytearray | memoryview):
        data = b"" if body is None else bytes(body)
        if head.content_length not in (None, len(data)):
            raise ValueError(f"Content-Length {head.content_length} is not the body's ({len(data)} bytes)")
        if head.content_length is None and (data or method in BODY_EXPECTED):
            head.lines.append(f"Content-Length: {len(data)}")
        prepared = PreparedRequest(method, origin, head.encode() + data)
        prepared.has_body = bool(data)
        return prepared.settle(head, None, retry_stale)
    if isinstance(body, str):
        raise TypeError("a body is bytes, not str; encode it")
    _frame(head, body)
    prepared = PreparedRequest(method, origin, head.encode())
    prepared.has_body = True
    return prepared.settle(head, body, retry_stale)


def _frame(head: _Head, upload: Upload) -> None:
    """Add the header that says how long an upload is, or that it comes in chunks. Raises `ValueError`."""
    if upload.length is None:
        upload.length = head.content_length
    elif head.content_length not in (None, upload.length):
        raise ValueError(f"Content-Length {head.content_length} is not the body's ({upload.length} bytes)")
    if upload.length is None:
        head.lines.append("Transfer-Encoding: chunked")
    elif head.content_length is None:
        head.lines.append(f"Content-Length: {upload.length}")


class _Head:
    """The lines of a request's head as they are put together."""

    def __init__(self, request_line: str, *, closes: bool) -> None:
        self.lines = [request_line]
        self.names: set[str] = set()
        self.content_length: int | None = None
        self.expects_continue = False
        self.closes = closes
        self._always_closes = closes

    def add(self, name: str, value: str) -> None:
        """Add a header of the caller's. Raises `TypeError` and `ValueError`."""
        check_header(name, value)
        lowered = name.lower()
        if lowered == "host" and lowered in self.names:
            raise ValueError("there are two Host headers, and a request may have one (RFC 9112 section 3.2)")
        self.names.add(lowered)
        if lowered == "connection":
            self.closes = self.closes or has_token(value, "close")
            if self._always_closes:
                return
        elif lowered == "content-length":
            if not _DIGITS.fullmatch(value.strip()) or self.content_length is not None:
                raise ValueError(f"Content-Length {value!r} is no length of a body")
            self.content_length = int(value)
        elif lowered == "expect":
            self.expects_continue = self.expects_continue or has_token(value, "100-continue")
        elif lowered == "transfer-encoding":
            raise ValueError("Transfer-Encoding is the agent's to choose; leave the header out")
        self.lines.append(f"{name}: {value}")

    def encode(self) -> bytes:
        """Return the head with its empty line. Raises `ValueError` for a character outside Latin-1."""
        try:
            return "\r\n".join(self.lines).encode("latin-1") + b"\r\n\r\n"
        except UnicodeEncodeError:
            raise ValueError("a header value holds a character outside Latin-1") from None
