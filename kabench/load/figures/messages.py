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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self, get_type_hints

import msgspec

from kabench.load.plan.plan import LoadPlan  # noqa: TC001  # msgspec reads the annotations
from kabench.result import ANSWERED_KINDS, Sockets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
    """Latencies in microseconds, and how often each was seen in the last second in each of the `phases`.

    `target` is the name of the target they belong to, empty if the load has only one. With a `waited` they are how long
    unanswered requests had waited, and it is the kind of their error.
    """

    phases: tuple[str, ...]
    counts: dict[int, int]
    target: str = ""
    waited: str = ""


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

    A field is a number, a number or `Figures` by key, or `Figures` again; a number is None if it is not known, and so
    is then the sum. `Counted` in its annotation says what is special about it.
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
        if not workers:
            return cls()
        return cls(**{name: _sum([getattr(worker, name) for worker in workers]) for name in cls.counted()})

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


def _sum(values: Sequence[Any]) -> Any:  # numbers, figures, or either by key
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, dict):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _sum([value[key] for value in values if key in value]) for key in keys}
    return type(first).sum_of(values) if isinstance(first, Figures) else sum(values)


def _difference(now: Any, before: Any) -> Any:  # as in _sum
    if now is None or before is None:
        return now
    if isinstance(now, Figures):
        return now.since(before)
    if isinstance(now, dict):
        return {
            key: count if key not in before else _difference(count, before[key])
            for key, count in now.items()
            if count != before.get(key, 0)
        }
    return now - before


class Totals(Figures, frozen=True):
    """Counts since the beginning, or the end of the warm-up.

    `errors` are by kind. So is `unsent`: how many of them had not been sent; it is None if the client does not tell.
    `interrupted` requests are not among the errors, but among the unsent, if they had not been sent.
    """

    body_bytes: int = 0
    wire_bytes: int | None = 0
    failed_answers: int = 0
    status_codes: dict[int, int] = {}
    errors: dict[str, int] = {}
    unsent: dict[str, int] | None = {}
    interrupted: int = 0
    not_started: int = 0

    @property
    def transactions(self) -> int:
        """The answers that came whole."""
        return sum(self.status_codes.values())

    @property
    def socket_errors(self) -> int:
        """The requests that died with their socket, never got one, or were cut off."""
        return sum(times for kind, times in self.errors.items() if kind not in ANSWERED_KINDS)


class SocketCounts(Figures, frozen=True):
    """The agent's status over all origins. It includes the warm-up, because sockets outlive it.

    What a client does not tell is None.
    """

    created: Annotated[int | None, Counted("create_socket_count", "Created")] = None
    create_errors: Annotated[int | None, Counted("create_socket_error_count")] = None
    closed: Annotated[int | None, Counted("close_socket_count", "Closed")] = None
    errors: Annotated[int | None, Counted("error_socket_count", "Failed")] = None
    timeouts: Annotated[int | None, Counted("timeout_socket_count", "Timed out")] = None
    requests: Annotated[int | None, Counted("request_count")] = None
    retries: Annotated[int | None, Counted("retry_count")] = None
    free: Annotated[int | None, Counted("free_sockets", "Free", is_level=True)] = None
    active: Annotated[int | None, Counted("sockets", "Active", is_level=True)] = None
    pending: Annotated[int | None, Counted("requests", "Pending", is_level=True)] = None
    tls_handshakes: Annotated[int | None, Counted("tls_handshake_count")] = None
    tls_resumed: Annotated[int | None, Counted("tls_resumed_count")] = None
    stale: Annotated[int | None, Counted("stale_socket_count")] = None
    closed_by: Annotated[dict[str, int] | None, Counted("closed_by")] = None

    def since(self, before: SocketCounts) -> SocketCounts:
        """Return the counts since `before`. Sockets open by then count as created: new requests go through them."""
        new = super().since(before)
        if new.created is None or before.free is None or before.active is None:
            return new
        return msgspec.structs.replace(new, created=new.created + before.free + before.active)

    def as_record(self) -> Sockets:
        """Return the `sockets` of a record. Retries stand beside them there."""
        return Sockets(**{name: getattr(self, name) for name in self.counted() if name != "retries"})


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the worker is. `elapsed_s` is below 0 in the warm-up."""

    elapsed_s: float
    transactions: int
    failed_answers: int
    socket_errors: int
    not_started: int
    sockets: SocketCounts

    @classmethod
    def of(cls, elapsed_s: float, totals: Totals, sockets: SocketCounts) -> Self:
        """Return how far a worker is that has these totals."""
        return cls(
            elapsed_s,
            totals.transactions,
            totals.failed_answers,
            totals.socket_errors,
            totals.not_started,
            sockets,
        )


class Second(Figures, frozen=True, tag="second"):
    """The end of a second, after its `Counts`. `cpu_s` counts from the beginning, or the end of the warm-up.

    `totals` are of all targets together; `targets` has those of each by its name, and is empty if there is only one.
    """

    elapsed_s: float
    totals: Totals
    sockets: SocketCounts
    cpu_s: float
    max_rss_mb: Annotated[float, Counted(is_level=True)]
    targets: dict[str, Totals] = {}

    def as_progress(self) -> Progress:
        """Return how far the worker is at the end of this second."""
        return Progress.of(self.elapsed_s, self.totals, self.sockets)


_nothing: dict[str, Any] = {**dict.fromkeys(SocketCounts.counted(), 0), "closed_by": {}}

NO_SOCKETS = SocketCounts(**_nothing)
"""The counts of an agent that has not opened a socket yet."""

NOTHING_YET = Second(0.0, Totals(), NO_SOCKETS, 0.0, 0.0)
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
