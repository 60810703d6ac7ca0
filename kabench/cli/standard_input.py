"""Standard input in place of a file, which `-` stands for wherever a command reads a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kabench.cli.errors import CommandError, say
from kabench.system.streams import STANDARD_INPUT, was_closed

if TYPE_CHECKING:
    from collections.abc import Iterable

_DASH = Path("-")


def is_standard_input(path: Path | str) -> bool:
    """Return whether a path stands for standard input."""
    return Path(path) == _DASH


def read_standard_input() -> bytes:
    """Return all of standard input. Raises `CommandError` if there is none."""
    if was_closed(STANDARD_INPUT):
        raise CommandError("standard input is closed; name a file in place of -")
    if sys.stdin.isatty():
        say("kabench: reading standard input; Ctrl-D ends it")
    return sys.stdin.buffer.read()


def read_input(path: Path) -> bytes:
    """Return the bytes of a file, or of standard input. Raises `CommandError` for the latter, else `OSError`."""
    return read_standard_input() if is_standard_input(path) else path.read_bytes()


def refuse_two_readers(readers: Iterable[str]) -> None:
    """Raise `CommandError` if more than one option or argument reads standard input."""
    named = list(readers)
    if len(named) > 1:
        raise CommandError(f"{' and '.join(named)}: only one of them can be standard input")


def read_record(path: Path) -> tuple[bytes, str]:
    """Return the document of a record, and where it comes from. Raises `CommandError`, or `ResultError`."""
    from kabench.result import read_file

    if is_standard_input(path):
        return read_standard_input(), "standard input"
    return read_file(path), str(path)
