"""`AgentOptions`: every option of an agent, checked once, durations in seconds.

The defaults are agentkeepalive's, because they were found in years of production, or Node's; the docstring of an option
says why its default is what it is, where that can surprise.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
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
"""`tcp_user_timeout` of threaded agents and adapters that are given no `timeout`. A live peer acknowledges within
milliseconds; half a minute outlasts a link that is down for a moment."""

_SECONDS_PER_UNIT: Mapping[str, float] = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_TEXT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h|)", re.ASCII)


def parse_duration(value: object) -> float:
    """Return a `Duration` in seconds.

    Raises `TypeError` for another type, and `ValueError` for other text and for a negative or infinite duration.
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


def _optional_limit(value: object) -> int | None:
    return None if value is None else _limit(value)


def parse_limit(name: str, value: object) -> int | None:
    """Return a limit that is None or a whole number above 0. Raises `TypeError` and `ValueError`, both with `name`."""
    try:
        return _optional_limit(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def refuse_response_limit(options: AgentOptions) -> None:
    """Raise `ValueError` for a `max_response_bytes`, which an adapter to a library that reads bodies cannot keep."""
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
    if value is False or value is None or value == "never":  # "never" is what text can say
        return False
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is neither 'safe' nor 'idempotent' nor False")
    if value != "safe":
        raise ValueError(f"{value!r} is neither 'safe' nor 'idempotent' nor False ('never')")
    return "safe"


class OptionKind(Enum):
    """The kind of value that an option takes."""

    DURATION = "duration"
    LIMIT = "limit"
    """a whole number above 0"""
    COUNT = "count"
    """a whole number, 0 or above"""
    FLAG = "flag"
    CHOICE = "choice"


_CHECKS: Mapping[OptionKind, Callable[[object], object]] = {
    OptionKind.DURATION: parse_duration,
    OptionKind.LIMIT: _limit,
    OptionKind.COUNT: _count,
    OptionKind.FLAG: _flag,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """The description of an option, beyond its type and its default.

    `help` is its help text on a command line, and `flag` its name there; an option without `help` is not offered there.
    `is_shared`: where several agents make one load, each gets a part of the limit, and the parts add up. `is_common`:
    clients of other libraries have it too; a load that sets another option is refused to them. `called` is its name in
    errors.
    """

    kind: OptionKind
    check: Callable[[object], object]
    help: str
    flag: str
    is_optional: bool
    is_shared: bool
    is_common: bool
    called: str
    choices: tuple[str, ...]


def _option(
    kind: OptionKind,
    help: str = "",  # noqa: A002  # the word that command lines have for it
    *,
    flag: str | None = None,
    is_common: bool,
    is_optional: bool = False,
    is_shared: bool | None = None,
    called: str = "",
    check: Callable[[object], object] | None = None,
    choices: tuple[str, ...] = (),
) -> dict[str, Option]:
    """Return the metadata of a field. `is_shared` is given for a limit and a count, and for no other kind."""
    if (is_shared is None) != (kind not in (OptionKind.LIMIT, OptionKind.COUNT)):
        raise TypeError("is_shared: give it for limits and counts, and for nothing else")
    option = Option(
        kind=kind,
        check=check or _CHECKS[kind],
        help=help,
        flag=flag or "",
        is_optional=is_optional,
        is_shared=bool(is_shared),
        is_common=is_common,
        called=called,
        choices=choices,
    )
    return {"option": option}


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

    keep_alive: bool = field(default=True, metadata=_option(OptionKind.FLAG, is_common=False))
    """Pool sockets. False: one request per socket, `Connection: close`."""

    keep_alive_delay: float = field(
        default=1.0,
        metadata=_option(
            OptionKind.DURATION, "Send a TCP keep-alive probe each time a socket was idle this long.", is_common=False
        ),
    )
    """Idle seconds before the first TCP keep-alive probe, and between probes; Node's default."""

    free_socket_timeout: float = field(
        default=4.0,
        metadata=_option(
            OptionKind.DURATION, "Close a socket that has been free for this long; 0: never.", is_common=True
        ),
    )
    """Seconds a free socket is kept; 0: for ever. 4, because the servers with the shortest wait (Node, uvicorn) close
    at 5, and the client must be the one that closes first."""

    timeout: float | None = field(
        default=None,
        metadata=_option(
            OptionKind.DURATION,
            "Give up after this time without a byte; 0: never (twice the free time, 8s at least).",
            is_optional=True,
            is_common=True,
        ),
    )
    """Seconds without a byte after which an active socket is closed; 0 turns it off. None, not given:
    `activity_timeout` on asyncio, and no limit in threads and adapters, as in the libraries they replace."""

    max_sockets: int | None = field(
        default=None,
        metadata=_option(
            OptionKind.LIMIT,
            "Open at most N sockets per origin.",
            is_optional=True,
            is_shared=True,
            is_common=True,
            called="sockets",
        ),
    )
    """Sockets per origin."""

    max_free_sockets: int = field(
        default=256,
        metadata=_option(OptionKind.LIMIT, "Keep at most N free sockets per origin.", is_shared=True, is_common=True),
    )
    """Free sockets per origin; Node's default."""

    socket_active_ttl: float | None = field(
        default=None,
        metadata=_option(
            OptionKind.DURATION,
            "Send no more requests on a socket older than this (no limit).",
            flag="--ttl",
            is_optional=True,
            called="a TTL",
            is_common=False,
        ),
    )
    """Age in seconds past which a socket carries no further request, so that clients follow a changed name or a new
    server behind a balancer; 0 and None: no limit."""

    max_total_sockets: int | None = field(
        default=None,
        metadata=_option(
            OptionKind.LIMIT,
            "Open at most N sockets to all origins together (no limit).",
            is_optional=True,
            is_shared=True,
            called="sockets over all",
            is_common=False,
        ),
    )
    """Sockets over all origins."""

    scheduling: Scheduling = field(
        default="lifo",
        metadata=_option(
            OptionKind.CHOICE,
            "Reuse the socket that was freed last or first.",
            check=_scheduling,
            choices=("lifo", "fifo"),
            is_common=False,
        ),
    )
    """Which free socket is taken: `lifo` the one freed last, which the server is least likely to have closed."""

    max_cached_sessions: int = field(
        default=100,
        metadata=_option(
            OptionKind.COUNT, "Keep N TLS sessions for resumption; 0 keeps none.", is_common=False, is_shared=False
        ),
    )
    """TLS sessions kept for resumption; 0 keeps none."""

    no_delay: bool = field(default=True, metadata=_option(OptionKind.FLAG, is_common=False))
    """TCP_NODELAY: send small requests at once."""

    connect_timeout: float | None = field(
        default=None,
        metadata=_option(
            OptionKind.DURATION,
            "Give up connecting after this time; 0: never (as --timeout).",
            is_optional=True,
            is_common=True,
        ),
    )
    """Seconds for name, TCP and TLS together; None: as the timeout of an active socket; 0 turns it off."""

    hand_off: bool = field(default=False, metadata=_option(OptionKind.FLAG, is_common=False))
    """Only with `keep_alive=False`: give a socket to a pending request if there is one, else close it."""

    queue_timeout: float | None = field(
        default=None,
        metadata=_option(
            OptionKind.DURATION,
            "Give up waiting for a socket after this time (never).",
            is_optional=True,
            is_common=False,
        ),
    )
    """Seconds a pending request waits for a socket; 0 and None: as long as it takes."""

    max_requests_per_socket: int | None = field(
        default=None,
        metadata=_option(
            OptionKind.LIMIT,
            "Close a socket after N requests (never).",
            is_optional=True,
            is_common=False,
            is_shared=False,
        ),
    )
    """Requests a socket carries before it is closed."""

    respect_hints: bool = field(
        default=True,
        metadata=_option(
            OptionKind.FLAG,
            "Obey the server's Keep-Alive header.",
            flag="--respect-hints/--ignore-hints",
            is_common=False,
        ),
    )
    """Obey the server's `Keep-Alive` header."""

    retry_stale: RetryStale = field(
        default="safe",
        metadata=_option(
            OptionKind.CHOICE,
            "Send requests again that met a stale socket: safe ones (GET), idempotent ones (PUT too), or never.",
            check=_retry_stale,
            choices=("safe", "idempotent", "never"),
            is_common=False,
        ),
    )
    """Which requests are sent again, once, when their reused socket died before the first byte of a response. `safe`:
    GET, HEAD, OPTIONS, TRACE and whatever carries an `Idempotency-Key`, because real services append with PUT and
    create with PUT. `idempotent`, or True: PUT and DELETE too. False: none."""

    max_response_bytes: int | None = field(
        default=None, metadata=_option(OptionKind.LIMIT, is_optional=True, is_common=False, is_shared=False)
    )
    """Bytes of a body that a request reads into memory; more is an error, and closes the socket. A streamed response
    has no such limit."""

    tcp_user_timeout: float | None = field(
        default=None,
        metadata=_option(
            OptionKind.DURATION,
            "Give up a socket whose data nobody acknowledges for this long (the system decides).",
            is_optional=True,
            is_common=False,
        ),
    )
    """Seconds that sent data may stay unacknowledged before the system gives the socket up (TCP_USER_TIMEOUT, where
    it has that); never less than a request's own timeout; 0 leaves it to the system. None: 30 in threads and adapters
    without a `timeout`, so that a silent gateway does not cost a quarter of an hour, else as 0."""

    def __init__(self, **given: Unpack[AgentOptionArguments]) -> None:
        arguments: dict[str, object] = dict(given)
        for option in dataclasses.fields(self):
            value = arguments.pop(option.name, option.default)
            try:
                described: Option = option.metadata["option"]
                value = None if value is None and described.is_optional else described.check(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{option.name}: {error}") from None
            object.__setattr__(self, option.name, value)
        for name, value in arguments.items():
            raise TypeError(f"{name}={value!r}: there is no such option of an agent")
        if self.hand_off and self.keep_alive:
            raise ValueError("hand_off: True goes only with keep_alive=False")

    @classmethod
    def described(cls) -> dict[str, Option]:
        """Return the description of each option, by name."""
        return dict(_described())

    @classmethod
    def chosen(cls, options: AgentOptions | None, given: Mapping[str, Any]) -> AgentOptions:
        """Return the options of an agent that takes them as one object or by name. Raises `TypeError` for both."""
        if options is None:
            return cls(**given)
        if given:
            raise TypeError(f"options come as an AgentOptions or by name, not both ({', '.join(given)})")
        return options

    @property
    def activity_timeout(self) -> float:
        """`timeout` in seconds, or if it is None the default of the asyncio agents: twice the free timeout, at least 8.

        So an active socket has at least as much time as a free one, unless free ones are kept for ever (8 s then).
        0: no limit.
        """
        return max(2 * self.free_socket_timeout, _LEAST_ACTIVITY_TIMEOUT_S) if self.timeout is None else self.timeout

    @property
    def effective_connect_timeout(self) -> float:
        """`connect_timeout` in seconds, or `activity_timeout` if it is None; 0: no limit."""
        return self.activity_timeout if self.connect_timeout is None else self.connect_timeout

    def in_place_of_a_library(self) -> AgentOptions:
        """Return these options for an agent that replaces a library without limits of its own.

        Such an agent makes no request fail that the library would have answered: a timeout that was not given is no
        limit. `tcp_user_timeout` notices a silent peer instead, and does not cut off one that is only slow.
        """
        if self.timeout is not None:
            return self
        user_timeout = DROP_IN_USER_TIMEOUT_S if self.tcp_user_timeout is None else self.tcp_user_timeout
        return dataclasses.replace(self, timeout=0, tcp_user_timeout=user_timeout)


@functools.cache
def _described() -> dict[str, Option]:
    found = {}
    for each in dataclasses.fields(AgentOptions):
        option: Option = each.metadata["option"]
        found[each.name] = dataclasses.replace(
            option,
            flag=option.flag or f"--{each.name.replace('_', '-')}",
            called=option.called or each.name.replace("_", " "),
        )
    return found
