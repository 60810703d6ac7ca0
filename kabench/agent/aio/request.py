"""A request as it goes on the wire: checked and encoded once, sent as often as one likes.

Nothing here sends. What could split a request in two (CR, LF, NUL in a URL, a header's name or value) is refused.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from kabench.agent.aio.upload import Upload
    from kabench.agent.tls import TlsOptions

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

_IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2."""

_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})
"""Methods that send `Content-Length: 0` when there is no body (RFC 9110 section 8.6)."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_SPLITS_A_LINE = re.compile(r"[\r\n\0]")
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UP_TO_THE_LAST_AT = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE | re.DOTALL)
_URL_CREDENTIALS = re.compile(r"^([^:/?#]+://)[^/?#]*@")
_PATH_SAFE = "/%:@!$&'()*+,;=~"
_SENT_AT_ONCE_BYTES = 16_384
"""A request up to this size leaves in one write: a fresh request finds an empty send buffer, and those are larger."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where sockets lead to. `key` is what they are pooled by: `scheme://host:port`, IPv6 in brackets.

    `tls` are TLS options that are not the agent's own; the key has `#` and their digest behind it then.
    """

    scheme: str
    host: str
    port: int
    tls: TlsOptions | None = None

    @property
    def key(self) -> str:
        """The text the pool and the status use for it."""
        key = f"{self.scheme}://{self._bracketed}:{self.port}"
        return key if self.tls is None else f"{key}#{self.tls.digest}"

    @property
    def host_header(self) -> str:
        """The value of the Host header: the port is left out where it is the scheme's own."""
        return self._bracketed if self.port == _DEFAULT_PORTS[self.scheme] else f"{self._bracketed}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart: its origin, the request target (path and query), and credentials it carried, if any."""

    origin: Origin
    path: str
    credentials: str | None


def parse_url(url: str) -> Target:
    """Take an absolute http or https URL apart. Raises `ValueError` where it is none."""
    shown = shown_url(url)
    if _CONTROL.search(url):
        raise ValueError(f"{shown!r} holds a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        why = "its port is no number up to 65535" if "ort" in str(error) else "its host is none"  # not what it quotes
        raise ValueError(f"{shown!r} is no URL: {why}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"{shown!r} is no http URL (it starts with http:// or https://)")
    if not parts.hostname:
        raise ValueError(f"{shown!r} names no host")
    if port == 0:
        raise ValueError(f"{shown!r}: port 0 cannot be connected to")
    host = parts.hostname
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"{shown!r}: the host name cannot be encoded ({error})") from None
    path = quote(parts.path or "/", safe=_PATH_SAFE)
    if parts.query:
        path += "?" + quote(parts.query, safe=_PATH_SAFE + "?[]")
    credentials = None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Target(Origin(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme]), path, credentials)


def parse_address(text: str) -> tuple[str, int]:
    """A host and a port from `host:port`, IPv6 in brackets. Raises `ValueError` where it is none."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}") from None
    if not host or not port or parts.netloc != text or "@" in text:
        raise ValueError(f"{text!r} is no address (host:port)")
    return host, port


def basic(credentials: str) -> str:
    """The value of an Authorization header for `name:password` (RFC 7617)."""
    return "Basic " + base64.b64encode(credentials.encode()).decode("ascii")


def encoded_url(url: str) -> str:
    """A URL without credentials and fragment, its path and query as they are sent. Raises `ValueError` for none."""
    target = parse_url(url)
    return f"{target.origin.scheme}://{target.origin.host_header}{target.path}"


def without_credentials(url: str, instead: str = "") -> str:
    """A URL with `instead` in place of the credentials and the at sign it carries, if any."""
    return _URL_CREDENTIALS.sub(rf"\1{instead}", url)


def shown_url(url: str) -> str:
    """A URL, or what was meant to be one, as an error may have it: nothing before its last at sign, and no query."""
    shown, question, _ = _UP_TO_THE_LAST_AT.sub(r"\1[redacted]@", url).partition("?")
    return shown + (question and "?...")


def credentials_of(url: str) -> str | None:
    """The value of an Authorization header for the credentials that a URL carries, if any."""
    parts = urlsplit(url)
    return None if parts.username is None else basic(f"{unquote(parts.username)}:{unquote(parts.password or '')}")


class PreparedRequest:
    """A request encoded for one kind of agent. Made by `agent.prepare()`; immutable by convention.

    `wire` is what is sent, or only its head where an `Upload` has the body. `idempotent` says whether it may be sent
    again by itself (AK-34), `needs_a_look` whether its socket may not be reused although the response allows it: it
    asks to close, or may not be sent to its end.
    """

    __slots__ = ("closes", "idempotent", "is_head", "method", "needs_a_look", "origin", "origin_key", "wire")

    def __init__(self, method: str, origin: Origin, wire: bytes, *, closes: bool) -> None:
        self.method = method
        self.origin = origin
        self.origin_key = origin.key
        self.wire = wire
        self.closes = closes
        self.is_head = method == "HEAD"
        self.idempotent = method in _IDEMPOTENT_METHODS
        self.needs_a_look = closes or len(wire) > _SENT_AT_ONCE_BYTES

    def with_wire(self, wire: bytes) -> PreparedRequest:
        """The same request, for the same origin, with other bytes."""
        other: PreparedRequest = object.__new__(PreparedRequest)
        other.method, other.origin, other.origin_key = self.method, self.origin, self.origin_key
        other.closes, other.is_head, other.idempotent = self.closes, self.is_head, self.idempotent
        other.wire = wire
        other.needs_a_look = self.closes or len(wire) > _SENT_AT_ONCE_BYTES
        return other

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
) -> PreparedRequest:
    """Check and encode a request; of an `Upload`, only the head.

    A Host, Connection or Content-Length that the caller gives stands, with two exceptions: `Connection: close` of an
    agent that pools nothing wins, and a Content-Length that is not the body's is an error.

    Raises `ValueError` for what may not be sent, `TypeError` for a body that is not bytes.
    """
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is no HTTP method")
    if method == "CONNECT":
        raise ValueError("CONNECT makes a tunnel, which this agent does not")
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
        if head.content_length is None and (data or method in _BODY_EXPECTED):
            head.lines.append(f"Content-Length: {len(data)}")
        return PreparedRequest(method, origin, head.encode() + data, closes=head.closes)
    if isinstance(body, str):
        raise TypeError("a body is bytes, not str; encode it")
    _frame(head, body)
    prepared = PreparedRequest(method, origin, head.encode(), closes=head.closes)
    prepared.needs_a_look = True
    prepared.idempotent = prepared.idempotent and body.can_restart
    return prepared


def _frame(head: _Head, upload: Upload) -> None:
    """Say how long an upload is, or that it comes in chunks."""
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
        self.closes = closes
        self._always_closes = closes

    def add(self, name: str, value: str) -> None:
        """Take a header of the caller's. Raises `TypeError` and `ValueError`."""
        _check_header(name, value)
        lowered = name.lower()
        self.names.add(lowered)
        if lowered == "connection":
            self.closes = self.closes or "close" in {option.strip().lower() for option in value.split(",")}
            if self._always_closes:
                return
        elif lowered == "content-length":
            if not _DIGITS.fullmatch(value.strip()) or self.content_length is not None:
                raise ValueError(f"Content-Length {value!r} is no length of a body")
            self.content_length = int(value)
        elif lowered == "transfer-encoding":
            raise ValueError("Transfer-Encoding is the agent's to choose; leave the header out")
        self.lines.append(f"{name}: {value}")

    def encode(self) -> bytes:
        """The head with its empty line. Raises `ValueError`."""
        try:
            return "\r\n".join(self.lines).encode("latin-1") + b"\r\n\r\n"
        except UnicodeEncodeError:
            raise ValueError("a header value holds a character outside Latin-1") from None


def _check_header(name: object, value: object) -> None:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"header {name!r}: name and value are str")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is no header name")
    if _SPLITS_A_LINE.search(value):
        raise ValueError(f"header {name}: its value holds CR, LF or NUL")
