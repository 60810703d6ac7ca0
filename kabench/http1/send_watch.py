"""`SendWatch`: notices a client who takes nothing more of what he is sent. No I/O, no clock."""

from __future__ import annotations

from math import inf


class SendWatch:
    """Looked at now and then; a slow client is fine as long as something moves."""

    __slots__ = ("_since", "_unsent_bytes")

    def __init__(self) -> None:
        self.moved()

    def moved(self) -> None:
        """He has taken something."""
        self._unsent_bytes = 0
        self._since = inf

    def stands_still_for_s(self, unsent_bytes: int, now: float) -> float:
        """For how long nothing has moved, where so much is still to be sent; 0 where something has, or nothing is."""
        if unsent_bytes != self._unsent_bytes or not unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._since = now
        return now - self._since
