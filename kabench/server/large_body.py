"""`LargeBody`: a body that is sent in pieces, as its client takes it; one that is only filler takes no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SENT_AT_ONCE_BYTES = 262_144
"""A body up to this size is none: it is sent at once."""

_PIECE_BYTES = 65_536
FILLER = b"x" * SENT_AT_ONCE_BYTES


@dataclass(frozen=True, slots=True)
class LargeBody:
    """So many bytes: those of `data`, or filler; in chunks or not."""

    size_bytes: int
    is_chunked: bool
    data: bytes | None = None

    @property
    def held_bytes(self) -> int:
        """How much memory it takes."""
        return 0 if self.data is None else self.size_bytes

    def pieces(self) -> Iterator[bytes]:
        """All of it, as it is written."""
        for begin in range(0, self.size_bytes, _PIECE_BYTES):
            length = min(_PIECE_BYTES, self.size_bytes - begin)
            piece = FILLER[:length] if self.data is None else self.data[begin : begin + length]
            yield b"%x\r\n%b\r\n" % (length, piece) if self.is_chunked else piece
        if self.is_chunked:
            yield b"0\r\n\r\n"
