"""`LoadExchange`: a request whose response is counted and not kept, so that large or endless bodies cost no memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kabench.agent.aio import Exchange

if TYPE_CHECKING:
    from kabench.agent.aio import PreparedRequest, ResponseHead
    from kabench.agent.reader import ResponseReader


class LoadExchange(Exchange):
    """An exchange of the load engine.

    `passed_bytes` is how much of the body came before its last piece and was let go. An exchange that `keeps_body`,
    because all of it is looked at, lets nothing go. `target` is the number of the target that it is sent to.
    """

    __slots__ = ("keeps_body", "passed_bytes", "target")

    watches = True

    def __init__(self, prepared: PreparedRequest, timeout: float) -> None:
        super().__init__(prepared, timeout)
        self.keeps_body = False
        self.passed_bytes = 0
        self.target = 0

    @property
    def was_sent(self) -> bool:
        """Whether the request has been sent, if only in part, since it was last started."""
        return self.sent_at >= self.started_at

    def reset(self) -> None:
        """Make the exchange as good as new, for its next request."""
        super().reset()
        self.passed_bytes = 0

    def progressed(self, head: ResponseHead, reader: ResponseReader) -> None:  # noqa: ARG002
        """Count the bytes that have come, and let them go."""
        if not self.keeps_body and not reader.complete:
            self.passed_bytes += sum(map(len, reader.pieces()))
