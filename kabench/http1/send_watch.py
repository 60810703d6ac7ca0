"""`SendWatch`: notices a client that takes nothing more of what it is sent. No I/O, no clock."""

from __future__ import annotations

from math import inf


class SendWatch:
    """Times how long nothing moves. It is polled now and then; a slow client is fine as long as something moves."""

    __slots__ = ("_since", "_unsent_bytes")

    def __init__(self) -> None:
        self.moved()

    def moved(self) -> None:
        """Note that the client has taken something."""
        self._unsent_bytes = 0
        self._since = inf

    def stands_still_for_s(self, unsent_bytes: int, now: float) -> float:
        """Return for how many seconds nothing has moved; 0 if something has, or no `unsent_bytes` wait."""
        if unsent_bytes != self._unsent_bytes or not unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._since = now
        return now - self._since
