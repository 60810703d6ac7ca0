"""Socket options that notice a silent peer: TCP keep-alive probes (AK-26) and the user timeout of TCP."""

from __future__ import annotations

import socket

_LONGEST_KEEP_IDLE_S = 32_767
"""The most that Linux accepts (tcp(7), MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL); it counts in whole seconds."""

_PROBES = 10
"""Unanswered probes after which the system gives a socket up, as in Node (libuv's uv_tcp_keepalive)."""

_KEEP_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_KEEP_INTERVAL = getattr(socket, "TCP_KEEPINTVL", None)
_KEEP_COUNT = getattr(socket, "TCP_KEEPCNT", None)
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)


def probe_options(delay_s: float) -> list[tuple[int, int, int]]:
    """Return socket options (level, name, value) for TCP keep-alive probes after every `delay_s` idle seconds.

    The time between probes matters as much as the first: a gateway forgets a socket that is idle for longer than it
    allows, and Linux's own interval is 75 s.
    """
    seconds = min(max(1, round(delay_s)), _LONGEST_KEEP_IDLE_S)
    named = ((_KEEP_IDLE, seconds), (_KEEP_INTERVAL, seconds), (_KEEP_COUNT, _PROBES))
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, name, value) for name, value in named if name is not None),
    ]


def set_user_timeout(sock: socket.socket, seconds: float) -> None:
    """Make the system give up a socket whose data stays unacknowledged for `seconds`, where it has that option."""
    if _USER_TIMEOUT is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, max(1, round(seconds * 1000)))
