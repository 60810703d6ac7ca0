"""The event loop of kabench's own processes: uvloop where it exists, else asyncio's; and the signals that stop it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from kabench.system.signals import stopping

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

ResultT = TypeVar("ResultT")


def run(main: Coroutine[Any, Any, ResultT]) -> ResultT:  # what a coroutine yields and takes is the loop's affair
    """Run a coroutine to its end in a new loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


@contextlib.contextmanager
def stop_event() -> Iterator[asyncio.Event]:
    """Yield an event of the running loop that a signal sets. An insistent one ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_from_a_handler() -> None:
        loop.call_soon_threadsafe(stop.set)  # it also wakes the loop

    with stopping(stop_from_a_handler):
        yield stop


def loop_name(loop: asyncio.AbstractEventLoop) -> str:
    """Return `uvloop` or `asyncio`."""
    return "uvloop" if type(loop).__module__.startswith("uvloop") else "asyncio"
