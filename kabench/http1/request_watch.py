"""`RequestWatch`: notices a client whose request takes too long to come. No I/O, no clock."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kabench.http1.client_limits import ClientLimits
    from kabench.http1.requests import RequestParser


class RequestWatch:
    """Times the request that is being read. It is polled now and then; a request's time begins with its first poll."""

    __slots__ = ("_begun", "_limits", "_since")

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._begun = 0
        self._since = inf

    def too_slow_s(self, reader: RequestParser, now: float, *, is_read_from: bool) -> float | None:
        """Return how many seconds the request that is being read has taken, if that is too long.

        No time passes while the client is not read from.
        """
        if reader.at_boundary:
            return None
        if reader.begun != self._begun or not is_read_from:
            self._begun = reader.begun
            self._since = now
        passed_s = now - self._since
        is_slow_head = reader.in_head and passed_s > self._limits.head_timeout_s
        return passed_s if is_slow_head or passed_s > self._limits.request_timeout_s else None
