from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from kabench.server import EmbeddedServer, ServerOptions
from tests.sockets import LOOPS, run_in

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from kabench.server import ServerCounts

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first, so that no process is still at one when the others are through."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine; every test that takes it runs on asyncio's loop and on uvloop."""
    return lambda main: run_in(request.param, main)


class SharedServer(EmbeddedServer):
    """A server that tests use one after the other; each sees what was counted since its beginning."""

    def begin_anew(self) -> None:
        self._before = super().counts()

    def counts(self) -> ServerCounts:
        return super().counts() - self._before


@pytest.fixture(scope="session")
def shared_echo_server() -> Iterator[SharedServer]:
    with SharedServer(ServerOptions(delay_s=0)) as server:
        yield server


@pytest.fixture
def echo_server(shared_echo_server: SharedServer) -> EmbeddedServer:
    """A delayed echo server with no delay, in its own process."""
    shared_echo_server.begin_anew()
    return shared_echo_server
