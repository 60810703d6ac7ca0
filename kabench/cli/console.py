"""Where reports go: 80 columns, colour only on a terminal (rich honours NO_COLOR)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def report_console(*, stderr: bool = False) -> Console:
    """The console for reports."""
    from rich.console import Console

    from kabench.report.terminal import WIDTH

    console = Console(stderr=stderr, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


def is_live_terminal() -> bool:
    """Whether somebody watches standard error."""
    return sys.stderr.isatty()
