"""Where reports go: 80 columns, colour only on a terminal (rich honours NO_COLOR)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def lasting_console(*, stderr: bool = False) -> Console:
    """A console that, where nobody reads any more, goes on in silence: the record is what counts."""
    from rich.console import Console

    class LastingConsole(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    return LastingConsole(stderr=stderr, highlight=False)


def report_console(*, stderr: bool = False) -> Console:
    """The console for reports."""
    from kabench.report.terminal import WIDTH

    console = lasting_console(stderr=stderr)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


def is_live_terminal() -> bool:
    """Whether somebody watches standard error."""
    return sys.stderr is not None and sys.stderr.isatty()
