"""What the proxy does with a request and a response, as pure functions: routes, hop-by-hop headers, errors.

A leading `/post` turns a GET into the published benchmark's POST, and is taken off; then `/k/<path>` goes through the
keep-alive agent, everything else through the normal one. Nothing leads anywhere but to the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from kabench.agent import AgentClosedError, AgentError
from kabench.http1.requests import RefusedRequestError
from kabench.published import PUBLISHED_BODY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kabench.agent.reader import ResponseHead
    from kabench.http1.requests import RequestHead

STATUS_TARGET = "/-/status"
KEEPALIVE, NORMAL = "keepalive", "normal"
_HOP_BY_HOP = frozenset({
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
})  # fmt: skip
"""RFC 9110 section 7.6.1, besides what `Connection` names."""

_NOT_FOR_THE_TARGET = _HOP_BY_HOP | {"host", "expect", "content-length", "proxy-authorization"}
_NOT_FOR_THE_CLIENT = _HOP_BY_HOP | {"proxy-authenticate", "proxy-authentication-info"}
_NEVER_OF_ONE_HOP = frozenset({"content-length"})
"""What `Connection` cannot remove: without it, the end of the body would be unknown."""

_SAFE_IN_A_TARGET = "/%:@!$&'()*+,;=~?[]"


@dataclass(frozen=True, slots=True)
class Route:
    """The agent that a request goes through, and what is sent. `body` None: the client's own."""

    agent: str
    method: str
    path: str
    body: bytes | None = None


def via_of(name: str) -> str:
    """Return what a proxy of this name adds to the `Via` of requests (RFC 9110 section 7.6.3)."""
    return f"1.1 kabench-{name}"


def route(head: RequestHead, own_authorities: Iterable[str], own_via: str) -> Route:
    """Return a request's route. Raises `RefusedRequestError` for one that leads elsewhere, or back to this proxy."""
    if head.method == "CONNECT":
        raise RefusedRequestError(405, "this proxy makes no tunnels")
    if any(name.lower() == "via" and own_via in value for name, value in head.headers):
        raise RefusedRequestError(508, "this proxy's target leads back to it")
    target = head.target
    if not target.startswith("/"):
        target = _path_of_absolute_form(target, own_authorities)
    path, question, query = target.partition("?")
    method, body = head.method, None
    rest = _without_prefix(path, "/post")
    if rest is not None:
        path = rest
        if method == "GET":
            method, body = "POST", PUBLISHED_BODY
    rest = _without_prefix(path, "/k")
    agent = NORMAL if rest is None else KEEPALIVE
    path = quote((path if rest is None else rest) + question + query, safe=_SAFE_IN_A_TARGET, encoding="latin-1")
    return Route(agent, method, path, body)


def _path_of_absolute_form(target: str, own_authorities: Iterable[str]) -> str:
    """Return the path of `http://host/path` (RFC 9112 section 3.2.2), where the host is this proxy."""
    try:
        parts = urlsplit(target)
        is_own = parts.scheme in ("http", "https") and parts.netloc.lower() in own_authorities
    except ValueError:
        is_own = False
    if not is_own:
        raise RefusedRequestError(403, "this proxy leads to its target only; ask it for a path")
    return "/" + target.split("://", 1)[1].partition("/")[2]


def _without_prefix(path: str, prefix: str) -> str | None:
    """Return what is behind a path's first part, if that is `prefix`."""
    if path == prefix:
        return "/"
    return path.removeprefix(prefix) if path.startswith(prefix + "/") else None


def headers_for_the_target(head: RequestHead, via: str) -> list[tuple[str, str]]:
    """Return the request's headers without those of this hop, and with `Via`."""
    named = _named_by_connection(value for name, value in head.headers if name.lower() == "connection")
    kept = [(name, value) for name, value in head.headers if name.lower() not in _NOT_FOR_THE_TARGET | named]
    return [*kept, ("Via", via)]


def _named_by_connection(values: Iterable[str]) -> frozenset[str]:
    return frozenset(option.strip().lower() for value in values for option in value.split(","))


def response_head(head: ResponseHead, framing: str | None, *, keep_alive: bool, is_http_1_1: bool) -> bytes:
    """Return the response's head for the client, with the empty line, without the headers of the other hop.

    `framing` is a header that says where the body ends; None: the response's own headers do, or the connection.
    """
    named = _named_by_connection(
        value.decode("latin-1") for name, value in head.raw_headers if name.lower() == b"connection"
    )
    dropped = (_NOT_FOR_THE_CLIENT | named) - _NEVER_OF_ONE_HOP
    lines = [f"HTTP/1.1 {head.status} {head.reason}".encode("latin-1")]
    lines += [name + b": " + value for name, value in head.raw_headers if name.decode("latin-1").lower() not in dropped]
    if framing is not None:
        lines.append(framing.encode("ascii"))
    if not keep_alive:
        lines.append(b"Connection: close")
    elif not is_http_1_1:
        lines.append(b"Connection: keep-alive")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def own_answer(status: int, text: str, content_type: str, *, keep_alive: bool, is_head: bool) -> bytes:
    """Return an answer of the proxy's own. No browser takes it for a page, whatever bytes a target puts in it."""
    body = (text + "\n").encode("utf-8", "replace")
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: {content_type}\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n"
        f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if is_head else body)


def status_for(error: Exception) -> tuple[int, str]:
    """Return 502 or 504 for an error on the way to the target, and the reason in a line (RFC 9110 section 15.6)."""
    status = 504 if isinstance(error, TimeoutError) else 502
    if isinstance(error, AgentClosedError):
        return 502, "the proxy is being closed"
    if isinstance(error, AgentError):
        return status, " ".join(str(error).split())
    return status, type(error).__name__
