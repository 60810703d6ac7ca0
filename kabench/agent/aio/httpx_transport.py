"""`AsyncKeepAliveTransport`: the asyncio keep-alive agent under `httpx.AsyncClient`. Needs httpx."""

from __future__ import annotations

import dataclasses
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx

from kabench.agent.aio.agent import AsyncKeepAliveAgent
from kabench.agent.errors import (
    AgentClosedError,
    AgentError,
    ConnectError,
    ConnectTimeoutError,
    QueueTimeoutError,
    SocketTimeoutError,
    WrongLoopError,
)
from kabench.agent.options import AgentOptions, refuse_response_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Unpack

    from kabench.agent.aio.response import StreamedResponse
    from kabench.agent.events import EventListener
    from kabench.agent.options import AgentOptionArguments
    from kabench.agent.tls import TlsOptions

_ERRORS: tuple[tuple[type[AgentError], type[httpx.TransportError]], ...] = (
    (ConnectTimeoutError, httpx.ConnectTimeout),
    (ConnectError, httpx.ConnectError),
    (SocketTimeoutError, httpx.ReadTimeout),
    (QueueTimeoutError, httpx.PoolTimeout),
    (AgentError, httpx.RemoteProtocolError),
)
"""Our errors, and httpx's for each; the first that fits is raised."""


def _as_httpx_raises(error: AgentError, request: httpx.Request) -> Exception:
    if isinstance(error, AgentClosedError | WrongLoopError):
        return error  # RuntimeErrors, as httpx's own are
    kind = next(theirs for ours, theirs in _ERRORS if isinstance(error, ours))
    return kind(str(error), request=request)


class AsyncKeepAliveTransport(httpx.AsyncBaseTransport):
    """A transport whose sockets an `AsyncKeepAliveAgent` keeps.

    client = httpx.AsyncClient(transport=AsyncKeepAliveTransport(max_sockets=50))

    Takes what `AsyncKeepAliveAgent` takes, `tls` included, since httpx's own (`verify`, `cert`) are for its own
    transport. httpx's `read` timeout is the activity timeout of each request; connecting and waiting for a socket have
    the agent's `connect_timeout` and `queue_timeout`. A response's `extensions["reused_socket"]` says whether its
    socket was reused.
    """

    def __init__(
        self,
        options: AgentOptions | None = None,
        *,
        tls: TlsOptions | None = None,
        on_event: EventListener | None = None,
        **given: Unpack[AgentOptionArguments],
    ) -> None:
        options = AgentOptions.chosen(options, given)
        refuse_response_limit(options)
        connect_timeout = options.effective_connect_timeout
        options = dataclasses.replace(options.in_place_of_a_library(), connect_timeout=connect_timeout)
        self.agent = AsyncKeepAliveAgent(options, tls=tls, on_event=on_event)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, for httpx. Raises httpx's errors, with ours as their causes."""
        timeout = request.extensions.get("timeout") or {}
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in request.headers.raw
            if name.lower() != b"transfer-encoding"  # the agent sets it by itself
        ]
        stream = request.stream
        if isinstance(stream, httpx.ByteStream):
            body: bytes | httpx.AsyncByteStream | None = b"".join(stream) or None
        elif isinstance(stream, httpx.AsyncByteStream):
            body = stream
        else:
            raise TypeError("the body of the request is for httpx.Client")
        opened = AsyncExitStack()
        read_s = timeout.get("read", self.agent.options.activity_timeout)
        try:
            response = await opened.enter_async_context(
                self.agent.stream(
                    request.method,
                    str(request.url),
                    headers=headers,
                    body=body,
                    timeout=0 if read_s is None else read_s,
                )
            )
        except AgentError as error:
            raise _as_httpx_raises(error, request) from error
        except ValueError as error:  # a scheme or a header that may not go on the wire
            raise httpx.LocalProtocolError(str(error), request=request) from error
        return httpx.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Stream(response, request, opened),
            extensions={
                "http_version": f"HTTP/{response.http_version}".encode("ascii"),
                "reason_phrase": response.reason.encode("latin-1"),
                "reused_socket": response.reused_socket,
            },
        )

    async def aclose(self) -> None:
        """Close all sockets."""
        await self.agent.close()


class _Stream(httpx.AsyncByteStream):
    """The body of a response, as httpx reads it."""

    def __init__(self, response: StreamedResponse, request: httpx.Request, opened: AsyncExitStack) -> None:
        self._response = response
        self._request = request
        self._opened = opened

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.aiter_bytes():
                yield piece
        except AgentError as error:
            raise _as_httpx_raises(error, self._request) from error

    async def aclose(self) -> None:
        await self._opened.aclose()
