"""Peers and gateways that fall silent: what one dead socket says of others (AK-62), and what the system is told."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import AgentOptions, KeepAliveAgent, SocketTimeoutError
from kabench.agent.book import BookedRequest, CloseReason, SocketBook, ToOpen
from tests.agent.both import any_agent, book_of, each_agent
from tests.sockets import Peer, serving, start, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[Peer], Awaitable[None]]

A = "http://a:80"


def book_with(count: int, **options: Any) -> tuple[SocketBook[str, BookedRequest], list[Any]]:
    """A book with so many free sockets, freed one second after the other."""
    book: SocketBook[str, BookedRequest] = SocketBook(AgentOptions(free_socket_timeout=0, timeout=5, **options))
    sockets = []
    for number in range(count):
        decision = book.checkout(BookedRequest(A, 5.0), 0.0)
        assert isinstance(decision, ToOpen)
        book.opened(decision.socket, f"socket {number}", 0.0)
        sockets.append(decision.socket)
    for number, each in enumerate(sockets):
        book.checkin(each, float(number))
    return book, sockets


def test_ak_62_those_that_have_been_idle_as_long_are_closed_too() -> None:
    book, sockets = book_with(4)
    given = book.checkout(BookedRequest(A, 5.0), 10.0)
    assert given is sockets[3]
    assert given.idle_s == 7.0
    (due,) = book.due(15.0).close
    assert due.socket is given
    assert {closed.socket for closed in book.doubt_idle(given, 15.0)} == set(sockets[:3])
    assert book.status().closed_by == {"active_timeout": 1, "forgotten": 3}
    assert not book.contradictions()


def test_ak_62_one_that_was_used_since_is_kept() -> None:
    book, sockets = book_with(3, scheduling="fifo")
    given = book.checkout(BookedRequest(A, 5.0), 10.0)
    assert given is sockets[0]
    used = book.checkout(BookedRequest(A, 5.0), 12.0)
    assert used is sockets[1]
    book.checkin(used, 12.5)
    book.due(15.0)
    closed = book.doubt_idle(given, 15.0)
    assert [each.socket for each in closed] == [sockets[2]]
    assert book.status().free_sockets == {A: 1}


def test_ak_62_one_that_was_never_idle_speaks_for_none() -> None:
    book, _ = book_with(2, max_sockets=2)
    first = book.checkout(BookedRequest(A, 5.0), 10.0)
    book.checkout(BookedRequest(A, 5.0), 10.0)
    waiting = BookedRequest(A, 5.0)
    assert book.checkout(waiting, 10.0) is None
    assert book.checkin(first, 11.0) is waiting  # type: ignore[arg-type]
    book.remove(first, CloseReason.ACTIVE_TIMEOUT, 16.0)  # type: ignore[arg-type]
    assert book.doubt_idle(first, 16.0) == []  # type: ignore[arg-type]


def silent_from_the_second_on(peers: int) -> Handler:
    """The first sockets answer once and then no more, as behind a gateway that has forgotten them; others answer."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        if peer.number < peers:
            await asyncio.sleep(0.2)  # until all of them are open
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await asyncio.sleep(60)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew")
        while True:
            await peer.answer()

    return handler


def fill_the_pool(agent: Any, kind: str, url: str, sockets: int) -> None:
    if kind == "threads":
        for future in [start(lambda: agent.agent.request("GET", url)) for _ in range(sockets)]:
            future.result(30)
        return

    async def main() -> None:
        await asyncio.gather(*(agent.agent.request("GET", url) for _ in range(sockets)))

    agent._runner.run(main())


@each_agent
def test_ak_62_five_forgotten_sockets_cost_one_timeout(kind: str) -> None:
    with serving(silent_from_the_second_on(5)) as server, any_agent(kind, timeout=0.6, free_socket_timeout=60) as agent:
        fill_the_pool(agent, kind, server.url, 5)
        assert agent.status().free_sockets == {server.origin: 5}
        time.sleep(0.1)
        with pytest.raises(SocketTimeoutError) as caught:
            agent.ask("GET", server.url)
        assert caught.value.reused_socket
        answers = [agent.ask("GET", server.url) for _ in range(3)]
        assert [answer.reused for answer in answers] == [False, True, True]
        status = agent.status()
        assert status.closed_by == {"active_timeout": 1, "forgotten": 4}
        assert (status.timeout_socket_count, status.free_sockets) == (1, {server.origin: 1})


def test_ak_62_urllib3_s_retry_gets_a_fresh_socket() -> None:
    with (
        serving(silent_from_the_second_on(5)) as server,
        KeepAliveAgent(timeout=0.6, free_socket_timeout=60, retries=3) as agent,
    ):
        for future in [start(lambda: agent.request("GET", server.url)) for _ in range(5)]:
            future.result(30)
        assert sum(agent.get_current_status().free_sockets.values()) == 5
        time.sleep(0.1)
        response: Any = agent.request("GET", server.url)
        assert (response.data, response.reused_socket, response.retries.total) == (b"new", False, 2)


@each_agent
def test_ak_62_a_socket_that_is_silent_in_the_middle_of_a_body_speaks_for_none(kind: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.2)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        await asyncio.sleep(60)

    with serving(handler) as server, any_agent(kind, timeout=0.6, free_socket_timeout=60) as agent:
        fill_the_pool(agent, kind, server.url, 2)
        with pytest.raises(SocketTimeoutError):
            agent.ask("GET", server.url)
        assert agent.status().free_sockets == {server.origin: 1}


# -- what the system is told -------------------------------------------------------------------------------------------


def raw_sockets(agent: Any, kind: str) -> list[socket.socket]:
    handles: list[Any] = [booked.handle for booked in book_of(agent)._sockets]
    return [handle.sock if kind == "threads" else handle.transport.get_extra_info("socket") for handle in handles]


def user_timeout_ms(agent: Any, kind: str) -> int:
    (raw,) = raw_sockets(agent, kind)
    return raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


async def answering(peer: Peer) -> None:
    while True:
        await peer.answer()


needs_user_timeout = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has none")


@needs_user_timeout
@each_agent
@pytest.mark.parametrize(
    ("options", "asyncio_ms", "threads_ms"),
    [
        ({}, 0, 30_000),
        ({"timeout": 5}, 0, 0),
        ({"tcp_user_timeout": "2s"}, 8_000, 2_000),  # never below the request's own timeout
        ({"tcp_user_timeout": "20s", "timeout": 5}, 20_000, 20_000),
        ({"tcp_user_timeout": 0}, 0, 0),
    ],
)
def test_ak_10_how_long_sent_data_may_stay_unacknowledged(
    kind: str, options: dict[str, Any], asyncio_ms: int, threads_ms: int
) -> None:
    with serving(answering) as server, any_agent(kind, **options) as agent:
        agent.ask("GET", server.url)
        assert user_timeout_ms(agent, kind) == (threads_ms if kind == "threads" else asyncio_ms)


@needs_user_timeout
@each_agent
def test_ak_10_the_system_is_never_less_patient_than_the_request(kind: str) -> None:
    with serving(answering) as server, any_agent(kind, tcp_user_timeout="3s", timeout=2) as agent:
        seen = []
        for timeout in (2.0, 60.0, 1.0):
            agent.ask("GET", server.url, timeout=timeout)
            seen.append(user_timeout_ms(agent, kind))
        assert seen == [3_000, 60_000, 3_000]


def test_ak_10_a_drop_in_has_no_limit_that_the_library_it_replaces_has_not() -> None:
    answered = []

    async def slow(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(1.0)
        answered.append(peer.number)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with serving(slow) as server, KeepAliveAgent(free_socket_timeout=0.1) as agent:
        assert agent.default_timeout.read_timeout is None
        assert agent.request("POST", server.url, body=b"x").data == b"ok"
        wait_until(lambda: answered == [0])
