"""The messages between a worker and the process that started it: lines of JSON on the worker's standard streams.

The worker says that it is `Up`, is told its `Task`, and says that it is `Ready` (or has `Failed`). It is then told
when to `Go`, and perhaps to `stop`; the end of its standard input ends it at once. It says `Counts` and a `Second` for
every second, `Progress` in between, and `Done` at the end. Where the task is steered, it is also told its `Level`
whenever that changes, and says when it has `Levelled`.

`Counts` are increments, and a `Second` holds totals so far, so a worker that dies loses at most one second. How
messages travel does not stand here.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self, get_type_hints

import msgspec

from kabench.load.plan.plan import LoadPlan  # noqa: TC001  # msgspec reads the annotations
from kabench.result import Sockets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

UNEXPECTED_STATUS = "unexpected_status"
UNEXPECTED_BODY = "unexpected_body"
UNEXPECTED = frozenset({UNEXPECTED_STATUS, UNEXPECTED_BODY})
"""The kinds of errors that stand for answers which came whole, but not as they were expected."""


class Steering(msgspec.Struct, frozen=True):
    """Has users come and go as the worker is told, whatever the plan says of how many and how long.

    After each answer a user waits for one of `pauses_s`, at random, or until `pacing_s` after it began to send.
    """

    pauses_s: tuple[float, ...] = ()
    pacing_s: float = 0.0


class Task(msgspec.Struct, frozen=True):
    """The work of a worker: its share of a plan, through one agent.

    `url` is that of kabench's own server, if it is used, and `ca_data` the certificate (PEM) of the authority it made.
    """

    plan: LoadPlan
    agent: str
    url: str
    ca_data: str | None = None
    index: int = 0
    steering: Steering | None = None


class Go(msgspec.Struct, frozen=True):
    """Begin at `at`, a time of the system's monotonic clock, which all processes share."""

    at: float


class Level(msgspec.Struct, frozen=True):
    """Have `users` users. Any others finish their request in flight; with `abort`, they give it up.

    The worker answers with `number` when they have stopped.
    """

    users: int
    number: int
    abort: bool = False


class Up(msgspec.Struct, frozen=True, tag="up"):
    """The process has started, and waits for its task."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker can begin. `versions` are those of the packages it measures with, besides kabench's dependencies."""

    event_loop: str
    versions: dict[str, str] = {}


class Counts(msgspec.Struct, frozen=True, tag="counts"):
    """Latencies in microseconds, and how often each was seen in the last second in each of the `phases`."""

    phases: tuple[str, ...]
    counts: dict[int, int]


@dataclass(frozen=True, slots=True)
class Counted:
    """Describes a field of `Figures`. `of` is its name in an agent's status, or in the agent itself.

    `title` is its column in locust's web tab. `is_level`: it says how things are, not what has happened so far.
    """

    of: str = ""
    title: str = ""
    is_level: bool = False


_RUNNING_COUNT = Counted()


class Figures(msgspec.Struct, frozen=True):
    """Counts that can be added up over workers, and subtracted to find what is new.

    A field is a number, a count by key, or `Figures` again. `Counted` in its annotation says what is special about it.
    """

    @classmethod
    def counted(cls) -> dict[str, Counted]:
        """Return the description of each field, by its name."""
        return _counted(cls)

    @classmethod
    def levels(cls) -> list[str]:
        """Return the names of the fields that are levels."""
        return [name for name, counted in cls.counted().items() if counted.is_level]

    @classmethod
    def sum_of(cls, each: Iterable[Self]) -> Self:
        """Add up the figures of all workers."""
        workers = list(each)
        sums: dict[str, Any] = {}
        for name in cls.counted():
            values = [getattr(worker, name) for worker in workers]
            sums[name] = _sum_by_key(values) if name in _kept_by_key(cls) else sum(values)
        return cls(**sums)

    def since(self, before: Self) -> Self:
        """Return the counts since `before`; levels stay as they are."""
        new = {}
        for name, counted in self.counted().items():
            value = getattr(self, name)
            new[name] = value if counted.is_level else _difference(value, getattr(before, name))
        return type(self)(**new)


@functools.cache
def _counted(kind: type[Figures]) -> dict[str, Counted]:
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for name in kind.__struct_fields__:
        said = [each for each in getattr(hints[name], "__metadata__", ()) if isinstance(each, Counted)]
        found[name] = said[0] if said else _RUNNING_COUNT
    return found


@functools.cache
def _kept_by_key(kind: type[Figures]) -> frozenset[str]:
    return frozenset(each.name for each in msgspec.structs.fields(kind) if each.default_factory is dict)


def _sum_by_key(values: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for each in values:
        sums.update(each)
    return dict(sums)


def _difference(now: Any, before: Any) -> Any:  # a number, a count by key, or figures
    if isinstance(now, Figures):
        return now.since(before)
    if isinstance(now, dict):
        return {key: count - before.get(key, 0) for key, count in now.items() if count != before.get(key, 0)}
    return now - before


class Totals(Figures, frozen=True):
    """Counts since the beginning, or the end of the warm-up."""

    body_bytes: int = 0
    status_codes: dict[int, int] = {}
    errors: dict[str, int] = {}
    not_started: int = 0

    @property
    def socket_errors(self) -> int:
        """The requests that died with their socket, never got one, or were cut off."""
        return sum(times for kind, times in self.errors.items() if kind not in UNEXPECTED)


class SocketCounts(Figures, frozen=True):
    """The agent's status over all origins. It includes the warm-up, because sockets outlive it."""

    created: Annotated[int, Counted("create_socket_count", "Created")] = 0
    create_errors: Annotated[int, Counted("create_socket_error_count")] = 0
    closed: Annotated[int, Counted("close_socket_count", "Closed")] = 0
    errors: Annotated[int, Counted("error_socket_count", "Failed")] = 0
    timeouts: Annotated[int, Counted("timeout_socket_count", "Timed out")] = 0
    requests: Annotated[int, Counted("request_count")] = 0
    retries: Annotated[int, Counted("retry_count")] = 0
    free: Annotated[int, Counted("free_sockets", "Free", is_level=True)] = 0
    active: Annotated[int, Counted("sockets", "Active", is_level=True)] = 0
    pending: Annotated[int, Counted("requests", "Pending", is_level=True)] = 0
    tls_handshakes: Annotated[int, Counted("tls_handshake_count")] = 0
    tls_resumed: Annotated[int, Counted("tls_resumed_count")] = 0
    stale: Annotated[int, Counted("stale_socket_count")] = 0
    closed_by: Annotated[dict[str, int], Counted("closed_by")] = {}

    def since(self, before: SocketCounts) -> SocketCounts:
        """Return the counts since `before`. Sockets open by then count as created: new requests go through them."""
        new = super().since(before)
        return msgspec.structs.replace(new, created=new.created + before.free + before.active)

    def as_record(self) -> Sockets:
        """Return the `sockets` of a record. Retries stand beside them there."""
        return Sockets(**{name: getattr(self, name) for name in self.counted() if name != "retries"})


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the worker is. `elapsed_s` is below 0 in the warm-up."""

    elapsed_s: float
    transactions: int
    socket_errors: int
    not_started: int
    sockets: SocketCounts


class Second(Figures, frozen=True, tag="second"):
    """The end of a second, after its `Counts`. `cpu_s` counts from the beginning, or the end of the warm-up."""

    elapsed_s: float
    totals: Totals
    sockets: SocketCounts
    cpu_s: float
    max_rss_mb: Annotated[float, Counted(is_level=True)]

    def as_progress(self) -> Progress:
        """Return how far the worker is at the end of this second."""
        totals = self.totals
        return Progress(
            self.elapsed_s,
            sum(totals.status_codes.values()),
            totals.socket_errors,
            totals.not_started,
            self.sockets,
        )


NOTHING_YET = Second(0.0, Totals(), SocketCounts(), 0.0, 0.0)
"""The figures of a worker before its first second."""


class Levelled(msgspec.Struct, frozen=True, tag="levelled"):
    """No more users are busy than were asked for by the `Level` with this number, or by a later one."""

    number: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The load is over; the last `Second` came before. `unreachable` says why no socket could ever be opened, if so.

    `elapsed_s` is until the last answer, and at least until time was over. What was cut off later adds nothing to it.
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
    """Return a message as one line."""
    return _encoder.encode(message) + b"\n"


def decode(line: bytes) -> Message:
    """Return what a worker said. Raises `msgspec.DecodeError`."""
    return _decoder.decode(line)
