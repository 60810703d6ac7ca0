"""`ClientLimits`: how much one client may ask of a server before it is refused.

The defaults are generous to well-meaning clients. The times are those of Node.js' `server.headersTimeout` and
`server.requestTimeout`, and of nginx's `send_timeout`; 64 KiB is what the agent accepts of a response's head.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from kabench.system.limits import most_open_sockets


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits of a server's clients.

    Beyond `max_connections`, or the files that the system lets a process have, a new one is answered with 503.
    A head of more than `max_head_bytes` is answered with 431, one that takes longer than `head_timeout_s` with 408, and
    so is a request that is not whole after `request_timeout_s`. A body of more than `max_body_bytes` is answered with
    413, one for which there is no room in the `max_held_bytes` that the echo server has for all bodies with 503. All of
    these close the socket. A client that takes nothing of its response for `send_timeout_s` is cut off.

    Raises `ValueError` for a limit that is not finite and above 0.
    """

    max_connections: int = 10_000
    max_head_bytes: int = 65_536
    max_body_bytes: int = 64 * 1024 * 1024
    max_held_bytes: int = 1024 * 1024 * 1024
    head_timeout_s: float = 60.0
    request_timeout_s: float = 300.0
    send_timeout_s: float = 60.0

    UNLIMITED: ClassVar[int] = 1 << 62
    """A limit that no number of connections or bytes reaches."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if not (math.isfinite(value) and value > 0):
                name = each.name.removesuffix("_s").removesuffix("_bytes").replace("_", " ")
                raise ValueError(f"{name}: {value} is not a finite number above 0")

    def connections_for(self, files: int) -> int:
        """Return how many connections can be held, if each takes `files` open files."""
        most = most_open_sockets()
        return self.max_connections if most is None else max(1, min(self.max_connections, most // files))
