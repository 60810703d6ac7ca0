"""Faults: what the server does wrong on purpose, and to which requests and sockets. No I/O.

A seed decides which requests a fault hits, in the order in which they arrive, and which sockets, in the order in which
they are accepted. So the n-th request of a server meets the same fault whenever a run is repeated with its seed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class FaultKind(StrEnum):
    """The kind of a fault."""

    RESET = "reset"
    """RST instead of the response"""
    CLOSE_MID_BODY = "close-mid-body"
    """the socket is closed in the middle of the response"""
    GARBAGE = "garbage"
    """something that is no HTTP response, then the socket is closed"""
    EXTRA_BYTES = "extra-bytes"
    """a second response, which nobody asked for, right behind the first"""
    NO_LENGTH = "no-length"
    """a correct response without a length: it ends with the connection (RFC 9112 section 6.3)"""
    SLOW_BODY = "slow-body"
    """the body comes in pieces over a time"""
    STALL = "stall"
    """the response is held back, for a time or until a stall of the whole server is over"""
    CLOSE_IDLE = "close-idle"
    """a socket that has been idle for a time is closed, unannounced"""
    DROP_IDLE = "drop-idle"
    """such a socket is forgotten: nothing happens until the next bytes come, which get RST, as a NAT gateway does"""
    REFUSE = "refuse"
    """a new socket is reset at once, or none can be opened for a time"""


FAULT_KINDS = tuple(FaultKind)
FAULT_NUMBERS = {kind: number for number, kind in enumerate(FAULT_KINDS)}

OF_REQUESTS = frozenset({
    FaultKind.RESET,
    FaultKind.CLOSE_MID_BODY,
    FaultKind.GARBAGE,
    FaultKind.EXTRA_BYTES,
    FaultKind.NO_LENGTH,
    FaultKind.SLOW_BODY,
    FaultKind.STALL,
})  # fmt: skip
"""The others are faults of sockets."""

WITH_TIME = frozenset({FaultKind.SLOW_BODY, FaultKind.STALL, FaultKind.CLOSE_IDLE, FaultKind.DROP_IDLE})
IN_PERIODS = frozenset({FaultKind.STALL, FaultKind.REFUSE})


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and how often it happens. Times in seconds.

    It hits `rate` of the requests, or of the sockets. With a `period_s` it hits all of them, for the last `duration_s`
    of each period.

    Raises `ValueError` for what makes no sense.
    """

    kind: FaultKind
    rate: float = 1.0
    duration_s: float = 0.0
    period_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"{self.kind}: a rate of {self.rate:g} is not above 0 and at most 1")
        if not (math.isfinite(self.duration_s) and self.duration_s >= 0):
            raise ValueError(f"{self.kind}: {self.duration_s} s is not a finite, non-negative time")
        if self.kind in WITH_TIME and not self.duration_s:
            raise ValueError(f"{self.kind}: it takes a time above 0")
        if self.period_s and not 0 < self.duration_s < self.period_s:
            raise ValueError(f"{self.kind}: {self.duration_s:g} s is not shorter than each {self.period_s:g} s")

    def held_until(self, at: float, zero: float) -> float:
        """Return when something that is due at `at` can happen: at once, or once this fault's time is over.

        Periods begin at `zero`.
        """
        into_period = (at - zero) % self.period_s
        if into_period < self.period_s - self.duration_s:
            return at
        return at + self.period_s - into_period


def check_rates(faults: Sequence[Fault]) -> None:
    """Raise `ValueError` where faults of requests hit more requests than there are."""
    total = sum(fault.rate for fault in faults if fault.kind in OF_REQUESTS and not fault.period_s)
    if total > 1 + 1e-9:
        raise ValueError(f"the faults hit {total:.0%} of the requests; one request meets one fault at most")


class RequestChance:
    """Draws the fault that the next request meets; most of the time, none."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        drawn = [fault for fault in faults if fault.kind in OF_REQUESTS and not fault.period_s]
        self._limits = list(zip(accumulate(fault.rate for fault in drawn), drawn, strict=True))
        self._random = random.Random(f"requests {seed}").random  # noqa: S311  # to be repeated, not to be secret

    def next(self) -> Fault | None:
        """Draw the fault of the next request."""
        at = self._random()
        for limit, fault in self._limits:
            if at < limit:
                return fault
        return None


class SocketChance:
    """Draws the faults of the next socket, each by itself."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self._faults = [fault for fault in faults if fault.kind not in OF_REQUESTS and not fault.period_s]
        self._random = random.Random(f"sockets {seed}").random  # noqa: S311  # to be repeated, not to be secret

    def next(self) -> dict[FaultKind, Fault]:
        """Draw the faults of the next socket."""
        return {fault.kind: fault for fault in self._faults if self._random() < fault.rate}


GARBAGE = (
    b"\x00\x15\x03\x01 no HTTP at all\r\n\r\n",
    b"HTTP/9.7 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
)
"""What is sent instead of a response; one of them is drawn each time."""

EXTRA_BYTES = b"HTTP/1.1 200 OK\r\nContent-Length: 23\r\nX-Wrong: yes\r\n\r\nnobody asked for this.."
"""What is sent behind a response: a client that takes it for the next one gets a wrong answer."""
