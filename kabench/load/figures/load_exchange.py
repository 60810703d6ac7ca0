"""`LoadExchange`: a request whose response is counted, and not kept: large bodies, or endless ones, cost no memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kabench.agent.aio import Exchange

if TYPE_CHECKING:
    from kabench.agent.aio import PreparedRequest, ResponseHead
    from kabench.agent.reader import ResponseReader


class LoadExchange(Exchange):
    """An exchange of the load engine.

    `passed_bytes` are those of the body that came before its last piece and were let go, unless it `keeps_body` because
    somebody looks at all of it.
    """

    __slots__ = ("keeps_body", "passed_bytes")

    watches = True

    def __init__(self, prepared: PreparedRequest, timeout: float) -> None:
        super().__init__(prepared, timeout)
        self.keeps_body = False
        self.passed_bytes = 0

    def reset(self) -> None:
        """Be as new."""
        super().reset()
        self.passed_bytes = 0

    def progressed(self, head: ResponseHead, reader: ResponseReader) -> None:  # noqa: ARG002
        """Count what has come, and let it go."""
        if not self.keeps_body and not reader.complete:
            self.passed_bytes += sum(map(len, reader.pieces()))
