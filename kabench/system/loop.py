"""The event loop that kabench's own processes run in: uvloop where it exists, asyncio's elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

ResultT = TypeVar("ResultT")


def run(main: Coroutine[Any, Any, ResultT]) -> ResultT:  # what a coroutine yields and takes is the loop's affair
    """Run a coroutine to its end in a new loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def loop_name(loop: asyncio.AbstractEventLoop) -> str:
    """Return `uvloop` or `asyncio`."""
    return "uvloop" if type(loop).__module__.startswith("uvloop") else "asyncio"
