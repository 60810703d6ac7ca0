"""The error that ends a command, and the exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, ClassVar

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable


class CommandError(Exception):
    """Ends a command. The user reads the message; the user's script reads `exit_code`."""

    TOO_BAD: ClassVar[int] = 1
    CANNOT_START: ClassVar[int] = 2
    COULD_NOT_MEASURE: ClassVar[int] = 3
    INTERRUPTED: ClassVar[int] = 130

    def __init__(self, message: str, exit_code: int = CANNOT_START) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def not_listening(error: Exception) -> CommandError:
    """Return the error of a server that cannot listen, with advice if its port is taken."""
    is_taken = os.strerror(errno.EADDRINUSE) in str(error)
    return CommandError(f"{error}; use --port to name another port, or 0 for any free one" if is_taken else str(error))


def say(text: str) -> None:
    """Print a line to standard error, without control characters. If it cannot be written, it is lost."""
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    with contextlib.suppress(OSError, ValueError):
        typer.echo(shown, err=True)


def warn(warning: str | None) -> None:
    """Print a warning to standard error, if there is one."""
    if warning is not None:
        say(f"kabench: {warning}")


def finish(problems: Iterable[str | None], *, interrupted: bool, broken: bool) -> None:
    """End a command that has measured. Problems decide its exit code first, then an interruption, then thresholds."""
    said = [problem for problem in problems if problem]
    if said:
        raise CommandError("; ".join(said), CommandError.INTERRUPTED if interrupted else CommandError.COULD_NOT_MEASURE)
    if interrupted:
        raise typer.Exit(CommandError.INTERRUPTED)
    if broken:
        raise typer.Exit(CommandError.TOO_BAD)
