"""What the server has seen and sent: the other side of a client's figures.

`ServerCounts` is a reading. A server counts in a `Counters`: in memory of its own or, with a file, in memory that is
mapped to the file. The system keeps that memory, so the counts survive a SIGKILL; a server that is started again with
the same file goes on counting there. `python -m kabench.server counts FILE` prints them.
"""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kabench.server.faults import FAULT_KINDS

if TYPE_CHECKING:
    from collections.abc import MutableSequence

_MAGIC = b"kabench/counts/1"


@dataclass(slots=True)
class ServerCounts:
    """Counters of the echo server since it started, or since its file was made. Bytes are body bytes."""

    sockets: int = 0
    """accepted"""
    requests: int = 0
    """received whole"""
    responses: int = 0
    """written, to their end"""
    bad_requests: int = 0
    """refused: no HTTP, over a limit, or a query that makes no sense"""
    idle_closes: int = 0
    """sockets closed after `idle_timeout_s`"""
    refused_sockets: int = 0
    """sockets answered with 503, since there were too many"""
    unanswered: int = 0
    """requests whose socket was gone before their response"""
    request_body_bytes: int = 0
    response_body_bytes: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """what was done wrong on purpose, by kind"""

    def __sub__(self, before: ServerCounts) -> ServerCounts:
        """Return what was counted since `before`."""
        numbers = {name: getattr(self, name) - getattr(before, name) for name in _NUMBERS}
        faults = {kind: count - before.faults.get(kind, 0) for kind, count in self.faults.items()}
        return ServerCounts(**numbers, faults={kind: count for kind, count in faults.items() if count})


_NUMBERS = tuple(each.name for each in dataclasses.fields(ServerCounts) if each.name != "faults")


class Counters(Protocol):
    """What a server counts in: the numbers of `ServerCounts`, and a counter for each of `FAULT_KINDS`."""

    sockets: int
    requests: int
    responses: int
    bad_requests: int
    idle_closes: int
    refused_sockets: int
    unanswered: int
    request_body_bytes: int
    response_body_bytes: int
    faults: MutableSequence[int]


class _OwnCounters:
    """Counters of this process alone, which cost least."""

    __slots__ = (*_NUMBERS, "faults")

    def __init__(self) -> None:
        for name in _NUMBERS:
            setattr(self, name, 0)
        self.faults = [0] * len(FAULT_KINDS)


class _FileCounters(ctypes.Structure):
    """The layout of a counts file: a name, then numbers of 64 bits in this machine's order."""

    _fields_ = (
        ("magic", ctypes.c_char * 24),
        *((name, ctypes.c_uint64) for name in _NUMBERS),
        ("faults", ctypes.c_uint64 * len(FAULT_KINDS)),
    )


class CountsFileError(ValueError):
    """Counts cannot be kept in a file, or read from it."""


def open_counters(path: str | None) -> Counters:
    """Return counters to count in: those of a file if one is named. A new file begins with zeros.

    Raises `CountsFileError` for a file that holds something else, or cannot be written.
    """
    if path is None:
        return _OwnCounters()  # type: ignore[return-value]  # its numbers are named once, in ServerCounts
    try:
        with Path(path).open("a+b") as file:
            size = file.tell()
            if size == 0:
                file.write(bytes(ctypes.sizeof(_FileCounters)))
                file.flush()
            elif size != ctypes.sizeof(_FileCounters):
                raise CountsFileError(f"the counts file {path} is not one: it holds something else")
        with Path(path).open("r+b") as file:
            counters = _FileCounters.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(_FileCounters)))
    except OSError as error:
        raise CountsFileError(f"the counts file {path}: {error.strerror}") from None
    if size == 0:
        counters.magic = _MAGIC
    _check_magic(counters, path)
    return counters


def read_counts(path: str) -> ServerCounts:
    """Return the counts in a file, whether its server runs or not. Raises `CountsFileError`."""
    try:
        raw = Path(path).read_bytes()
        counters = _FileCounters.from_buffer_copy(raw)
    except OSError as error:
        raise CountsFileError(f"the counts file {path}: {error.strerror}") from None
    except ValueError:
        raise CountsFileError(f"the counts file {path} is not one: it holds something else") from None
    _check_magic(counters, path)
    return reading_of(counters)


def _check_magic(counters: _FileCounters, path: str) -> None:
    if counters.magic != _MAGIC:
        raise CountsFileError(f"the counts file {path} is not one: it holds something else")


def reading_of(counters: Counters) -> ServerCounts:
    """Return the counts as they are now."""
    faults = {str(kind): count for kind, count in zip(FAULT_KINDS, counters.faults, strict=True) if count}
    return ServerCounts(**{name: getattr(counters, name) for name in _NUMBERS}, faults=faults)
