"""The `Keep-Alive` response header: what a server says about how long, and for how many requests, it keeps a socket.

The header is described in RFC 2068 section 19.7.1.1 and draft-thomson-hybi-http-timeout-03; servers send
`Keep-Alive: timeout=5, max=100`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_PARAMETER = re.compile(
    r"(?:^|[,;\s])(timeout|max)\s*=\s*\"?(\d{1,9}(?:\.\d{1,9})?)\"?\s*(?=[,;\s]|$)", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class KeepAliveHint:
    """The parameters of the header; None for one that is not there."""

    timeout_s: float | None = None
    max_requests: int | None = None

    @property
    def free_time_s(self) -> float | None:
        """Seconds a free socket may be kept: the server's timeout less a margin for the way to it.

        The margin is the smaller of 1 s and half the timeout: a request that leaves the client at the last moment
        must still arrive before the server closes.
        """
        if self.timeout_s is None:
            return None
        return self.timeout_s - min(1.0, self.timeout_s / 2)


@lru_cache(maxsize=256)  # a server says the same thing again and again
def parse_keep_alive(value: str) -> KeepAliveHint | None:
    """Return what a `Keep-Alive` header says; None if that is nothing. Values that are not numbers are ignored."""
    timeout_s: float | None = None
    max_requests: int | None = None
    for name, number in _PARAMETER.findall(value):
        if name.lower() == "timeout":
            timeout_s = float(number)
        else:
            max_requests = int(float(number))
    if timeout_s is None and max_requests is None:
        return None
    return KeepAliveHint(timeout_s, max_requests)
