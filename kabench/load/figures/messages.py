"""What a worker and the one who started it say to each other: lines of JSON on the worker's standard streams.

The worker says that it is `Up`, is told its `Task` in one line and says `Ready` (or `Failed`); it is told when to
`Go`, and may be told `stop`; the end of its standard input ends it at once. It says `Counts` and a `Second` for every
second, `Progress` in between, and `Done` at the end. What it ships are increments (`Counts`) and totals so far, so
whoever dies loses at most a second. Where the task is steered, it is also told its `Level` again and again, and says
when it has `Levelled`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from kabench.load.plan.plan import LoadPlan  # noqa: TC001  # msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable

UNEXPECTED_STATUS = "unexpected_status"
UNEXPECTED_BODY = "unexpected_body"
UNEXPECTED = frozenset({UNEXPECTED_STATUS, UNEXPECTED_BODY})
"""The kinds of errors of answers that came whole, but are not what was expected."""


class Steering(msgspec.Struct, frozen=True):
    """That users come and go as a worker is told, whatever the plan says of how many and how long.

    After each answer a user waits for one of `pauses_s`, at random; or until `pacing_s` after he began to send.
    """

    pauses_s: tuple[float, ...] = ()
    pacing_s: float = 0.0


class Task(msgspec.Struct, frozen=True):
    """What a worker is to do: its share of a plan, through one agent.

    `url` is kabench's own server, if that is used, and `ca_data` the certificate (PEM) of the authority it made.
    """

    plan: LoadPlan
    agent: str
    url: str
    ca_data: str | None = None
    index: int = 0
    steering: Steering | None = None


class Go(msgspec.Struct, frozen=True):
    """Begin at `at`, of the system's monotonic clock, which all processes share."""

    at: float


class Level(msgspec.Struct, frozen=True):
    """Have so many users. Those who are too many finish what they have under way; with `abort`, it is given up.

    `number` is what the worker answers with when they have stopped.
    """

    users: int
    number: int
    abort: bool = False


class Up(msgspec.Struct, frozen=True, tag="up"):
    """The process has started, and waits for its task."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker can begin. `versions` are those of what it measures with, besides kabench's own dependencies."""

    event_loop: str
    versions: dict[str, str] = {}


class Counts(msgspec.Struct, frozen=True, tag="counts"):
    """Latencies in microseconds and how often each was seen in the last second, in each of the `phases`."""

    phases: tuple[str, ...]
    counts: dict[int, int]


class Totals(msgspec.Struct, frozen=True):
    """Counted since the beginning, or the end of the warm-up."""

    body_bytes: int = 0
    status_codes: dict[int, int] = {}
    errors: dict[str, int] = {}
    not_started: int = 0

    @property
    def socket_errors(self) -> int:
        """Exchanges that died with their socket."""
        return sum(times for kind, times in self.errors.items() if kind not in UNEXPECTED)


class SocketCounts(msgspec.Struct, frozen=True):
    """The agent's status, over all origins, warm-up included: its sockets outlive that."""

    created: int = 0
    create_errors: int = 0
    closed: int = 0
    errors: int = 0
    timeouts: int = 0
    requests: int = 0
    retries: int = 0
    free: int = 0
    active: int = 0
    pending: int = 0
    tls_handshakes: int = 0
    tls_resumed: int = 0
    stale: int = 0
    closed_by: dict[str, int] = {}

    @classmethod
    def sum_of(cls, counts: Iterable[SocketCounts]) -> SocketCounts:
        """Return all workers' counts together."""
        each = list(counts)
        sums: dict[str, Any] = {}
        for name in cls.__struct_fields__:
            values = [getattr(worker, name) for worker in each]
            sums[name] = _added_up(values) if name in _BY_KEY else sum(values)
        return cls(**sums)

    def since(self, were: SocketCounts) -> SocketCounts:
        """Return what is new in the counters; sockets that were open before count as created."""
        new: dict[str, Any] = {}
        for name in self.__struct_fields__:
            now, before = getattr(self, name), getattr(were, name)
            if name in _BY_KEY:
                new[name] = {key: count - before.get(key, 0) for key, count in now.items() if count != before.get(key)}
            else:
                new[name] = now if name in _LEVELS else now - before
        new["created"] += were.free + were.active
        return SocketCounts(**new)


_LEVELS = frozenset({"free", "active", "pending"})
"""Of `SocketCounts`, what says how things are; the others count what has happened."""

_BY_KEY = frozenset({"closed_by"})


def _added_up(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for each in counts:
        sums.update(each)
    return dict(sums)


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far it is; `elapsed_s` is below 0 in the warm-up."""

    elapsed_s: float
    transactions: int
    socket_errors: int
    not_started: int
    sockets: SocketCounts


class Second(msgspec.Struct, frozen=True, tag="second"):
    """The end of a second, after its `Counts`. `cpu_s` is since the beginning, or the end of the warm-up."""

    elapsed_s: float
    totals: Totals
    sockets: SocketCounts
    cpu_s: float
    max_rss_mb: float

    def as_progress(self) -> Progress:
        """How far the worker is at the end of this second."""
        totals = self.totals
        return Progress(
            self.elapsed_s,
            sum(totals.status_codes.values()),
            totals.socket_errors,
            totals.not_started,
            self.sockets,
        )


NOTHING_YET = Second(0.0, Totals(), SocketCounts(), 0.0, 0.0)
"""Where a worker stands before its first second."""


class Levelled(msgspec.Struct, frozen=True, tag="levelled"):
    """No more users are busy than the `Level` of this number asked for, or a later one."""

    number: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The load is over, after the last `Second`. `unreachable` says why if no socket could ever be opened.

    `elapsed_s` is until the last answer, and at least until time was over: what was cut off later adds nothing to it.
    """

    interrupted: bool
    elapsed_s: float
    unreachable: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker could not begin."""

    why: str


STOP = b"stop\n"
"""The line that ends a load early."""

Message = Up | Ready | Counts | Progress | Second | Levelled | Done | Failed

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Message | Task | Go | Level) -> bytes:
    """One line."""
    return _encoder.encode(message) + b"\n"


def decode(line: bytes) -> Message:
    """What a worker said. Raises `msgspec.DecodeError`."""
    return _decoder.decode(line)
