"""`ClientBody`: the body of a client's request, which is sent to the target as it comes.

A body that fits into one small buffer, as most do, is read whole first and sent at once. Of a larger body, no more than
that buffer is held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HELD_BYTES = 65_536


class ClientBody:
    """The pieces of a body between client and target. `held_bytes` have come in and have not gone out.

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
        """Add a piece that has come in."""
        self.has_begun = True
        if not self.is_unwanted:
            self._pieces.append(piece)
            self.held_bytes += len(piece)
            self._wake()

    def end(self) -> None:
        """Note that the last piece has come in."""
        self.is_whole = True
        self._wake()

    def drop(self) -> None:
        """Drop the pieces, and ignore what still comes: the rest is not wanted."""
        self.is_unwanted = True
        self._pieces.clear()
        self.held_bytes = 0
        self._takes_more()

    def whole(self) -> bytes:
        """Return all pieces as one."""
        return b"".join(self._pieces)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces as they come, for an upload."""
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
