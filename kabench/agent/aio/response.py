"""`Response`: what a request comes back with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from urllib3 import HTTPHeaderDict

    from kabench.agent.aio.reader import ResponseHead


class Response:
    """A whole response: `status`, `reason`, `headers` (urllib3's case-insensitive dict), `data` and `json()`.

    `reused_socket` says whether its socket had carried a request before, `retried` whether the request was sent twice
    because its first socket was stale.
    """

    __slots__ = ("_head", "_headers", "data", "retried", "reused_socket")

    def __init__(self, head: ResponseHead, data: bytes, *, reused_socket: bool, retried: bool) -> None:
        self._head = head
        self._headers: HTTPHeaderDict | None = None
        self.data = data
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
    def headers(self) -> HTTPHeaderDict:
        """The headers; the values of one that came several times are joined by a comma, `getlist` has them apart."""
        if self._headers is None:
            from urllib3 import HTTPHeaderDict  # 0.1 s of imports, only for those who look

            self._headers = HTTPHeaderDict(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in self._head.raw_headers
            )
        return self._headers

    def json(self) -> Any:  # a JSON document can be anything
        """Decode the body as JSON. Raises `ValueError` where it is none."""
        return json.loads(self.data)

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.data)} bytes>"
