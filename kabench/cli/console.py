"""The consoles for reports and progress: 80 columns, colour only on a terminal (rich honours NO_COLOR)."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, TextIO, cast

from kabench.system.signals import leave_at_once

if TYPE_CHECKING:
    from rich.console import Console

_CURSOR_ON_AND_A_NEW_LINE = b"\x1b[?25h\n"


class _WhileItLasts:
    """A stream that ignores writes that fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def progress_console() -> Console:
    """Return the console for progress, on standard error. Output that cannot be written is lost."""
    from rich.console import Console

    return Console(file=cast("TextIO", _WhileItLasts(sys.stderr)), highlight=False)


def report_console(*, stderr: bool = False) -> Console:
    """Return the console for reports. If its reader has gone, it prints nothing more: the record is what counts."""
    from rich.console import Console

    from kabench.report.terminal import WIDTH

    class ReportConsole(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    console = ReportConsole(stderr=stderr, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


def leave() -> None:
    """End the process at once, with a cursor on the terminal, which a live view hides."""
    if is_live_terminal():
        with contextlib.suppress(OSError):  # the terminal has gone
            os.write(sys.stderr.fileno(), _CURSOR_ON_AND_A_NEW_LINE)
    leave_at_once()


def is_live_terminal() -> bool:
    """Return whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()
