"""`ProxyExchange`: a client's request on its way to the target; the response goes to the client as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kabench.agent.aio import Exchange

if TYPE_CHECKING:
    from kabench.agent.aio import PreparedRequest, ResponseHead
    from kabench.agent.aio.exchange import Carrier
    from kabench.agent.aio.upload import Upload
    from kabench.agent.reader import ResponseReader


class Client(Protocol):
    """The receiver of a response."""

    def whole_response(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Take a response that came in one piece."""

    def response_began(self, head: ResponseHead) -> None:
        """Take the head of a response that comes in pieces."""

    def response_piece(self, piece: bytes) -> bool:
        """Take a piece of its body; return whether the next is wanted already."""

    def response_ended(self, now: float) -> None:
        """Take the end of the response."""

    def response_failed(self, error: Exception, *, has_begun: bool) -> None:
        """Take the error: there is no response, or no more of it."""


class ProxyExchange(Exchange):
    """Passes a response on, and reads no more of it from the target than the client takes."""

    __slots__ = ("_client", "_has_begun", "upload")

    watches = True

    def __init__(self, client: Client, prepared: PreparedRequest, timeout: float, upload: Upload | None = None) -> None:
        super().__init__(prepared, timeout)
        self._client = client
        self._has_begun = False
        self.upload = upload

    def reset(self) -> None:
        """Reset it for its next request."""
        super().reset()
        self._has_begun = False

    def progressed(self, head: ResponseHead, reader: ResponseReader) -> None:
        """Pass on what has come."""
        if not self._has_begun:
            if reader.complete:
                return  # `succeeded` has all of it
            self._has_begun = True
            self._client.response_began(head)
        if not self._client.response_piece(reader.body()) and not reader.complete:
            connection = self._connection
            if connection is not None:
                connection.pause_reading()

    def client_takes_more(self) -> None:
        """Go on reading from the target."""
        connection = self._connection
        if connection is not None:
            connection.resume_reading()

    @property
    def _connection(self) -> Carrier | None:
        """The connection, as long as it carries this request."""
        booked = self.booked
        return booked.handle if booked is not None and booked.request is self else None

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Pass on the whole response, or the end of one."""
        if not self._has_begun:
            self._client.whole_response(head, body, now)
            return
        self._client.response_piece(body)
        self._client.response_ended(now)

    def failed(self, error: Exception, now: float) -> None:  # noqa: ARG002
        """Pass on the error."""
        self._client.response_failed(error, has_begun=self._has_begun)
