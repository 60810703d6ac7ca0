"""What users and arrivals of a `Client` share: where tasks and threads get requests, and how threads call the loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from kabench.load.plan.source import Request


class SharedRequests:
    """The requests of one worker, for tasks and threads alike."""

    def __init__(self, source: Iterator[tuple[Request, int]]) -> None:
        self._source = source
        self._lock = threading.Lock()

    def next(self) -> tuple[Request, int]:
        """Return the next request, and the number of its target."""
        with self._lock:
            return next(self._source)


def call_into(loop: asyncio.AbstractEventLoop, what: Callable[[float], None], now: float) -> None:
    """Call `what(now)` in the event loop, from a thread. Do nothing if the loop has ended."""
    try:
        loop.call_soon_threadsafe(what, now)
    except RuntimeError:
        return
