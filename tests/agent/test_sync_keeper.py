"""`SocketKeeper` in the moments that real threads seldom meet: a grant that comes too late, a lock that is taken."""

from __future__ import annotations

import os
import signal
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import pytest

from kabench.agent import AgentOptions, KeepAliveAgent
from kabench.agent.book import CloseReason, SocketState
from kabench.agent.sync.keeper import SocketKeeper, SyncRequest
from tests.sockets import echo_forever, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent.sync.keeper import Booked

A = "http://a:80"


class Handle:
    """A socket that only notes whether it was closed."""

    is_closed = False

    def close_socket(self) -> None:
        self.is_closed = True

    def interrupt(self) -> None:
        self.is_closed = True


def connected(keeper: SocketKeeper) -> tuple[Booked, Handle]:
    booked, handle = keeper.checkout(SyncRequest(A), None), Handle()
    keeper.opened(keeper.book, booked, handle)
    return booked, handle


class Gate:
    """A lock at which, while a request waits, something else happens first."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = happens

    def acquire(self, timeout: float) -> bool:
        self._happens()
        raise KeyboardInterrupt

    def release(self) -> None:
        pass


def test_ak_20_a_request_that_is_interrupted_as_it_is_given_a_socket_loses_nobody_s_place() -> None:
    keeper = SocketKeeper(AgentOptions(max_sockets=1))
    booked, handle = connected(keeper)
    late = SyncRequest(A)
    assert keeper.book.checkout(late, monotonic()) is None
    hand_on = Gate(lambda: keeper.checkin(keeper.book, booked, reusable=True, hint=None))
    late.gate = cast("Any", hand_on)
    with pytest.raises(KeyboardInterrupt):
        keeper._wait(late, late.gate, None)
    keeper.give_up(keeper.book, late)
    assert handle.is_closed
    assert keeper.checkout(SyncRequest(A), 0.1).state is SocketState.CONNECTING


def test_what_departs_while_the_lock_is_taken_leaves_with_whoever_has_it() -> None:
    keeper = SocketKeeper(AgentOptions(max_sockets=1))
    booked, _ = connected(keeper)
    with keeper._lock:
        keeper.remove(keeper.book, booked, CloseReason.ABORTED)  # by the garbage collector, in this very thread
        before = booked.state
    keeper._after()
    assert (before, booked.state) == (SocketState.ACTIVE, SocketState.CLOSED)


def test_ak_24_close_ends_the_reaper_at_once_and_leaves_no_pool() -> None:
    with serving(echo_forever) as server:
        agent = KeepAliveAgent(free_socket_timeout=600)
        agent.request("GET", server.url)
        reapers = [thread for thread in threading.enumerate() if thread.name == "kabench-reaper"]
        assert len(reapers) == 1
        agent.close()
        wait_until(lambda: not reapers[0].is_alive())
        assert len(agent.pools) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_does_not_inherit_a_lock_that_another_thread_held() -> None:
    keeper = SocketKeeper(AgentOptions())
    with keeper.sessions._lock, keeper._lock:
        child = os.fork()
        if not child:
            signal.alarm(10)
            keeper.sessions.drop(A)
            keeper.status()
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
