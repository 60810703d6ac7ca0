"""When to ask idle sockets whether they are alive, and what that says of the server's idle timeout. No I/O, no clock.

A server that closes idle sockets says so, and the time at which it does is the answer. One that forgets them without a
word (a NAT gateway, a firewall) has to be asked: a request on a socket that was idle for so long is answered, or not. A
socket can be asked once only, since that is no idling, so several are kept idle at the same time, and each is asked at
an age of its own. Where two neighbouring ages are further apart than the accuracy, a second set of sockets is kept idle
for ages in between. That takes as long again, so late ages, for which there is no time, are close to begin with.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from enum import StrEnum

ACCURACY = 0.05
"""Of the idle timeout that is found."""

_FINE_RATIO = 1 + 2 * ACCURACY
"""Between two ages: from the middle it is half of that to either."""

_SHARE_THAT_CAN_BE_REFINED = 0.45
"""Of the time: an age found dead before can be looked at once more, a little longer, in what is left."""

_SHORTEST_S = 0.5
_SHORTEST_SHARE = 50
_SOCKETS_BELOW_THE_SHORTEST = 15
"""To look where even the youngest was dead."""


class End(StrEnum):
    """How a server ends an idle socket."""

    FIN = "FIN"
    RST = "RST"
    SILENCE = "silence"
    """nothing is seen; a request on it is reset, or never answered"""


def ages_to_ask_at(longest_s: float, sockets: int) -> list[float]:
    """Ages, in seconds, at which to ask so many sockets, the last of them `longest_s`."""
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
    """So many ages strictly between two, each so many times the one before."""
    step = (high / low) ** (1 / (count + 1))
    return [low * step**number for number in range(1, count + 1)]


def ages_in_between(alive_s: float, dead_s: float, sockets: int) -> list[float]:
    """Ages to ask at between one that was alive (0: none) and one that was dead; none where they are close enough."""
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
        """An age at which a socket was alive, younger than any found dead."""
        limit = self.shortest_dead_s
        return max((age for age in self.alive if age < limit), default=0.0)

    @property
    def shortest_dead_s(self) -> float:
        """The youngest that was found dead."""
        return min((age for age, _ in self.dead), default=math.inf)

    def finding(self) -> IdleFinding:
        """What all of it says."""
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
    """The idle timeout: between `low_s` and `high_s` (None: longer than `low_s`), by so many sockets.

    `timeout_s` is what is most likely, None where the budget did not reach it. `is_reset_later`: a silently forgotten
    socket answers the next bytes with RST.
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
