"""When to ask idle sockets if they are alive, and what the answers say of the server's idle timeout. No I/O, no clock.

A server that closes idle sockets says so, and the time at which it does is the answer. One that forgets them without a
word (a NAT gateway, a firewall) has to be asked: a request on a socket that was idle for a time is answered, or not. A
socket can be asked only once, since the request ends its idling, so several are kept idle at the same time, and each is
asked at an age of its own. Where two neighbouring ages are further apart than the accuracy, a second set of sockets is
kept idle for ages in between. That takes as long again. Late ages leave no time for it, so they are close together from
the start.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from enum import StrEnum

ACCURACY = 0.05
"""The accuracy of the idle timeout that is found, as a share of it."""

_FINE_RATIO = 1 + 2 * ACCURACY
"""The ratio of two neighbouring ages: their middle is half of that away from either."""

_SHARE_THAT_CAN_BE_REFINED = 0.45
"""The share of the time in which a socket found dead leaves enough time for a second set of sockets."""

_SHORTEST_S = 0.5
_SHORTEST_SHARE = 50
_SOCKETS_BELOW_THE_SHORTEST = 15
"""The most sockets to ask at younger ages where even the youngest was dead."""


class End(StrEnum):
    """How a server ends an idle socket."""

    FIN = "FIN"
    RST = "RST"
    SILENCE = "silence"
    """nothing is seen; a request on it is reset, or never answered"""


def ages_to_ask_at(longest_s: float, sockets: int) -> list[float]:
    """Return ages, in seconds, at which to ask as many `sockets`, the last of them `longest_s`."""
    if sockets < 1:
        return []
    refinable_s = longest_s * _SHARE_THAT_CAN_BE_REFINED
    fine = math.ceil(math.log(longest_s / refinable_s) / math.log(_FINE_RATIO))
    shortest_s = min(_SHORTEST_S, longest_s / 2)
    if sockets < fine + 2 or refinable_s <= shortest_s:
        return _spread(shortest_s, longest_s, sockets)
    return [*_spread(shortest_s, refinable_s, sockets - fine), *_between(refinable_s, longest_s, fine - 1), longest_s]


def _spread(first: float, last: float, count: int) -> list[float]:
    return [last] if count == 1 else [first, *_between(first, last, count - 2), last]


def _between(low: float, high: float, count: int) -> list[float]:
    """Return `count` ages strictly between two, each older than the one before by the same factor."""
    step = (high / low) ** (1 / (count + 1))
    return [low * step**number for number in range(1, count + 1)]


def ages_in_between(alive_s: float, dead_s: float, sockets: int) -> list[float]:
    """Return ages to ask at between one found alive (0: none) and one found dead; none if they are close."""
    if alive_s <= 0:
        return _between(dead_s / _SHORTEST_SHARE, dead_s, min(sockets, _SOCKETS_BELOW_THE_SHORTEST))
    wanted = math.ceil(math.log(dead_s / alive_s) / math.log(_FINE_RATIO)) - 1
    return _between(alive_s, dead_s, min(wanted, sockets)) if wanted > 0 and sockets > 0 else []


@dataclass
class IdleObservations:
    """What was seen of idle sockets, in seconds of idling."""

    ended: list[tuple[float, End]] = field(default_factory=list)
    """closed by the server, when, and how"""
    alive: list[float] = field(default_factory=list)
    """asked, and answered"""
    dead: list[tuple[float, bool]] = field(default_factory=list)
    """asked, and not answered: reset if True, else silent"""

    @property
    def longest_alive_s(self) -> float:
        """The oldest age found alive, younger than any found dead; 0 if there is none."""
        limit = self.shortest_dead_s
        return max((age for age in self.alive if age < limit), default=0.0)

    @property
    def shortest_dead_s(self) -> float:
        """The youngest age found dead; infinite if there is none."""
        return min((age for age, _ in self.dead), default=math.inf)

    def finding(self) -> IdleFinding:
        """Return what all observations say together."""
        if self.ended:
            times = sorted(at for at, _ in self.ended)
            ends = [end for _, end in self.ended]
            return IdleFinding(
                times[0], times[-1], statistics.median(times), max(set(ends), key=ends.count), len(times)
            )
        low, high = self.longest_alive_s, self.shortest_dead_s
        if high == math.inf:
            return IdleFinding(low, None, None, None, len(self.alive))
        resets = [was_reset for _, was_reset in self.dead]
        middle = math.sqrt(low * high) if low else high / 2
        return IdleFinding(low, high, middle, End.SILENCE, len(self.dead), is_reset_later=any(resets))


@dataclass(frozen=True, slots=True)
class IdleFinding:
    """The idle timeout: between `low_s` and `high_s` (None: longer than `low_s`).

    `timeout_s` is the most likely value, None if the budget did not reach it. `sockets` is the number of sockets that
    showed this. `is_reset_later`: a silently forgotten socket answers the next bytes with RST.
    """

    low_s: float
    high_s: float | None
    timeout_s: float | None
    end: End | None
    sockets: int
    is_reset_later: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether it is known to 5 %."""
        if self.timeout_s is None or self.high_s is None:
            return False
        return self.high_s - self.low_s <= 2 * ACCURACY * self.timeout_s + 0.02
