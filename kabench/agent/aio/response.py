"""`Response` and `StreamedResponse`: the responses of the asyncio agents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from kabench.agent.errors import NotJsonError, StreamConsumedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from urllib3 import HTTPHeaderDict

    from kabench.agent.reader import ResponseHead

_SHOWN_CHARACTERS = 80


class BodySource(Protocol):
    """What a streamed response needs of its exchange."""

    reused_socket: bool
    first_sent_at: float

    async def next_piece(self) -> bytes:
        """Return the next piece of the body; empty at its end."""


class _Headed:
    """What every response has: its head, whether its socket was reused, and whether its request was sent again."""

    __slots__ = ("_head", "_headers", "retried", "reused_socket")

    def __init__(self, head: ResponseHead, *, reused_socket: bool, retried: bool) -> None:
        self._head = head
        self._headers: HTTPHeaderDict | None = None
        self.reused_socket = reused_socket
        self.retried = retried

    @property
    def status(self) -> int:
        """The status code."""
        return self._head.status

    @property
    def reason(self) -> str:
        """The reason phrase; often empty."""
        return self._head.reason

    @property
    def http_version(self) -> str:
        """`1.1` or `1.0`."""
        return self._head.http_version

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers as they came."""
        return self._head.raw_headers

    @property
    def headers(self) -> HTTPHeaderDict:
        """The headers. Several values of one header are joined by commas; `getlist` returns them one by one."""
        if self._headers is None:
            from urllib3 import HTTPHeaderDict  # 0.1 s of imports, only for those who look

            self._headers = HTTPHeaderDict(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in self._head.raw_headers
            )
        return self._headers


class Response(_Headed):
    """A whole response: `status`, `reason`, `headers` (urllib3's case-insensitive dict), `data` and `json()`.

    `reused_socket` says whether its socket had carried a request before, `retried` whether the request was sent twice
    because its first socket was stale.
    """

    __slots__ = ("data",)

    def __init__(self, head: ResponseHead, data: bytes, *, reused_socket: bool, retried: bool) -> None:
        self._head = head  # not through _Headed, which would be another call per request
        self._headers = None
        self.reused_socket = reused_socket
        self.retried = retried
        self.data = data

    def json(self) -> Any:  # a JSON document can be anything
        """Decode the body as JSON. Raises `NotJsonError` (a `ValueError`), which says what came instead."""
        try:
            return json.loads(self.data)
        except ValueError as error:
            shown = self.data.decode("utf-8", "replace")
            if len(shown) > _SHOWN_CHARACTERS:
                shown = shown[:_SHOWN_CHARACTERS] + "..."
            kind = self.headers.get("content-type", "no content type")
            raise NotJsonError(f"the body of the {self.status} response ({kind}) is no JSON: {shown!r}") from error

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.data)} bytes>"


class StreamedResponse(_Headed):
    """A response whose body is read as it comes; see `Response` for the rest.

    Its socket goes back to the pool once the body has been read to its end, and is closed if it is not.
    """

    __slots__ = ("_exchange", "_is_at_end", "_is_taken")

    def __init__(self, head: ResponseHead, exchange: BodySource) -> None:
        super().__init__(head, reused_socket=exchange.reused_socket, retried=exchange.first_sent_at > 0)
        self._exchange = exchange
        self._is_taken = self._is_at_end = False

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces, as they come off the wire; none is empty. It can be read once.

        Raises `StreamConsumedError`, and what `AsyncAgent.send` raises if the rest does not come.
        """
        if self._is_taken:
            raise StreamConsumedError("the body has been read already, or given up")
        self._is_taken = True
        while piece := await self._exchange.next_piece():
            yield piece
        self._is_at_end = True

    async def aread(self) -> bytes:
        """Return what has not been read of the body. Raises what `aiter_bytes` raises."""
        if self._is_at_end:
            raise StreamConsumedError("the body has been read already")
        pieces = []
        while piece := await self._exchange.next_piece():
            pieces.append(piece)
        self._is_taken = self._is_at_end = True
        return b"".join(pieces)

    def __repr__(self) -> str:
        return f"<StreamedResponse {self.status}>"
