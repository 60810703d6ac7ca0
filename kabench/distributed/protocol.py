"""What the command line, the hub and the workers of a distributed run say to each other.

The hub is the one process that is a locust master. The command line speaks to it in lines of JSON over its standard
streams; it speaks to workers in locust's own messages, whose data are these structures again, as bytes.

    command line --Open, Begin, Order--> hub --Welcome, Begin, Order--> worker --Task, Go, stop--> `kabench.load`
    command line <--Opened, Joined, Said, Ended, Gone-- hub <--Hello, Said, Ended-- worker <--messages-- ...

A worker passes on what its process of `kabench.load` says, so that what is measured is what one machine measures.
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
"""Of an order: whatever part it is, and the worker is to leave."""

GO = "go"
STOP = "stop"
KILL = "kill"
"""What a worker can be told to do."""


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Be a locust master there; port 0 is any that is free."""

    host: str
    port: int


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Start a process for this task. `part` counts the agents of a run; what is said of an old one is not heard."""

    part: int
    task: Task
    member: int = 0


class Order(msgspec.Struct, frozen=True, tag="order"):
    """Do `what` with the process of a part."""

    part: int
    what: str
    member: int = 0


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """Workers may come."""

    port: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The hub cannot open."""

    why: str


class Hello(msgspec.Struct, frozen=True):
    """A worker introduces itself."""

    host: str


class Welcome(msgspec.Struct, frozen=True):
    """What a worker is called."""

    name: str


def name_of(member: int) -> str:
    """What the worker of a number is called."""
    return f"worker-{member + 1}"


class Joined(msgspec.Struct, frozen=True, tag="joined"):
    """A worker has come; it is called by its number, from 0."""

    member: int
    host: str


class TurnedAway(msgspec.Struct, frozen=True, tag="turned_away"):
    """A worker of another version was sent away."""

    host: str
    version: str


class Said(msgspec.Struct, frozen=True, tag="said"):
    """What a worker's process has said."""

    part: int
    messages: list[Message]
    member: int = 0


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A worker's process has ended, and how."""

    part: int
    how: str
    member: int = 0


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """A worker has left, or is not heard of any more."""

    member: int


T = TypeVar("T")


def packed(message: object) -> dict[str, object]:
    """A structure as the data of one of locust's messages, with the version of who packs it."""
    return {"kabench": msgspec.json.encode(message), "version": __version__}


def version_of(data: object) -> str:
    """The version of who has packed it; what the structure is like, only the same version knows."""
    version = data.get("version") if isinstance(data, dict) else None
    return version if isinstance(version, str) else "unknown"


def unpacked(data: object, kind: type[T]) -> T:
    """What was packed. Raises `msgspec.DecodeError` where the data are something else."""
    if not isinstance(data, dict) or not isinstance(data.get("kabench"), bytes):
        raise msgspec.DecodeError("there is nothing of kabench in it")
    return msgspec.json.decode(data["kabench"], type=kind)


ToMaster = Open | Begin | Order
FromMaster = Opened | Refused | Joined | TurnedAway | Said | Ended | Gone
