"""`KeepAliveTransport`: the threaded keep-alive agent under `httpx.Client`. Needs httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import urllib3.exceptions
from urllib3 import HTTPHeaderDict, Retry, Timeout

from kabench.agent.errors import AgentClosedError
from kabench.agent.options import refuse_response_limit
from kabench.agent.sync.agent import KeepAliveAgent
from kabench.agent.sync.pool import as_adapter_default

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3.response import BaseHTTPResponse

    from kabench.agent.events import EventListener
    from kabench.agent.options import AgentOptions

_READ_BYTES = 65_536
_NO_RETRIES = as_adapter_default(Retry(False))
"""No retries of urllib3's, which httpx does not have. The agent still sends again by itself (AK-34)."""

_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (urllib3.exceptions.NewConnectionError, httpx.ConnectError),
    (urllib3.exceptions.ConnectTimeoutError, httpx.ConnectTimeout),
    (urllib3.exceptions.SSLError, httpx.ConnectError),
    (urllib3.exceptions.ReadTimeoutError, httpx.ReadTimeout),
    (urllib3.exceptions.EmptyPoolError, httpx.PoolTimeout),
    (urllib3.exceptions.ProtocolError, httpx.RemoteProtocolError),
    (urllib3.exceptions.HTTPError, httpx.TransportError),
)
"""urllib3's errors, and httpx's for each; the first that fits is raised."""


def _as_httpx_raises(error: Exception, request: httpx.Request) -> Exception:
    if isinstance(error, urllib3.exceptions.ClosedPoolError):
        return AgentClosedError("the agent is closed")  # a RuntimeError, as httpx's own is
    kind = next(theirs for ours, theirs in _ERRORS if isinstance(error, ours))
    return kind(str(error), request=request)


class KeepAliveTransport(httpx.BaseTransport):
    """A transport whose sockets a `KeepAliveAgent` keeps: `httpx.Client(transport=KeepAliveTransport(max_sockets=50))`.

    Takes what `KeepAliveAgent` takes, TLS options included, since httpx's own (`verify`, `cert`) are for its own
    transport. httpx's timeouts win over the agent's: `connect`, `read` and `pool` mean what they mean in httpx, except
    that None as `pool` leaves it to `queue_timeout`. A response's `extensions["reused_socket"]` says whether its socket
    was reused.
    """

    def __init__(
        self,
        options: AgentOptions | None = None,
        *,
        on_event: EventListener | None = None,
        **given: Any,  # as KeepAliveAgent takes them
    ) -> None:
        self.agent = KeepAliveAgent(options=options, on_event=on_event, **given)
        refuse_response_limit(self.agent.options)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, for httpx. Raises httpx's errors, with urllib3's and ours as their causes."""
        timeout = request.extensions.get("timeout") or {}
        headers = HTTPHeaderDict(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw
        )
        is_chunked = "transfer-encoding" in headers
        try:
            response = self.agent.urlopen(
                request.method,
                str(request.url),
                body=_body(request),
                headers=headers,
                chunked=is_chunked,
                timeout=Timeout(connect=timeout.get("connect"), read=timeout.get("read")),
                pool_timeout=timeout.get("pool"),
                retries=_NO_RETRIES,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise _as_httpx_raises(error, request) from error
        return httpx.Response(
            response.status,
            headers=list(response.headers.items()),
            stream=_Stream(response, request),
            extensions={
                "http_version": b"HTTP/1.1" if response.version == 11 else b"HTTP/1.0",
                "reason_phrase": (response.reason or "").encode("latin-1"),
                "reused_socket": getattr(response, "reused_socket", False),
            },
        )

    def close(self) -> None:
        """Close all sockets."""
        self.agent.close()


def _body(request: httpx.Request) -> bytes | Iterator[bytes] | None:
    stream = request.stream
    if isinstance(stream, httpx.ByteStream):
        return b"".join(stream) or None
    if not isinstance(stream, httpx.SyncByteStream):
        raise TypeError("the body of the request is for httpx.AsyncClient")
    return iter(stream)


class _Stream(httpx.SyncByteStream):
    """The body of a response, as httpx reads it."""

    def __init__(self, response: BaseHTTPResponse, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._response.read1(_READ_BYTES, decode_content=False):  # as it comes
                yield piece
        except urllib3.exceptions.HTTPError as error:
            raise _as_httpx_raises(error, self._request) from error

    def close(self) -> None:
        self._response.close()
