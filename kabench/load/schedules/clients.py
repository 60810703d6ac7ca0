"""What users and arrivals of a `Client` share: its requests, drawn by tasks or threads, and the way into the loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from kabench.load.plan.source import Request


class SharedRequests:
    """The requests of one worker, for tasks and threads alike."""

    def __init__(self, source: Iterator[Request]) -> None:
        self._source = source
        self._lock = threading.Lock()

    def next(self) -> Request:
        """The next one."""
        with self._lock:
            return next(self._source)


def call_into(loop: asyncio.AbstractEventLoop, what: Callable[[float], None], now: float) -> None:
    """Call from a thread into the loop, if that has not ended."""
    try:
        loop.call_soon_threadsafe(what, now)
    except RuntimeError:
        return
