"""`RunResult`: the record of a run, and its file format `kabench/result/1`.

Names and meanings are siege's, if siege has them: a transaction is a finished HTTP exchange; failed transactions are
those with a status of 400 or more, and requests that died with their socket. Bytes are those of response bodies, and a
MB is 2^20 bytes. Times are seconds.

A record is data: reading one imports and runs nothing, and unknown names are ignored.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from kabench.histogram import PERCENTILES, Distribution, LatencyStats, TimesOfAll
from kabench.summary import AgentSummary, summary_html, summary_line
from kabench.text_files import EncodingError, without_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SCHEMA = "kabench/result/1"

BYTES_PER_MB = 2**20
"""siege's megabyte."""

BUSY_PCT = 90.0
LATE_S = 0.01
"""A run is saturated if a worker used `BUSY_PCT` of its core in a second, or the p99 of its lag is above `LATE_S`."""


FIRST_FINAL_STATUS, LAST_STATUS, FIRST_FAILED_STATUS = 200, 599, 400
"""Where no status is expected, an answer with a status from `FIRST_FAILED_STATUS` on has failed, as in siege's manual.

One below `FIRST_FINAL_STATUS` or above `LAST_STATUS` has failed in any case: it is no final answer of HTTP (RFC 9110
section 15).
"""

UNEXPECTED_STATUS = "unexpected_status"
UNEXPECTED_BODY = "unexpected_body"
NO_FINAL_STATUS = "no_final_status"
ANSWERED_KINDS = frozenset({UNEXPECTED_STATUS, UNEXPECTED_BODY, NO_FINAL_STATUS})
"""The kinds of errors that stand for answers which came whole, but are failures for a reason of their own."""

Record = TypeVar("Record")

_LONGEST_S = 1e6
"""Far more than a histogram can hold."""


class ResultError(ValueError):
    """A record cannot be read or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the software of a run."""

    python: str
    implementation: str
    event_loop: str
    platform: str
    cpu_model: str
    cpu_count: int
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """The agent's own counts of its sockets. `requests` are finished responses. What a client does not tell is None.

    `stale` counts requests that met a stale socket, whether or not they were sent again. `closed_by` counts closed
    sockets by `CloseReason`. Records of 0.1.0 have neither.
    """

    created: int | None = None
    create_errors: int | None = None
    closed: int | None = None
    errors: int | None = None
    timeouts: int | None = None
    requests: int | None = None
    req_per_socket: float | None = None
    free: int | None = None
    active: int | None = None
    pending: int | None = None
    tls_handshakes: int | None = None
    tls_resumed: int | None = None
    stale: int | None = None
    closed_by: dict[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPoint:
    """One second of a run. `t_s` is its end; `created` counts the sockets created since the beginning.

    `p50_s` and `p99_s` are of the answers of this second.
    """

    t_s: float
    transactions: int
    failed_transactions: int | None = None
    socket_errors: int = 0
    p50_s: float | None = None
    p99_s: float | None = None
    created: int | None = None
    free: int | None = None
    active: int | None = None
    pending: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker process of a run. `cpu_s` is its CPU time, `peak_cpu_pct` the largest share of a core that it used in a
    second. `lost_at_s` is the time of its loss, None if it was not lost."""

    name: str
    host: str
    transactions: int
    cpu_s: float | None = None
    peak_cpu_pct: float | None = None
    lost_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The cost of the load on the client's side."""

    cpu_s: float = 0.0
    cpu_us_per_transaction: float | None = None
    max_rss_mb: float = 0.0
    workers: list[WorkerRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """The phases of a request: waiting for a socket, connecting, waiting for the first byte, its body, and all."""

    queue: LatencyStats = field(default_factory=LatencyStats)
    connect: LatencyStats = field(default_factory=LatencyStats)
    first_byte: LatencyStats = field(default_factory=LatencyStats)
    body: LatencyStats = field(default_factory=LatencyStats)
    total: LatencyStats = field(default_factory=LatencyStats)


INTERRUPTED = "interrupted"
"""The kind of the unanswered requests that were in flight when the user stopped the load. They are no failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """The requests without an answer of one kind of error. `sent`: how many had been sent; None if that is unknown.

    `waited_s` is how long they had waited when they were given up, from when they were due; `hdr` is the same as an
    encoded HdrHistogram.
    """

    count: int
    sent: int | None = None
    waited_s: LatencyStats = field(default_factory=LatencyStats)
    hdr: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFigures:
    """The figures of a load, or of its requests to one target.

    `failed_pct` is the share of all requests that were due which a user would call failed. `response_time_s` and
    `phases` are of the answers, `successful_response_time_s` is of those that are no failures, and
    `response_time_all_s` is of all requests that were due. `data_wire_bytes` are bodies as they came; None if a client
    tells only what it made of them. What records of 0.1.0 do not have is None.
    """

    elapsed_s: float
    transactions: int
    successful_transactions: int
    failed_transactions: int
    socket_errors: int
    failed_pct: float | None = None
    availability_pct: float
    data_transferred_bytes: int
    data_wire_bytes: int | None = None
    transaction_rate: float
    throughput_mb_s: float
    concurrency: float
    response_time_all_s: TimesOfAll | None = None
    response_time_s: LatencyStats
    successful_response_time_s: LatencyStats | None = None
    service_time_s: LatencyStats = field(default_factory=LatencyStats)
    phases: Phases = field(default_factory=Phases)
    hdr: dict[str, str] = field(default_factory=dict)
    status_codes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    unanswered: dict[str, Unanswered] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFigures(LoadFigures):
    """The figures of the requests to one target. Requests that were not started belong to no target."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun(LoadFigures):
    """One agent's part of a run. `retries` is None if the client does not tell.

    `stopped_by` says what ended the load before its end, besides the user: "stop_after" or "no_success"; empty if
    nothing did.
    """

    agent: str
    interrupted: bool = False
    stopped_by: str = ""
    saturated: bool = False
    retries: int | None = 0
    not_started: int = 0
    lag_s: LatencyStats = field(default_factory=LatencyStats)
    buckets: dict[str, int] = field(default_factory=dict)
    sockets: Sockets = field(default_factory=Sockets)
    targets: list[TargetFigures] = field(default_factory=list)
    series: list[SeriesPoint] = field(default_factory=list)
    client: Client = field(default_factory=Client)


HISTOGRAMS: Mapping[str, Callable[[LoadFigures], LatencyStats]] = {
    "total": lambda figures: figures.response_time_s,
    "service": lambda figures: figures.service_time_s,
    "queue": lambda figures: figures.phases.queue,
    "connect": lambda figures: figures.phases.connect,
    "first_byte": lambda figures: figures.phases.first_byte,
    "body": lambda figures: figures.phases.body,
}
"""The distributions of answered requests by their names in `hdr`, with the figures made from each."""

LAG = "lag"
"""The name in `hdr` of how late requests were given to the agent. No target has it."""

FAILED = "failed"
"""The name in `hdr` of the response times of answers that are failures. They are part of `total`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A whole run: a plan, and an `AgentRun` for each agent."""

    schema: str = SCHEMA
    id: str
    name: str
    kabench_version: str
    started_at: str
    environment: Environment
    plan: dict[str, Any]  # the fields of the LoadPlan as JSON; other versions may have other fields
    runs: list[AgentRun]

    def to_json(self) -> bytes:
        """Return the record as a JSON document, indented."""
        return record_to_json(self)

    def __repr__(self) -> str:
        return summary_line(self.name, self._summaries())

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return summary_html(self.name, self.started_at, self._summaries())

    def _summaries(self) -> list[AgentSummary]:
        summaries = []
        for run in self.runs:
            of_all = run.response_time_all_s or TimesOfAll()
            failed = run.failed_transactions + run.not_started
            above_s = of_all.at_least_s.get("p99")
            summaries.append(AgentSummary(run.agent, run.transaction_rate, of_all.p99, failed, above_s))
        return summaries


def record_to_json(record: object) -> bytes:
    """Return a record as a JSON document, indented."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def result_schema() -> bytes:
    """Return the JSON Schema (draft 2020-12) of a record, as in `results/`."""
    return record_schema(RunResult, SCHEMA, "The record of a kabench run.")


def record_schema(record: type, name: str, description: str) -> bytes:
    """Return the JSON Schema of a type of record whose `schema` is `name`."""
    (schema,), components = msgspec.json.schema_components([record], ref_template="#/$defs/{name}")
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "description": f"{description} Times are seconds; README.md beside this file has the meanings.",
        **schema,
        "$defs": components,
    }
    for definition in components.values():
        definition.pop("description", None)  # the types' docstrings are for readers of the code
        for of_field in definition.get("properties", {}).values():
            of_field.pop("default", None)  # only some versions of msgspec write it
    components[record.__name__]["properties"]["schema"] = {"const": name}
    components[record.__name__]["required"] = ["schema", *components[record.__name__]["required"]]
    return record_to_json(whole)


def labels(agents: Sequence[str]) -> list[str]:
    """Return the agents' labels: their specs, with a number behind a spec that occurred before."""
    return [
        agent if agent not in agents[:index] else f"{agent} {agents[: index + 1].count(agent)}"
        for index, agent in enumerate(agents)
    ]


def now_as_text() -> str:
    """Return the time now as records have it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def new_id() -> str:
    """Return an id that no other record has."""
    return secrets.token_hex(6)


def parse_result(document: bytes, where: str) -> RunResult:
    """Read a record. Raises `ResultError`, naming `where` it came from, if it is not one."""
    result = decode_record(document, where, RunResult, SCHEMA)
    if not result.runs:
        raise ResultError(f"{where}: a broken record: it holds no run")
    for run in result.runs:
        check_run(run, where)
    return replace(result, runs=[completed(run) for run in result.runs])


def completed(run: AgentRun) -> AgentRun:
    """Return a run of a record of 0.1.0 with the figures that it lacks, as far as they follow from its others."""
    if run.failed_pct is not None or run.response_time_all_s is not None:
        return run
    due = run.transactions + run.socket_errors + run.not_started
    unanswered = due - run.transactions
    of_all = TimesOfAll(answered_pct=round(100 * run.transactions / due, 6) if due else None)
    if not unanswered:
        shared = {name: getattr(run.response_time_s, name) for name in (*PERCENTILES, "max")}
        of_all = replace(of_all, **shared)
    return replace(
        run,
        failed_pct=round(100 * (run.failed_transactions + run.not_started) / due, 6) if due else None,
        response_time_all_s=of_all,
    )


def decode_record(document: bytes, where: str, record: type[Record], name: str) -> Record:
    """Read a document as a type of record whose `schema` is `name`. Raises `ResultError`."""
    head = _decoded(document, where)
    schema = _schema_of(head)
    if schema != name:
        raise ResultError(f"{where}: not a {name} record (its schema is {schema!r})")
    try:
        return msgspec.convert(head, record)
    except msgspec.ValidationError as error:
        raise ResultError(f"{where}: a broken record: {error}") from None


def schema_of(document: bytes, where: str) -> str | None:
    """Return the kind of record that a document is, or None. Raises `ResultError` if it is not JSON."""
    return _schema_of(_decoded(document, where))


def _decoded(document: bytes, where: str) -> object:
    try:
        return msgspec.json.decode(without_mark(document))
    except EncodingError as error:
        raise ResultError(f"{where}: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ResultError(f"{where}: not a JSON document, or cut off ({error})") from None


def _schema_of(head: object) -> str | None:
    schema = head.get("schema") if isinstance(head, dict) else None
    return schema if isinstance(schema, str) else None


def check_run(run: AgentRun, where: str) -> None:
    """Check what the types do not: that status codes are numbers, and that histograms can be read."""
    for figures in (run, *run.targets):
        for status in figures.status_codes:
            if not (status.isascii() and status.isdigit()):
                raise ResultError(f"{where}: a broken record: {status!r} is not a status code")
        unanswered = {f"unanswered.{kind}": each for kind, each in figures.unanswered.items()}
        encoded = figures.hdr | {name: each.hdr for name, each in unanswered.items() if each.hdr}
        for name, text in encoded.items():
            try:
                Distribution().add_encoded(text, LatencyStats())
            except ValueError as error:
                raise ResultError(f"{where}: a broken record: hdr.{name}: {error}") from None
        times = [*(of(figures) for of in HISTOGRAMS.values()), *(each.waited_s for each in unanswered.values())]
        for stats in (*times, figures.phases.total, run.lag_s):
            for field_ in fields(stats):
                value = getattr(stats, field_.name)
                if value is not None and not 0 <= value <= _LONGEST_S:
                    raise ResultError(f"{where}: a broken record: a time of {value:g} s")


def load_result(path: str | os.PathLike[str]) -> RunResult:
    """Read a record from a file. Raises `ResultError` if the file cannot be read, or is not a record."""
    return parse_result(read_file(path), str(path))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return a file's bytes. Raises `ResultError` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from None


_LONGEST_NAME = 80
"""The longest part of a run's name in the name of its file."""


def as_file_name(text: str) -> str:
    """Return a text with - for each character that may not stand in a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".")[:_LONGEST_NAME] or "run"


def record_file_name(record: Savable) -> str:
    """Return the name of a record's file: the time when it began, its name, and the beginning of its id."""
    started = record.started_at.replace("-", "").replace(":", "")
    return f"{started}-{as_file_name(record.name)}-{record.id[:6]}.json"


class Savable(Protocol):
    """A record of any kind."""

    @property
    def id(self) -> str:
        """An id that no other record has."""

    @property
    def name(self) -> str:
        """The name that the user gave it."""

    @property
    def started_at(self) -> str:
        """The time when it began: UTC, ISO 8601."""

    def to_json(self) -> bytes:
        """Return the record as a JSON document."""


def save_result(result: Savable, path: Path) -> None:
    """Write a record whole or not at all: into a temporary file beside `path`, synced, then renamed over it.

    If `path` is no regular file (a pipe, a device), the record is written into it instead. Raises `ResultError` if it
    cannot be written; a file that stood at `path` before is then unchanged.
    """
    write_whole(path, result.to_json())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, as `save_result` does."""
    target = path.resolve()
    temporary = target.with_name(f".kabench-{secrets.token_hex(8)}")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):  # without a folder, there is no temporary file either
            temporary.unlink(missing_ok=True)
        raise ResultError(f"{path}: cannot be written: {error.strerror}") from None


def check_writable(folder: Path) -> None:
    """Make a folder. Raise `ResultError` if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".kabench-"):
            pass
    except OSError as error:
        raise ResultError(f"{folder}: no file can be written there: {error.strerror}") from None
