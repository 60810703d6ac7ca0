"""What a probe has found out about a server, and the agent's settings that follow from it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.agent.hints import KeepAliveHint
from kabench.probe.idle import ACCURACY, End

if TYPE_CHECKING:
    from kabench.probe.idle import IdleFinding

_HINTS_ARE_WHOLE_SECONDS_S = 0.5
_FIRST_FAILED_STATUS = 400


@dataclass(frozen=True, slots=True)
class CountFinding:
    """How many requests one socket carried.

    `closed`: the server closes it then, as it had announced (`announced`) or as a second socket confirmed. Otherwise a
    socket carries at least as many.
    """

    requests: int
    closed: bool
    announced: bool = False


@dataclass(frozen=True, slots=True)
class RaceFinding:
    """Requests that were sent within 50 ms before the server closes, or in that moment."""

    sent: int
    answered: int

    @property
    def lost(self) -> int:
        """Requests that were not answered."""
        return self.sent - self.answered


@dataclass(frozen=True, slots=True)
class TlsFinding:
    """The TLS of a server: its version, and whether a second socket resumed the session of the first."""

    version: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a probe found out. None: not tried, or not reached.

    `keeps_alive` False: the server closes after each response. Times in seconds.
    """

    url: str
    method: str
    status: int
    http_version: str
    server: str | None
    keeps_alive: bool
    response_time_s: float
    hint: KeepAliveHint | None
    idle: IdleFinding | None
    count: CountFinding | None
    race: RaceFinding | None
    tls: TlsFinding | None
    requests: int
    elapsed_s: float
    interrupted: bool = False

    @property
    def hint_is_true(self) -> bool | None:
        """Whether `Keep-Alive: timeout=` is the time that was measured; None: there is none, or it was not reached."""
        idle, hint = self.idle, self.hint
        if idle is None or hint is None or hint.timeout_s is None:
            return None
        if idle.timeout_s is None:
            return False if idle.low_s > hint.timeout_s * (1 + ACCURACY) + _HINTS_ARE_WHOLE_SECONDS_S else None
        return abs(idle.timeout_s - hint.timeout_s) <= max(ACCURACY * hint.timeout_s, _HINTS_ARE_WHOLE_SECONDS_S)

    @property
    def max_hint_is_true(self) -> bool | None:
        """Whether `Keep-Alive: max=` of the first response, which counts those after it, is true; None: as above."""
        count, hint = self.count, self.hint
        if count is None or hint is None or hint.max_requests is None:
            return None
        if not count.closed:
            return None if count.requests <= hint.max_requests + 1 else False
        return count.requests == hint.max_requests + 1


@dataclass(frozen=True, slots=True)
class Advice:
    """Settings for `AgentOptions`, by name, and why, a sentence each."""

    options: dict[str, float | int | bool]
    reasons: tuple[str, ...]


def advice_for(found: Findings) -> Advice:
    """Return the settings that fit a server."""
    if not found.keeps_alive:
        why = "The server closes each socket after one response, so there is nothing to keep."
        return Advice({"keep_alive": False}, (why, *_about_the_status(found)))
    options: dict[str, float | int | bool] = {}
    reasons: list[str] = []
    idle = found.idle
    if idle is not None and idle.low_s > 0:
        free_s = KeepAliveHint(idle.low_s).free_time_s or 0.0  # the margin is the same
        options["free_socket_timeout"] = _rounded_down(free_s)
        reasons.append(_why_so_long(idle))
    elif idle is not None and idle.high_s is not None:
        options["keep_alive"] = False
        reasons.append(f"No socket was alive after {seconds(idle.high_s)} or less, so there is nothing to keep.")
    if idle is not None and idle.end is End.SILENCE:
        reasons.append(
            "Nothing is seen when a socket is forgotten, so no client can notice it: only closing earlier helps. If a "
            "gateway on the way forgets, the agent's TCP keep-alive probes (on by default, keep_alive_delay) keep its "
            "entry alive; on a server's own idle timeout they have no effect."
        )
    count = found.count
    if count is not None and count.closed and not count.announced:
        options["max_requests_per_socket"] = count.requests
        reasons.append(f"The server closes a socket after {_requests(count.requests)} without a word.")
    elif count is not None and count.closed:
        reasons.append(
            f"After {_requests(count.requests)} the server says that it closes, which the agent obeys by itself."
        )
    if found.hint_is_true is False:
        reasons.append(_about_the_hint(found))
    if found.race is not None and found.race.lost:
        reasons.append(
            'A request that meets a socket being closed is lost: retry_stale (by default "safe") sends GET, HEAD, '
            "OPTIONS, TRACE and whatever has an Idempotency-Key again, others raise StaleSocketError."
        )
    return Advice(options, (*reasons, *_about_the_status(found)))


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def _about_the_status(found: Findings) -> tuple[str, ...]:
    if found.status < _FIRST_FAILED_STATUS:
        return ()
    return (f"The server answered {found.status}: it may do otherwise after other answers; name a URL that works.",)


def _why_so_long(idle: IdleFinding) -> str:
    if idle.timeout_s is None:
        return f"Sockets that were idle for {seconds(idle.low_s)} were still there; the budget ended before they did."
    return (
        f"The server gives up idle sockets after {seconds(idle.timeout_s)}; the agent closes them before, by 1 s or "
        "half of a shorter time."
    )


def _about_the_hint(found: Findings) -> str:
    hint = found.hint.timeout_s if found.hint is not None else None
    idle = found.idle
    if idle is not None and idle.timeout_s is not None and hint is not None and idle.timeout_s < hint:
        return f"The server announces {hint:g} s and closes earlier, so its word alone would lose requests."
    return f"The server announces {hint or 0:g} s and keeps sockets longer; the agent obeys it, which does no harm."


def _rounded_down(seconds_: float) -> float:
    """Round down to two digits, since people read settings."""
    if seconds_ <= 0:
        return 0.01
    digits = 1 - math.floor(math.log10(seconds_))
    unit = 10.0**-digits
    return round(math.floor(seconds_ / unit + 1e-9) * unit, 9)


def seconds(value: float) -> str:
    """Return a time as people write it."""
    return f"{value:.0f} s" if value >= 20 else f"{value:.2g} s" if value >= 1 else f"{value * 1000:.0f} ms"
