"""URLs, origins, methods and headers: what both drivers must understand alike before anything is sent.

Nothing here sends, and nothing knows of sockets. What could split a request in two (CR, LF, NUL in a URL, a header's
name or value) is refused.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kabench.agent.options import RetryStale
    from kabench.agent.tls import TlsOptions

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110 section 9.2.1: they ask for nothing to be changed."""

IDEMPOTENT_METHODS = SAFE_METHODS | {"PUT", "DELETE"}
"""RFC 9110 section 9.2.2: doing one twice is meant to have the effect of doing it once."""

BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})
"""Methods that send `Content-Length: 0` when there is no body (RFC 9110 section 8.6)."""

_STANDARD_METHODS = IDEMPOTENT_METHODS | BODY_EXPECTED
_IDEMPOTENCY_KEYS = frozenset({"idempotency-key", "x-idempotency-key"})
"""Headers that make any request safe to send again, as Go's net/http has them (Request.isReplayable)."""

DEFAULT_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_SPLITS_A_LINE = re.compile(r"[\r\n\0]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UP_TO_THE_LAST_AT = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE | re.DOTALL)
_URL_CREDENTIALS = re.compile(r"^([^:/?#]+://)[^/?#]*@")
_PATH_SAFE = "/%:@!$&'()*+,;=~"


# -- methods and headers -----------------------------------------------------------------------------------------------


def checked_method(method: str) -> str:
    """Return the method as it is sent: a standard one in capitals, any other as it is.

    Methods are case-sensitive (RFC 9110 section 9.1), and a server that gets `head` may well answer it with a body.
    Raises `ValueError` for what is no method, and for CONNECT.
    """
    if method in _STANDARD_METHODS:
        return method
    capitals = method.upper()
    if capitals in _STANDARD_METHODS:
        return capitals
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is no HTTP method")
    if capitals == "CONNECT":
        raise ValueError("CONNECT makes a tunnel, which this agent does not; for a proxy, use KeepAliveProxyAgent")
    return method


def is_repeatable(method: str, names: Iterable[str], retry_stale: RetryStale) -> bool:
    """Return whether AK-34 may send a request with this method and these headers' names again by itself."""
    if not retry_stale:
        return False
    methods = SAFE_METHODS if retry_stale == "safe" else IDEMPOTENT_METHODS
    return method in methods or any(name.lower() in _IDEMPOTENCY_KEYS for name in names)


def check_header(name: object, value: object) -> None:
    """Raise `ValueError` for a header that may not go on the wire, `TypeError` for one that is no text."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"header {name!r}: name and value are str")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is no header name")
    if _SPLITS_A_LINE.search(value):
        raise ValueError(f"header {name}: its value holds CR, LF or NUL")


def has_token(value: str, token: str) -> bool:
    """Return whether a list in a header (`Connection`, `Expect`) has a member, whatever its case."""
    return token in {member.strip().lower() for member in value.split(",")}


def has_control_characters(url: str) -> bool:
    """Return whether a URL holds what could split a line."""
    return _CONTROL.search(url) is not None


# -- origins -----------------------------------------------------------------------------------------------------------


def origin_key(scheme: str, host: str, port: int, tls_digest: str | None = None) -> str:
    """Return the text that sockets are pooled by: `scheme://host:port`, IPv6 in brackets, `#` and a digest of TLS."""
    key = f"{scheme}://{_bracketed(host)}:{port}"
    return key if tls_digest is None else f"{key}#{tls_digest}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class Origin:
    """The server that sockets lead to. `key` is what they are pooled by: `scheme://host:port`, IPv6 in brackets.

    `tls` are TLS options that are not the agent's own; the key then ends with `#` and their digest.
    """

    scheme: str
    host: str
    port: int
    tls: TlsOptions | None = None

    @property
    def key(self) -> str:
        """The text the pool and the status use for it."""
        return origin_key(self.scheme, self.host, self.port, None if self.tls is None else self.tls.digest)

    @property
    def host_header(self) -> str:
        """The value of the Host header: the port is left out where it is the scheme's own."""
        host = _bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


# -- URLs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart: its origin, the request target (path and query), and credentials it carried, if any."""

    origin: Origin
    path: str
    credentials: str | None


def parse_url(url: str) -> Target:
    """Take an absolute http or https URL apart. Raises `ValueError` if it is not one."""
    shown = shown_url(url)
    if has_control_characters(url):
        raise ValueError(f"{shown!r} holds a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        # the error's own text quotes the URL, and with it perhaps a password
        why = "its port is no number up to 65535" if "ort" in str(error) else "its host is none"
        raise ValueError(f"{shown!r} is no URL: {why}") from None
    if parts.scheme not in DEFAULT_PORTS:
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
    return Target(Origin(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme]), path, credentials)


def parse_address(text: str) -> tuple[str, int]:
    """Return a host and a port from `host:port`, IPv6 in brackets. Raises `ValueError` if the text is not one."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}") from None
    if not host or not port or parts.netloc != text or "@" in text:
        raise ValueError(f"{text!r} is no address (host:port)")
    return host, port


def basic(credentials: str) -> str:
    """Return the value of an Authorization header for `name:password` (RFC 7617)."""
    return "Basic " + base64.b64encode(credentials.encode()).decode("ascii")


def encoded_url(url: str) -> str:
    """Return a URL without credentials and fragment, its path and query as they are sent. Raises `ValueError`."""
    target = parse_url(url)
    return f"{target.origin.scheme}://{target.origin.host_header}{target.path}"


def without_credentials(url: str, instead: str = "") -> str:
    """Return a URL with `instead` in place of the credentials and the at sign it carries, if any."""
    return _URL_CREDENTIALS.sub(rf"\1{instead}", url)


def shown_url(url: str) -> str:
    """Return a URL, or what was meant to be one, as an error may show it: nothing before its last at sign, no query."""
    shown, question, _ = _UP_TO_THE_LAST_AT.sub(r"\1[redacted]@", url).partition("?")
    return shown + (question and "?...")


def credentials_of(url: str) -> str | None:
    """Return the value of an Authorization header for the credentials that a URL carries, if any."""
    parts = urlsplit(url)
    return None if parts.username is None else basic(f"{unquote(parts.username)}:{unquote(parts.password or '')}")
