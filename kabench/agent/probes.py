"""TCP keep-alive probes: the socket options that a pooled socket is given (AK-26)."""

from __future__ import annotations

import socket

_LONGEST_KEEP_IDLE_S = 32_767
"""What Linux takes (tcp(7), MAX_TCP_KEEPIDLE); it counts in whole seconds."""

_KEEP_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))


def probe_options(delay_s: float) -> list[tuple[int, int, int]]:
    """Options (level, name, value) that turn probes on, the first after `delay_s` idle seconds."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if _KEEP_IDLE is not None:
        idle_s = min(max(1, round(delay_s)), _LONGEST_KEEP_IDLE_S)
        options.append((socket.IPPROTO_TCP, _KEEP_IDLE, idle_s))
    return options
