"""The messages between the command line, the master and the workers of a distributed run.

The master is the one process that is a locust master. The command line speaks to it in lines of JSON over its standard
streams. The master speaks to workers in locust's own messages, which carry these structures as bytes.

    command line --Open, Begin, Order--> master --Welcome, Begin, Order--> worker --Task, Go, stop--> `kabench.load`
    command line <--Opened, Joined, Said, Ended, Gone-- master <--Hello, Said, Ended-- worker <--messages-- ...

A worker passes on what its process of `kabench.load` says, so a worker measures what a run on one machine measures.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kabench.load.figures.messages import Message, Task  # noqa: TC001  # msgspec reads the annotations
from kabench.version import __version__

HELLO = "kabench_hello"
WELCOME = "kabench_welcome"
GOODBYE = "kabench_goodbye"
TURNED_AWAY = "kabench_turned_away"
BEGIN = "kabench_begin"
ORDER = "kabench_order"
SAID = "kabench_said"
ENDED = "kabench_ended"
"""The types of locust's messages."""

EVERY_PART = -1
"""An order for any part: the worker is to leave."""

GO = "go"
STOP = "stop"
KILL = "kill"
"""The orders that a worker can get."""


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Be a locust master at this address. Port 0 takes any free one."""

    host: str
    port: int


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Start a process for this task. `part` counts the agents of a run; messages about an earlier part are ignored."""

    part: int
    task: Task
    worker: int = 0


class Order(msgspec.Struct, frozen=True, tag="order"):
    """Carry out `what` on the process of a part."""

    part: int
    what: str
    worker: int = 0


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The master listens at this port."""

    port: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The master cannot listen."""

    why: str


class Hello(msgspec.Struct, frozen=True):
    """A worker introduces itself."""

    host: str


class Welcome(msgspec.Struct, frozen=True):
    """The master tells a worker its name."""

    name: str


def name_of(worker: int) -> str:
    """Return the name of a worker from its number."""
    return f"worker-{worker + 1}"


class Joined(msgspec.Struct, frozen=True, tag="joined"):
    """A worker has joined. Workers are numbered from 0."""

    worker: int
    host: str


class TurnedAway(msgspec.Struct, frozen=True, tag="turned_away"):
    """A worker of another version was sent away."""

    host: str
    version: str


class Said(msgspec.Struct, frozen=True, tag="said"):
    """Messages from a worker's process."""

    part: int
    messages: list[Message]
    worker: int = 0


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A worker's process has ended; `how` says in which way."""

    part: int
    how: str
    worker: int = 0


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """A worker has left, or no longer answers."""

    worker: int


T = TypeVar("T")


def packed(message: object) -> dict[str, object]:
    """Return a structure as the data of a locust message, with the sender's version of kabench."""
    return {"kabench": msgspec.json.encode(message), "version": __version__}


def version_of(data: object) -> str:
    """Return the version of kabench that packed the data. Only the same version can unpack them."""
    version = data.get("version") if isinstance(data, dict) else None
    return version if isinstance(version, str) else "unknown"


def unpacked(data: object, kind: type[T]) -> T:
    """Return the structure that was packed. Raises `msgspec.DecodeError` if the data hold none of this kind."""
    if not isinstance(data, dict) or not isinstance(data.get("kabench"), bytes):
        raise msgspec.DecodeError("the message holds no kabench data")
    return msgspec.json.decode(data["kabench"], type=kind)


ToMaster = Open | Begin | Order
FromMaster = Opened | Refused | Joined | TurnedAway | Said | Ended | Gone
