"""How many sockets a process may have open. The usual soft limit of 1024 is for old programs; the hard one counts."""

from __future__ import annotations

import contextlib
import sys

_BESIDES_SOCKETS = 32
"""Files that a process has open anyway: streams, the event loop's, modules while they are read."""


def most_open_sockets() -> int | None:
    """Return how many sockets a process can have open at once, by the system's limits; None: no limit."""
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else max(0, hard - _BESIDES_SOCKETS)


def allow_open_sockets() -> None:
    """Raise this process's soft limit to the hard one."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # not allowed: then the limit stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
