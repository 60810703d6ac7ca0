"""`LargeBody`: a body that is sent in pieces, as its client takes it; one that is only filler takes no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_AT_ONCE_BYTES = 65_536
MOST_FILLER_AT_ONCE_BYTES = 4096
"""Bodies up to these sizes are not large: they are part of their answer, which may wait among many others."""

_PIECE_BYTES = 65_536
_CHUNK_BYTES = 4096
LAST_CHUNK = b"0\r\n\r\n"
FILLER = b"x" * _PIECE_BYTES


def in_chunks(data: bytes) -> bytes:
    """Return data as it is sent in chunks, without the last, empty one."""
    chunks = [data[begin : begin + _CHUNK_BYTES] for begin in range(0, len(data), _CHUNK_BYTES)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


@dataclass(frozen=True, slots=True)
class LargeBody:
    """A body of `size_bytes` bytes: those of `data`, or filler; in chunks or not."""

    size_bytes: int
    is_chunked: bool
    data: bytes | None = None

    @property
    def held_bytes(self) -> int:
        """The memory that it takes, in bytes."""
        return 0 if self.data is None else self.size_bytes

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, in the pieces that are written."""
        for begin in range(0, self.size_bytes, _PIECE_BYTES):
            length = min(_PIECE_BYTES, self.size_bytes - begin)
            piece = FILLER[:length] if self.data is None else self.data[begin : begin + length]
            yield in_chunks(piece) if self.is_chunked else piece
        if self.is_chunked:
            yield LAST_CHUNK
