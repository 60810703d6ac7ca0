"""`RequestWatch`: notices a client whose request does not get whole. No I/O, no clock."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kabench.http1.client_limits import ClientLimits
    from kabench.http1.requests import RequestParser


class RequestWatch:
    """Looked at now and then; a request's time begins with the first look at it."""

    __slots__ = ("_begun", "_limits", "_since")

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._begun = 0
        self._since = inf

    def too_slow_s(self, reader: RequestParser, now: float, *, is_read_from: bool) -> float | None:
        """How long the request that is being read has taken, if that is too long.

        While the client is not read from, no time passes for him.
        """
        if reader.at_boundary:
            return None
        if reader.begun != self._begun or not is_read_from:
            self._begun = reader.begun
            self._since = now
        passed_s = now - self._since
        is_slow_head = reader.in_head and passed_s > self._limits.head_timeout_s
        return passed_s if is_slow_head or passed_s > self._limits.request_timeout_s else None
