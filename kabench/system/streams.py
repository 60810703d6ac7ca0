"""Standard streams that were closed before the process began, as a shell's `2>&-` does.

The next file that a process opens gets a free number, so what is meant for standard error would go into a socket or a
record, and children inherit the gap. So each gap is filled before anything else is opened: nothing can be read there,
and what is written there is lost.
"""

from __future__ import annotations

import os
import sys

STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR = range(3)

_closed: set[int] = set()
"""The standard streams that this process began without."""


def fill_closed_streams() -> None:
    """Open the null device in place of each standard stream that is closed. Call it before anything is opened."""
    for number in (STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR):
        if not is_open(number):
            _closed.add(number)
            opened = os.open(os.devnull, os.O_RDWR)  # gets this number, unless a lower one was free
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(STANDARD_INPUT, "r", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(STANDARD_OUTPUT, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(STANDARD_ERROR, "w", closefd=False)


def was_closed(number: int) -> bool:
    """Return whether this process began without this standard stream."""
    return number in _closed


def is_open(number: int) -> bool:
    """Return whether a file descriptor is open."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
