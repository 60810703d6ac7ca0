"""`Exchange`: one request on its way through an agent, and what becomes of it.

The agent calls `succeeded` or `failed` exactly once, from inside the event loop. `FutureExchange` is the one behind
`await agent.send()`. A load generator that cannot afford a future and a task step a request subclasses `Exchange` and
sends the same object again and again.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from kabench.agent.aio.response import Response
from kabench.agent.book import BookedRequest

if TYPE_CHECKING:
    import asyncio

    from kabench.agent.aio.connection import Connection
    from kabench.agent.aio.reader import ResponseHead
    from kabench.agent.aio.request import PreparedRequest
    from kabench.agent.book import BookedSocket


class Exchange(BookedRequest):
    """A request under way.

    Its times are seconds of the agent's clock (`time.perf_counter`): `started_at` when the agent was asked,
    `opening_at` when a new socket was begun for it (0.0: it went out on one that was there), `sent_at` when it was
    written, `first_byte_at` when the response began. `first_sent_at` is not 0.0 if it had to be sent again on a fresh
    socket, and is when it was sent first. `reused_socket` says whether its socket has carried a request before.
    """

    __slots__ = (
        "booked",
        "first_byte_at",
        "first_sent_at",
        "opening_at",
        "prepared",
        "reused_socket",
        "sent_at",
        "started_at",
    )

    def __init__(self, prepared: PreparedRequest, timeout: float) -> None:
        super().__init__(prepared.origin_key, timeout or inf)
        self.prepared = prepared
        self.booked: BookedSocket[Connection, Exchange] | None = None
        self.reused_socket = False
        self.started_at = self.opening_at = self.sent_at = self.first_byte_at = self.first_sent_at = 0.0

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """The response is whole."""
        raise NotImplementedError

    def failed(self, error: Exception, now: float) -> None:
        """There will be no response."""
        raise NotImplementedError


class FutureExchange(Exchange):
    """An exchange that somebody awaits."""

    __slots__ = ("future",)

    def __init__(self, prepared: PreparedRequest, timeout: float, future: asyncio.Future[Response]) -> None:
        super().__init__(prepared, timeout)
        self.future = future

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:  # noqa: ARG002
        """Give the response to the one who awaits."""
        if not self.future.done():
            self.future.set_result(
                Response(head, body, reused_socket=self.reused_socket, retried=self.first_sent_at > 0)
            )

    def failed(self, error: Exception, now: float) -> None:  # noqa: ARG002
        """Raise the error where it is awaited."""
        if not self.future.done():
            self.future.set_exception(error)
