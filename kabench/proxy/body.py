"""`ClientBody`: the body of a client's request, which is sent to the target as it comes.

What fits into one small buffer is waited for, since most bodies do, and is sent as one; of what does not, no more is
held than that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HELD_BYTES = 65_536


class ClientBody:
    """Pieces that come in on one side and go out on the other. `held_bytes` are in between.

    `takes_more` is called when there is room again.
    """

    def __init__(self, takes_more: Callable[[], None]) -> None:
        self._pieces: deque[bytes] = deque()
        self._takes_more = takes_more
        self._waiter: asyncio.Future[None] | None = None
        self.held_bytes = 0
        self.has_begun = False
        self.is_whole = False
        self.is_unwanted = False

    @property
    def is_full(self) -> bool:
        """Whether the next piece should wait."""
        return self.held_bytes >= HELD_BYTES and not self.is_unwanted

    def add(self, piece: bytes) -> None:
        """A piece has come in."""
        self.has_begun = True
        if not self.is_unwanted:
            self._pieces.append(piece)
            self.held_bytes += len(piece)
            self._wake()

    def end(self) -> None:
        """That was the last."""
        self.is_whole = True
        self._wake()

    def drop(self) -> None:
        """Nobody wants the rest: what still comes is passed over."""
        self.is_unwanted = True
        self._pieces.clear()
        self.held_bytes = 0
        self._takes_more()

    def whole(self) -> bytes:
        """All that has come."""
        return b"".join(self._pieces)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The pieces as they come, for an upload."""
        try:
            while True:
                while self._pieces:
                    piece = self._pieces.popleft()
                    self.held_bytes -= len(piece)
                    if not self.is_full:
                        self._takes_more()
                    yield piece
                if self.is_whole:
                    return
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        finally:
            if not self.is_whole:
                self.drop()
