"""`AgentOptions`: every knob of an agent, checked once, durations in seconds.

The defaults are agentkeepalive's, because they were found in years of production; each says why it is what it is.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

Duration: TypeAlias = float | timedelta | str
"""Seconds as a number, a `timedelta`, or text such as `"4s"`, `"500ms"`, `"1.5m"`."""

Scheduling: TypeAlias = Literal["lifo", "fifo"]
RetryStale: TypeAlias = Literal["safe", "idempotent", False]

_LEAST_ACTIVITY_TIMEOUT_S = 8.0
DROP_IN_USER_TIMEOUT_S = 30.0
"""What threads and adapters without a `timeout` tell the system. A peer that lives acknowledges within milliseconds;
half a minute outlasts a link that is down for a moment."""

_SECONDS_PER_UNIT: Mapping[str, float] = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_TEXT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h|)", re.ASCII)


def parse_duration(value: object) -> float:
    """Turn a `Duration` into seconds.

    Raises `TypeError` for another type and `ValueError` for text that is none, or a negative or infinite one.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        match = _DURATION_TEXT.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is no duration (try '250ms', '5s', '1.5m' or plain seconds)")
        seconds = float(match[1]) * _SECONDS_PER_UNIT[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise TypeError(f"{value!r} is no duration (seconds, a timedelta, or text such as '5s')")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{value!r} is not a finite, non-negative duration")
    return seconds


def _optional_duration(value: object) -> float | None:
    return None if value is None else parse_duration(value)


def _optional_limit(value: object) -> int | None:
    return None if value is None else _limit(value)


def parse_limit(name: str, value: object) -> int | None:
    """Check a limit that is no option: None or a whole number above 0. Raises `TypeError` and `ValueError` by name."""
    try:
        return _optional_limit(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def refuse_response_limit(options: AgentOptions) -> None:
    """For adapters to libraries that read bodies by themselves. Raises `ValueError` where a limit is asked for."""
    if options.max_response_bytes is not None:
        raise ValueError(
            "max_response_bytes: the library above the agent reads the bodies, so the agent cannot limit them"
        )


def _limit(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    if value < 1:
        raise ValueError(f"{value!r} is below 1")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    if value < 0:
        raise ValueError(f"{value!r} is below 0")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither True nor False")
    return value


def _scheduling(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is neither 'lifo' nor 'fifo'")
    if value not in ("lifo", "fifo"):
        raise ValueError(f"{value!r} is neither 'lifo' nor 'fifo'")
    return value


def _retry_stale(value: object) -> RetryStale:
    if value is True or value == "idempotent":  # True is what "idempotent" was called before there was "safe"
        return "idempotent"
    if value is False or value is None:
        return False
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is neither 'safe' nor 'idempotent' nor False")
    if value != "safe":
        raise ValueError(f"{value!r} is neither 'safe' nor 'idempotent' nor False")
    return "safe"


def _checked_by(check: Callable[[object], object]) -> dict[str, object]:
    return {"check": check}


_DURATION = _checked_by(parse_duration)
_OPTIONAL_DURATION = _checked_by(_optional_duration)
_LIMIT = _checked_by(_limit)
_OPTIONAL_LIMIT = _checked_by(_optional_limit)
_COUNT = _checked_by(_count)
_FLAG = _checked_by(_flag)


class AgentOptionArguments(TypedDict, total=False):
    """The keyword arguments of `AgentOptions` and of every agent."""

    keep_alive: bool
    keep_alive_delay: Duration
    free_socket_timeout: Duration
    timeout: Duration | None
    max_sockets: int | None
    max_free_sockets: int
    socket_active_ttl: Duration | None
    max_total_sockets: int | None
    scheduling: Scheduling
    max_cached_sessions: int
    no_delay: bool
    connect_timeout: Duration | None
    hand_off: bool
    queue_timeout: Duration | None
    max_requests_per_socket: int | None
    respect_hints: bool
    retry_stale: RetryStale | bool
    max_response_bytes: int | None
    tcp_user_timeout: Duration | None


@dataclass(frozen=True, slots=True, init=False)
class AgentOptions:
    """The options of an agent; durations are kept in seconds.

    Raises `TypeError` for an unknown name or a wrong type and `ValueError` for a value out of range; both name the
    option and the value.
    """

    keep_alive: bool = field(default=True, metadata=_FLAG)
    """Pool sockets. False: one request a socket, `Connection: close`."""

    keep_alive_delay: float = field(default=1.0, metadata=_DURATION)
    """Idle seconds before the first TCP keep-alive probe, and between probes; Node's default."""

    free_socket_timeout: float = field(default=4.0, metadata=_DURATION)
    """Seconds a free socket is kept; 0 keeps it. 4, because the servers with the shortest wait (Node, uvicorn) close
    at 5, and the client must be the one that closes first."""

    timeout: float | None = field(default=None, metadata=_OPTIONAL_DURATION)
    """Seconds without a byte after which an active socket is closed; 0 turns it off. None: not given, which is
    `activity_timeout` on asyncio, and no limit in threads and adapters, as in the libraries they replace."""

    max_sockets: int | None = field(default=None, metadata=_OPTIONAL_LIMIT)
    """Sockets per origin."""

    max_free_sockets: int = field(default=256, metadata=_LIMIT)
    """Free sockets per origin; Node's default."""

    socket_active_ttl: float | None = field(default=None, metadata=_OPTIONAL_DURATION)
    """Age in seconds past which a socket carries no further request, so that clients follow a changed name or a new
    server behind a balancer; 0 and None: no limit."""

    max_total_sockets: int | None = field(default=None, metadata=_OPTIONAL_LIMIT)
    """Sockets over all origins."""

    scheduling: Scheduling = field(default="lifo", metadata=_checked_by(_scheduling))
    """Which free socket is taken: `lifo` the one freed last, which the server is least likely to have closed."""

    max_cached_sessions: int = field(default=100, metadata=_COUNT)
    """TLS sessions kept for resumption; 0 keeps none."""

    no_delay: bool = field(default=True, metadata=_FLAG)
    """TCP_NODELAY: send small requests at once."""

    connect_timeout: float | None = field(default=None, metadata=_OPTIONAL_DURATION)
    """Seconds for name, TCP and TLS together; None: as the timeout of an active socket; 0 turns it off."""

    hand_off: bool = field(default=False, metadata=_FLAG)
    """Only with `keep_alive=False`: give a socket to a pending request if there is one, else close it."""

    queue_timeout: float | None = field(default=None, metadata=_OPTIONAL_DURATION)
    """Seconds a pending request waits for a socket; 0 and None: as long as it takes."""

    max_requests_per_socket: int | None = field(default=None, metadata=_OPTIONAL_LIMIT)
    """Requests a socket carries before it is closed."""

    respect_hints: bool = field(default=True, metadata=_FLAG)
    """Obey the server's `Keep-Alive` header."""

    retry_stale: RetryStale = field(default="safe", metadata=_checked_by(_retry_stale))
    """Which requests are sent again, once, when their reused socket died before the first byte of a response. `safe`:
    GET, HEAD, OPTIONS, TRACE and whatever carries an `Idempotency-Key`, because real services append with PUT and
    create with PUT. `idempotent`, or True: PUT and DELETE too. False: none."""

    max_response_bytes: int | None = field(default=None, metadata=_OPTIONAL_LIMIT)
    """Bytes of a body that a request reads into memory; more is an error, and closes the socket. A streamed response
    has no such limit."""

    tcp_user_timeout: float | None = field(default=None, metadata=_OPTIONAL_DURATION)
    """Seconds that sent data may stay unacknowledged before the system gives the socket up (TCP_USER_TIMEOUT, where
    it has that); never less than a request's own timeout; 0 leaves it to the system. None: 30 in threads and adapters
    without a `timeout`, so that a silent gateway costs no quarter of an hour, else as 0."""

    def __init__(self, **given: Unpack[AgentOptionArguments]) -> None:
        arguments: dict[str, object] = dict(given)
        for option in dataclasses.fields(self):
            value = arguments.pop(option.name, option.default)
            try:
                value = option.metadata["check"](value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{option.name}: {error}") from None
            object.__setattr__(self, option.name, value)
        for name, value in arguments.items():
            raise TypeError(f"{name}={value!r}: there is no such option of an agent")
        if self.hand_off and self.keep_alive:
            raise ValueError("hand_off: True goes only with keep_alive=False")

    @classmethod
    def chosen(cls, options: AgentOptions | None, given: Mapping[str, Any]) -> AgentOptions:
        """The options of an agent that takes them as one thing or by name. Raises `TypeError` for both."""
        if options is None:
            return cls(**given)
        if given:
            raise TypeError(f"options come as an AgentOptions or by name, not both ({', '.join(given)})")
        return options

    @property
    def activity_timeout(self) -> float:
        """`timeout` in seconds, or where it is None what the asyncio agents take: twice the free timeout, at least 8.

        So an active socket is never less patient than a free one. 0 is none.
        """
        return max(2 * self.free_socket_timeout, _LEAST_ACTIVITY_TIMEOUT_S) if self.timeout is None else self.timeout

    @property
    def effective_connect_timeout(self) -> float:
        """`connect_timeout` in seconds, or `activity_timeout` where it is None; 0 is none."""
        return self.activity_timeout if self.connect_timeout is None else self.connect_timeout

    def in_place_of_a_library(self) -> AgentOptions:
        """These options for an agent that replaces a library without limits of its own.

        It makes no request fail that the library would have answered: what was not given is no limit. A silent peer is
        noticed by `tcp_user_timeout` instead, which cuts off nobody who is only slow.
        """
        if self.timeout is not None:
            return self
        user_timeout = DROP_IN_USER_TIMEOUT_S if self.tcp_user_timeout is None else self.tcp_user_timeout
        return dataclasses.replace(self, timeout=0, tcp_user_timeout=user_timeout)
