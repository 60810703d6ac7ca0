"""What a worker and the one who started it say to each other: lines of JSON on the worker's standard streams.

The worker is told its `Task` in one line, and may be told `stop` in another; the end of its standard input ends it at
once. It says `Counts` and a `Second` for every second, `Progress` in between, and `Done` or `Failed` at the end.
What it ships are increments (`Counts`) and totals so far, so whoever dies loses at most a second.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Task(msgspec.Struct, frozen=True):
    """What a worker is to do: a plan as `LoadPlan.to_message` has it, through one agent.

    `ca_data` is the certificate (PEM) of the authority to trust, where kabench's own server made one.
    """

    plan: dict[str, Any]  # JSON
    agent: str
    url: str
    ca_data: str | None = None


class Counts(msgspec.Struct, frozen=True, tag="counts"):
    """Latencies in microseconds and how often each was seen in the last second, in each of the `phases`."""

    phases: tuple[str, ...]
    counts: dict[int, int]


class Totals(msgspec.Struct, frozen=True):
    """Counted since the beginning."""

    body_bytes: int = 0
    status_codes: dict[int, int] = {}
    errors: dict[str, int] = {}


class SocketCounts(msgspec.Struct, frozen=True):
    """The agent's status, over all origins."""

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


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far it is."""

    elapsed_s: float
    transactions: int
    socket_errors: int


class Second(msgspec.Struct, frozen=True, tag="second"):
    """The end of a second, after its `Counts`."""

    elapsed_s: float
    totals: Totals
    sockets: SocketCounts
    cpu_s: float
    max_rss_mb: float


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The load is over, after the last `Second`. `unreachable` says why if no socket could ever be opened."""

    interrupted: bool
    event_loop: str
    unreachable: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker could not begin."""

    why: str


Message = Counts | Progress | Second | Done | Failed

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Message | Task) -> bytes:
    """One line."""
    return _encoder.encode(message) + b"\n"


def decode(line: bytes) -> Message:
    """What a worker said. Raises `msgspec.DecodeError`."""
    return _decoder.decode(line)
