"""Closing a socket with RST, which tells the other side that what it has got is not all."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_LINGER_NOT = struct.pack("ii", 1, 0)
"""Makes a close send RST (socket(7), SO_LINGER)."""


def reset(transport: asyncio.Transport) -> None:
    """Close with RST; what was not sent yet is dropped."""
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()
