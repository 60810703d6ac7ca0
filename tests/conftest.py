from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from kabench.server import EmbeddedServer, ServerOptions
from tests.sockets import LOOPS, run_in

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine; every test that takes it runs on asyncio's loop and on uvloop."""
    return lambda main: run_in(request.param, main)


@pytest.fixture
def echo_server() -> Iterator[EmbeddedServer]:
    """A delayed echo server with no delay, in its own process."""
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        yield server
