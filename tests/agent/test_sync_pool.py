"""The threaded agents' pool on real sockets: AK-01 to AK-29."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
from urllib3 import HTTPHeaderDict, Timeout
from urllib3.exceptions import (
    ClosedPoolError,
    EmptyPoolError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)
from urllib3.exceptions import ConnectTimeoutError as UrllibConnectTimeoutError
from urllib3.util import connection as urllib3_connection

from kabench.agent import (
    AgentClosedError,
    ConnectError,
    ConnectTimeoutError,
    IncompleteResponseError,
    KeepAliveAgent,
    LocalPortsExhaustedError,
    PlainAgent,
    QueueTimeoutError,
    SocketTimeoutError,
    TooManyOpenFilesError,
    reused_socket,
)
from tests.agent.threads import get_once
from tests.responses import HALF
from tests.sockets import (
    OK,
    PATIENCE_S,
    Peer,
    ScriptedServer,
    answering_after,
    echo_forever,
    in_threads,
    serving,
    start,
    until,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from kabench.agent.sync.connection import ConnectionHandle

T = TypeVar("T")


def pending(agent: KeepAliveAgent) -> int:
    return sum(agent.get_current_status().requests.values())


def raw_socket(agent: KeepAliveAgent) -> socket.socket:
    """The one socket that the agent has."""
    (booked,) = agent.keeper.book._sockets
    return cast("socket.socket", cast("ConnectionHandle", booked.handle).sock)


class InterruptedByHandError(BaseException):
    """What a signal's handler raises in the main thread, as Ctrl-C does."""


@contextlib.contextmanager
def interrupted_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Have a signal's handler raise in this thread, wherever it is, once a condition holds. It is expected to."""

    main_thread = threading.get_ident()

    def raise_it(*_: object) -> None:
        raise InterruptedByHandError

    def interrupt() -> None:
        wait_until(condition)
        time.sleep(0.05)  # let it come to where it waits
        signal.pthread_kill(main_thread, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, raise_it)
    done = start(interrupt)
    try:
        with pytest.raises(InterruptedByHandError):
            yield
        done.result(PATIENCE_S)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ak_01_a_second_request_uses_the_same_socket() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        first = get_once(agent, server.url)
        second = get_once(agent, server.url)
        assert (first.status, first.data, first.reused_socket) == (200, b"ok", False)
        assert (second.status, second.data, second.reused_socket) == (200, b"ok", True)
        assert server.sockets == 1


def test_ak_02_with_one_socket_the_second_request_waits_its_turn() -> None:
    with serving(answering_after(0.1)) as server, KeepAliveAgent(max_sockets=1) as agent:
        both = [start(lambda: get_once(agent, server.url)) for _ in range(2)]
        wait_until(lambda: server.requests == 1 and pending(agent) == 1)
        assert agent.get_current_status().requests == {server.origin: 1}
        assert agent.get_current_status().sockets == {server.origin: 1}
        assert [future.result(PATIENCE_S).status for future in both] == [200, 200]
        assert server.sockets == 1
        assert agent.get_current_status().requests == {}


@pytest.mark.parametrize("ending", ["answer", "fail", "time out", "abort"])
def test_ak_03_never_more_than_max_sockets(ending: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        if ending == "answer":
            await peer.send(OK)
            await echo_forever(peer)
        elif ending == "abort":
            await peer.send(HALF)
        if ending in ("time out", "abort"):
            await peer.closed_by_client()

    with serving(handler) as server, KeepAliveAgent(max_sockets=3, timeout=0.05) as agent:

        def work(_: int) -> int:
            response = get_once(agent, server.url, preload_content=ending != "abort")
            assert sum(agent.get_current_status().sockets.values()) <= 3
            response.close()
            return response.status

        outcomes = in_threads(12, work)
        if ending in ("answer", "abort"):
            assert outcomes == [200] * 12
        else:
            kind = ProtocolError if ending == "fail" else ReadTimeoutError
            assert [type(outcome) for outcome in outcomes] == [kind] * 12
        assert server.open_most <= 3
        status = agent.get_current_status()
        assert status.create_socket_count == status.close_socket_count + sum(status.free_sockets.values())
        assert status.create_socket_count == server.sockets
        assert status.requests == status.sockets == {}


def ask_in_order(
    agent: KeepAliveAgent, server: ScriptedServer, count: int, work: Callable[[str], T]
) -> list[Future[T]]:
    """Do work in threads that queue up one after the other, behind the first."""
    futures = []
    for number in range(count):
        url = f"{server.url}{number}"
        futures.append(start(lambda url=url: work(url)))  # type: ignore[misc]  # mypy takes it for no argument
        wait_until(lambda number=number: server.requests >= 1 and pending(agent) == number)  # type: ignore[misc]  # same
    return futures


def test_ak_04_pending_requests_are_served_in_order() -> None:
    go = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(go.is_set)
        await peer.send(OK)
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent(max_sockets=1) as agent:
        futures = ask_in_order(agent, server, 20, lambda url: get_once(agent, url))
        go.set()
        assert [future.result(PATIENCE_S).status for future in futures] == [200] * 20
        paths = [request.split()[1] for request in server.peers[0].requests]
        assert paths == [b"/%d" % n for n in range(20)]


def test_ak_04_they_keep_their_order_when_the_socket_handed_to_them_is_closed_already() -> None:
    go = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.answer()  # and closes, without having said so

    with serving(handler) as server, KeepAliveAgent(max_sockets=1) as agent:

        def work(url: str) -> int:
            response = get_once(agent, url, preload_content=False)
            go.wait(PATIENCE_S)
            wait_until(lambda: server.open_now == 0)
            time.sleep(0.02)  # for the end to arrive
            assert response.read() == b"ok"
            return response.status

        futures = ask_in_order(agent, server, 5, work)
        go.set()
        assert [future.result(PATIENCE_S) for future in futures] == [200] * 5
        assert [peer.requests[0].split()[1] for peer in server.peers] == [b"/%d" % n for n in range(5)]


def test_ak_05_and_ak_06_300_requests_at_once_make_10_sockets_and_leave_5() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        # until all wait: with fewer, a socket can be free too many and be closed before its last request comes
        await until(lambda: pending(agent) == 290 or agent.get_current_status().request_count > 0)
        await peer.send(OK)
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent(max_sockets=10, max_free_sockets=5, timeout=60) as agent:
        outcomes = in_threads(300, lambda _: get_once(agent, server.url).status)
        assert outcomes == [200] * 300
        wait_until(lambda: server.open_now == 5)
        status = agent.get_current_status()
        assert status.create_socket_count == server.sockets == 10
        assert status.free_sockets == {server.origin: 5}
        assert status.request_count == 300


def test_ak_07_a_free_socket_is_closed_after_its_time() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(free_socket_timeout=0.05) as agent:
        get_once(agent, server.url)
        wait_until(lambda: server.open_now == 0)  # nobody asked the agent for anything meanwhile
        status = agent.get_current_status()
        assert (status.timeout_socket_count, status.close_socket_count) == (1, 1)
        assert (status.error_socket_count, status.free_sockets) == (0, {})
        assert not get_once(agent, server.url).reused_socket


def test_ak_07_a_socket_whose_time_is_over_is_not_handed_out_even_if_the_reaper_is_late() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(free_socket_timeout=0.05) as agent:
        agent.keeper._reaper = threading.current_thread()  # so that none is started
        get_once(agent, server.url)
        time.sleep(0.1)
        assert server.open_now == 1
        assert not get_once(agent, server.url).reused_socket
        wait_until(lambda: server.open_now == 1)
        assert agent.get_current_status().timeout_socket_count == 1


def test_ak_07_each_free_socket_has_its_own_time() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(free_socket_timeout=0.4) as agent:
        first = get_once(agent, server.url, preload_content=False)
        get_once(agent, server.url)
        time.sleep(0.2)
        first.drain_conn()
        assert agent.get_current_status().free_sockets == {server.origin: 2}
        wait_until(lambda: agent.get_current_status().free_sockets == {server.origin: 1})
        assert get_once(agent, server.url).reused_socket
        assert server.sockets == 2


def test_ak_08_a_free_time_of_0_outlives_the_timeout() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(free_socket_timeout=0, timeout=0.05) as agent:
        get_once(agent, server.url)
        time.sleep(0.15)
        assert get_once(agent, server.url).reused_socket


def test_ak_09_a_free_time_equal_to_the_timeout_works() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(free_socket_timeout=0.2, timeout=0.2) as agent:
        get_once(agent, server.url)
        assert get_once(agent, server.url).reused_socket
        wait_until(lambda: agent.get_current_status().timeout_socket_count == 1)


def silent_after(answers: int) -> Callable[[Peer], Any]:
    """Answer so many requests, then take one and say nothing."""

    async def handler(peer: Peer) -> None:
        for _ in range(answers):
            await peer.answer()
        await peer.request()
        await peer.closed_by_client()

    return handler


@pytest.mark.parametrize("answered_before", [0, 1])
def test_ak_10_an_active_socket_without_activity_times_out(answered_before: int) -> None:
    with serving(silent_after(answered_before)) as server, KeepAliveAgent(timeout=0.1) as agent:
        for _ in range(answered_before):
            get_once(agent, server.url)
        with pytest.raises(ReadTimeoutError) as caught:
            get_once(agent, server.url)
        cause = caught.value.__cause__
        assert isinstance(cause, SocketTimeoutError)
        assert (cause.code, cause.timeout) == ("ERR_SOCKET_TIMEOUT", 0.1)
        assert cause.reused_socket is reused_socket(caught.value) is bool(answered_before)
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.timeout_socket_count, status.close_socket_count, status.sockets) == (1, 1, {})


@pytest.mark.parametrize("preload_content", [True, False])
def test_ak_10_so_does_one_in_the_middle_of_a_body(preload_content: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(HALF)
        await peer.closed_by_client()

    with serving(handler) as server, KeepAliveAgent(timeout=0.1) as agent:
        with pytest.raises(ReadTimeoutError) as caught:
            get_once(agent, server.url, preload_content=preload_content).read()
        cause = caught.value.__cause__
        assert isinstance(cause, SocketTimeoutError)
        assert (cause.timeout, cause.reused_socket) == (0.1, False)
        assert cause.__cause__ is not cause  # who walks a chain must come to its end
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.timeout_socket_count, status.close_socket_count, status.sockets) == (1, 1, {})


def test_ak_10_so_does_one_that_takes_no_more_of_a_request() -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await until(lambda: agent.get_current_status().sockets == {})

    with serving(handler) as server, KeepAliveAgent(timeout=0.2) as agent:
        with pytest.raises(HTTPError) as caught:
            agent.request("PUT", server.url, body=bytes(30_000_000), retries=False)
        errors: list[BaseException | None] = [caught.value]
        while errors[-1] is not None:
            errors.append(errors[-1].__cause__)
        assert any(isinstance(error, SocketTimeoutError) for error in errors)
        assert reused_socket(caught.value) is False
        assert agent.get_current_status().timeout_socket_count == 1


def test_ak_10_bytes_that_go_out_are_activity() -> None:
    size = 40_000_000

    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < size:  # slowly, but never for as long as the timeout without taking any
            taken += len(await peer.reader.readexactly(min(1_000_000, size - taken)))
            await asyncio.sleep(0.05)
        await peer.send(OK)
        await peer.closed_by_client()

    with serving(handler) as server, KeepAliveAgent(timeout=1) as agent:
        assert agent.request("PUT", server.url, body=bytes(size), retries=False).status == 200


def test_ak_10_connect_timeout_is_not_for_sending() -> None:
    async def handler(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert b"PUT" in head
        await asyncio.sleep(0.4)  # longer than connect_timeout, shorter than timeout
        await peer.reader.readexactly(20_000_000)
        await peer.send(OK)

    with serving(handler) as server, KeepAliveAgent(timeout=5, connect_timeout=0.1) as agent:
        assert agent.request("PUT", server.url, body=bytes(20_000_000), retries=False).status == 200


def test_ak_10_activity_starts_the_timeout_anew() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.15)
            await peer.send(b"x")

    with serving(handler) as server, KeepAliveAgent(timeout=0.4) as agent:
        assert get_once(agent, server.url).data == b"xxxx"


def test_ak_11_a_request_s_own_timeout_wins_and_does_not_stay() -> None:
    with serving(answering_after(0.3)) as server, KeepAliveAgent(timeout=0.1) as agent:
        assert get_once(agent, server.url, timeout=5).status == 200
        with pytest.raises(ReadTimeoutError) as caught:
            get_once(agent, server.url)
        assert reused_socket(caught.value)
        assert get_once(agent, server.url, timeout=None).status == 200
        with pytest.raises(ReadTimeoutError) as caught:
            get_once(agent, server.url, timeout=Timeout(read=0.05))
        cause = caught.value.__cause__
        assert isinstance(cause, SocketTimeoutError)
        assert cause.timeout == 0.05


@pytest.mark.parametrize("answered_before", [0, 1])
def test_ak_11_a_request_s_shorter_timeout_holds_from_its_first_socket_on(answered_before: int) -> None:
    with serving(silent_after(answered_before)) as server, KeepAliveAgent(timeout=60) as agent:
        for _ in range(answered_before):
            get_once(agent, server.url)
        began_at = time.monotonic()
        with pytest.raises(ReadTimeoutError):
            get_once(agent, server.url, timeout=0.1)
        assert time.monotonic() - began_at < 5


def test_ak_11_a_socket_that_is_handed_over_starts_its_timeout_anew() -> None:
    with serving(answering_after(0.25)) as server, KeepAliveAgent(timeout=0.4, max_sockets=1) as agent:
        assert in_threads(3, lambda _: get_once(agent, server.url).status) == [200] * 3
        assert server.sockets == 1


def test_ak_12_a_socket_past_its_ttl_is_not_handed_to_a_pending_request() -> None:
    with (
        serving(answering_after(0.06)) as server,
        KeepAliveAgent(socket_active_ttl=0.05, max_sockets=1) as agent,
    ):
        assert in_threads(3, lambda _: get_once(agent, server.url).reused_socket) == [False] * 3
        assert server.sockets == 3
        assert agent.get_current_status().free_sockets == {}


def test_ak_13_and_ak_14_a_free_socket_lives_as_long_as_its_ttl_and_no_shorter() -> None:
    with (
        serving(echo_forever) as server,
        KeepAliveAgent(socket_active_ttl=0.4, free_socket_timeout=30) as agent,
    ):
        get_once(agent, server.url)
        assert get_once(agent, server.url).reused_socket
        time.sleep(0.1)
        assert get_once(agent, server.url).reused_socket
        wait_until(lambda: server.open_now == 0)
        assert agent.get_current_status().timeout_socket_count == 1


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_15_and_ak_16_a_free_socket_that_the_server_closed_is_not_used(how: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if how == "RST":
            peer.reset()

    with serving(handler) as server, KeepAliveAgent() as agent:
        for method in ("GET", "POST"):
            assert agent.request(method, server.url, retries=False).status == 200
            wait_until(lambda: server.open_now == 0)
            time.sleep(0.02)  # for the end to arrive
        assert server.sockets == 2
        status = agent.get_current_status()
        assert status.close_socket_count == 1
        assert status.error_socket_count == (how == "RST")
        assert status.retry_count == 0


@pytest.mark.parametrize("stray", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"\0", OK])
def test_ak_17_bytes_on_a_free_socket_close_it(stray: bytes) -> None:
    sent = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 0:
            await asyncio.sleep(0.02)
            await peer.send(stray)
            sent.set()
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent() as agent:
        get_once(agent, server.url)
        sent.wait(PATIENCE_S)
        time.sleep(0.02)  # for it to arrive
        response = get_once(agent, server.url)
        assert (response.status, response.reused_socket) == (200, False)
        assert agent.get_current_status().error_socket_count == 1


@pytest.mark.parametrize("behind", [b"X", OK, b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_ak_17_bytes_behind_a_response_close_its_socket(behind: bytes) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(OK + behind)

    with serving(handler) as server, KeepAliveAgent() as agent:
        for _ in range(3):
            response = get_once(agent, server.url)
            assert (response.data, response.reused_socket) == (b"ok", False)


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_18_a_close_in_the_middle_of_a_response_fails_that_request_only(how: str) -> None:
    async def handler(peer: Peer) -> None:
        if peer.number:
            await echo_forever(peer)
        await peer.request()
        await until(lambda: pending(agent) == 2)
        await peer.send(HALF)
        await asyncio.sleep(0.02)
        if how == "RST":
            peer.reset()

    with serving(handler) as server, KeepAliveAgent(max_sockets=1) as agent:
        first, *others = ask_in_order(agent, server, 3, lambda url: get_once(agent, url).data)
        error = first.exception(PATIENCE_S)
        assert isinstance(error, ProtocolError)
        assert isinstance(error.__cause__, IncompleteResponseError)
        assert reused_socket(error) is False
        assert [future.result(PATIENCE_S) for future in others] == [b"ok", b"ok"]
        assert server.sockets == 2


def test_ak_19_a_response_that_is_closed_unread_closes_its_socket() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(HALF)
        assert await peer.closed_by_client()

    with serving(handler) as server, KeepAliveAgent(max_sockets=1) as agent:
        for number in range(1, 4):
            response = get_once(agent, server.url, preload_content=False)
            assert agent.get_current_status().sockets == {server.origin: 1}
            behind = start(lambda: get_once(agent, server.url, preload_content=False))
            wait_until(lambda: pending(agent) == 1)
            response.close()
            assert not behind.result(PATIENCE_S).reused_socket
            behind.result().release_conn()
            assert server.sockets == 2 * number
        status = agent.get_current_status()
        assert (status.close_socket_count, status.free_sockets, status.sockets) == (6, {}, {})


@pytest.mark.parametrize("body", ["half", "whole", "none"])
def test_ak_19_a_response_that_is_dropped_unread_gives_up_its_place(body: str) -> None:
    answers = {"half": HALF, "whole": OK, "none": b"HTTP/1.1 204 No Content\r\n\r\n"}

    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(answers[body])

    with serving(handler) as server, KeepAliveAgent(max_sockets=1, queue_timeout=2) as agent:
        for _ in range(3):
            assert get_once(agent, server.url, preload_content=False).status in (200, 204)
            gc.collect()
        assert agent.get_current_status().sockets == {}


def test_ak_19_an_interrupted_request_closes_its_socket() -> None:
    with serving(answering_after(0.5)) as server, KeepAliveAgent(max_sockets=1) as agent:
        with interrupted_when(lambda: server.requests == 1):
            get_once(agent, server.url)
        assert agent.get_current_status().sockets == {}
        assert not get_once(agent, server.url).reused_socket
        status = agent.get_current_status()
        assert (status.close_socket_count, status.error_socket_count) == (1, 0)
        assert server.sockets == 2


def test_ak_19_a_request_whose_body_raises_closes_its_socket() -> None:
    def body() -> Iterator[bytes]:
        yield b"some"
        raise LookupError("no more")

    with serving(echo_forever) as server, KeepAliveAgent(max_sockets=1) as agent:
        get_once(agent, server.url)
        with pytest.raises(LookupError):
            agent.request("POST", server.url, body=body(), headers={"content-length": "10"}, retries=False)
        wait_until(lambda: server.open_now == 0)
        assert not get_once(agent, server.url).reused_socket
        status = agent.get_current_status()
        assert (status.close_socket_count, status.free_sockets) == (1, {server.origin: 1})


def test_ak_20_a_pending_request_that_gives_up_leaves_the_queue() -> None:
    go = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(go.is_set)
        await peer.send(OK)
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent(max_sockets=1) as agent:

        def work(url: str) -> int:
            return get_once(agent, url, pool_timeout=0.2 if url.endswith("/1") else None).status

        futures = ask_in_order(agent, server, 4, work)
        assert isinstance(futures[1].exception(PATIENCE_S), EmptyPoolError)
        assert pending(agent) == 2
        go.set()
        assert [futures[number].result(PATIENCE_S) for number in (0, 2, 3)] == [200] * 3
        assert [request.split()[1] for request in server.peers[0].requests] == [b"/0", b"/2", b"/3"]
        assert server.sockets == 1


def test_ak_20_a_pending_request_that_is_interrupted_leaves_the_queue() -> None:
    go = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(go.is_set)
        await peer.send(OK)
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent(max_sockets=1) as agent:
        first = start(lambda: get_once(agent, f"{server.url}0"))
        wait_until(lambda: server.requests == 1)
        with interrupted_when(lambda: pending(agent) == 1):
            get_once(agent, f"{server.url}1")
        assert pending(agent) == 0
        behind = start(lambda: get_once(agent, f"{server.url}2"))
        wait_until(lambda: pending(agent) == 1)
        go.set()
        assert [first.result(PATIENCE_S).status, behind.result(PATIENCE_S).status] == [200, 200]
        assert [request.split()[1] for request in server.peers[0].requests] == [b"/0", b"/2"]


def test_ak_21_a_plain_agent_makes_one_request_a_socket() -> None:
    with serving(echo_forever) as server, PlainAgent(max_sockets=2) as agent:
        assert in_threads(6, lambda _: get_once(agent, server.url).reused_socket) == [False] * 6
        assert server.sockets == 6
        assert all(b"\r\nConnection: close\r\n" in peer.requests[0] for peer in server.peers)
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.close_socket_count, status.request_count, status.free_sockets) == (6, 6, {})


def test_ak_21_a_plain_agent_s_connection_close_wins_and_is_sent_once() -> None:
    headers = HTTPHeaderDict([("X-One", "1"), ("X-One", "2"), ("connection", "keep-alive")])
    with serving(echo_forever) as server, PlainAgent() as agent:
        get_once(agent, server.url, headers=headers)
        lines = server.peers[0].requests[0].split(b"\r\n")
        assert [line for line in lines if line.lower().startswith(b"connection")] == [b"Connection: close"]
        assert [line for line in lines if line.startswith(b"X-One")] in (
            [b"X-One: 1", b"X-One: 2"],
            [b"X-One: 1, 2"],
        )
        assert headers["connection"] == "keep-alive"  # the caller's own are left as they are


def test_ak_22_a_hand_off_agent_hands_sockets_to_pending_requests() -> None:
    go = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(go.is_set)
        await peer.send(OK)
        await echo_forever(peer)

    with serving(handler) as server, PlainAgent(max_sockets=2, hand_off=True) as agent:
        futures = [start(lambda: get_once(agent, server.url).reused_socket) for _ in range(10)]
        wait_until(lambda: server.requests == 2 and pending(agent) == 8)
        go.set()
        assert sorted(future.result(PATIENCE_S) for future in futures) == [False] * 2 + [True] * 8
        assert server.sockets == 2
        assert all(b"\r\nConnection: keep-alive\r\n" in peer.requests[0] for peer in server.peers)
        wait_until(lambda: server.open_now == 0)
        assert agent.get_current_status().free_sockets == {}


def test_ak_23_a_refused_connect_fails_its_request_and_the_next_one_tries() -> None:
    with socket.socket() as nobody, KeepAliveAgent(max_sockets=1) as agent:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        for outcome in in_threads(3, lambda _: get_once(agent, url)):
            assert isinstance(outcome, NewConnectionError)
            assert isinstance(outcome.__cause__, ConnectError)
            assert "Connection refused" in str(outcome.__cause__)
            assert reused_socket(outcome) is None
        status = agent.get_current_status()
        assert status.create_socket_error_count == 3
        assert status.create_socket_count == status.close_socket_count == status.error_socket_count == 0
        assert status.sockets == status.requests == {}


def test_ak_23_a_name_that_does_not_resolve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with KeepAliveAgent() as agent:
        with pytest.raises(HTTPError) as caught:
            get_once(agent, "http://nowhere.invalid/")
        assert isinstance(caught.value.__cause__, ConnectError)
        assert "'nowhere.invalid' does not resolve" in str(caught.value.__cause__)
        assert agent.get_current_status().create_socket_error_count == 1


@pytest.mark.parametrize(
    ("number", "error", "advice"),
    [
        (errno.EADDRNOTAVAIL, LocalPortsExhaustedError, "ip_local_port_range"),
        (errno.EMFILE, TooManyOpenFilesError, "ulimit -n"),
    ],
)
def test_ak_23_what_this_machine_has_run_out_of_is_said(
    monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], advice: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "no more")

    monkeypatch.setattr("urllib3.util.connection.create_connection", fail)
    with PlainAgent() as agent:
        with pytest.raises(NewConnectionError) as caught:
            get_once(agent, "http://127.0.0.1:9/")
        assert isinstance(caught.value.__cause__, error)
        assert advice in str(caught.value.__cause__)


def test_ak_23_connecting_takes_no_longer_than_connect_timeout() -> None:
    with contextlib.ExitStack() as stack:
        # a listener that accepts nobody, its backlog filled: the next SYN gets no answer
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        agent = stack.enter_context(KeepAliveAgent(connect_timeout=0.2))
        with pytest.raises(UrllibConnectTimeoutError) as caught:
            get_once(agent, f"http://127.0.0.1:{full.getsockname()[1]}/")
        assert isinstance(caught.value.__cause__, ConnectTimeoutError)
        assert caught.value.__cause__.timeout == 0.2
        status = agent.get_current_status()
        assert (status.create_socket_error_count, status.timeout_socket_count) == (1, 0)


def test_ak_24_close_fails_what_is_under_way_and_what_waits() -> None:
    with serving(silent_after(0)) as server:
        agent = KeepAliveAgent(max_sockets=1)
        futures = [start(lambda: get_once(agent, server.url)) for _ in range(3)]
        wait_until(lambda: server.requests == 1 and pending(agent) == 2)
        agent.close()
        for future in futures:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, ClosedPoolError | ProtocolError)
            assert isinstance(error.__cause__, AgentClosedError)
        wait_until(lambda: server.open_now == 0)
        agent.close()
        with pytest.raises(ClosedPoolError) as caught:
            get_once(agent, server.url)
        assert isinstance(caught.value.__cause__, AgentClosedError)
        assert server.sockets == 1
        status = agent.get_current_status()
        assert (status.create_socket_count, status.close_socket_count) == (1, 1)
        assert status.sockets == status.free_sockets == status.requests == {}


def test_ak_24_close_fails_even_what_urllib3_would_try_again() -> None:
    with serving(silent_after(0)) as server:
        agent = KeepAliveAgent()
        future = start(lambda: agent.request("GET", server.url))  # three retries, as urllib3 has it
        wait_until(lambda: server.requests == 1)
        agent.close()
        error = future.exception(PATIENCE_S)
        assert isinstance(error, HTTPError)
        assert isinstance(error.__cause__, AgentClosedError)


def test_ak_24_leaving_with_closes_free_sockets() -> None:
    with serving(echo_forever) as server:
        with KeepAliveAgent(free_socket_timeout=0) as agent:
            get_once(agent, server.url)
        wait_until(lambda: server.open_now == 0)
        with pytest.raises(ClosedPoolError):
            agent.connection_from_url(server.url).urlopen("GET", "/")


def test_ak_24_close_ends_a_body_that_is_being_read() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(HALF)
        await peer.closed_by_client()

    with serving(handler) as server:
        agent = KeepAliveAgent()
        response = get_once(agent, server.url, preload_content=False)
        assert response.read(4) == b"half"
        rest = start(response.read)
        time.sleep(0.05)  # let it come to where it waits
        agent.close()
        error = rest.exception(PATIENCE_S)
        assert isinstance(error, HTTPError)  # an error of urllib3's, as all are
        assert isinstance(error.__cause__, AgentClosedError)
        wait_until(lambda: server.open_now == 0)


def test_ak_24_close_ends_a_request_that_is_being_sent() -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        taken.set()
        await until(is_over.is_set)

    taken, is_over = threading.Event(), threading.Event()
    with serving(handler) as server:
        agent = KeepAliveAgent()
        sending = start(lambda: agent.request("PUT", server.url, body=bytes(30_000_000), retries=False))
        taken.wait(PATIENCE_S)
        agent.close()
        error = sending.exception(PATIENCE_S)
        is_over.set()
        assert isinstance(error, ClosedPoolError | ProtocolError)
        assert isinstance(error.__cause__, AgentClosedError)


def test_ak_24_a_socket_that_connects_while_the_agent_is_closed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting, go = threading.Event(), threading.Event()
    connect = urllib3_connection.create_connection

    def slowly(*arguments: Any, **options: Any) -> socket.socket:
        connecting.set()
        go.wait(PATIENCE_S)
        return connect(*arguments, **options)

    monkeypatch.setattr(urllib3_connection, "create_connection", slowly)
    with serving(echo_forever) as server:
        agent = KeepAliveAgent(max_sockets=1)
        futures = [start(lambda: get_once(agent, server.url)) for _ in range(2)]
        connecting.wait(PATIENCE_S)
        wait_until(lambda: pending(agent) == 1)
        agent.close()
        go.set()
        for future in futures:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, ClosedPoolError | ProtocolError)
            assert isinstance(error.__cause__, AgentClosedError)
        wait_until(lambda: server.sockets == 1 and server.open_now == 0)
        assert server.requests == 0
        assert agent.get_current_status().create_socket_count == agent.get_current_status().close_socket_count


def test_ak_24_a_response_that_was_whole_before_close_can_be_read_and_its_socket_is_closed() -> None:
    with serving(echo_forever) as server:
        agent = KeepAliveAgent()
        response = get_once(agent, server.url, preload_content=False)
        connection = response.connection
        assert connection is not None
        agent.close()
        assert response.read() == b"ok"
        is_closed = connection.sock is None
        connection.close()
        assert is_closed
        wait_until(lambda: server.open_now == 0)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_ak_25_some_responses_are_the_last_on_their_socket(response: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(response)
        assert await peer.closed_by_client()

    with serving(handler) as server, KeepAliveAgent() as agent:
        for _ in range(2):
            assert get_once(agent, server.url).data in (b"ok", b"")
        assert server.sockets == 2
        wait_until(lambda: server.open_now == 0)


def test_ak_25_an_http_1_0_response_that_asks_for_keep_alive_is_reused() -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")

    with serving(handler) as server, KeepAliveAgent() as agent:
        for _ in range(3):
            get_once(agent, server.url)
        assert server.sockets == 1


@pytest.mark.parametrize("preload_content", [True, False])
def test_ak_25_a_response_that_ends_with_the_connection(preload_content: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\nall ")
        await peer.send(b"of it")

    with serving(handler) as server, KeepAliveAgent() as agent:
        for _ in range(2):
            assert get_once(agent, server.url, preload_content=preload_content).data == b"all of it"
        assert server.sockets == 2
        assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}


def test_ak_25_our_own_connection_close_is_kept_even_if_the_server_ignores_it() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        for _ in range(2):
            get_once(agent, server.url, headers={"connection": "close"})
        assert server.sockets == 2


@pytest.mark.parametrize("keep_alive", [True, False])
def test_ak_26_socket_options(keep_alive: bool) -> None:
    with (
        serving(answering_after(0.2)) as server,
        KeepAliveAgent(keep_alive_delay=7) if keep_alive else PlainAgent(keep_alive_delay=7) as agent,
    ):
        request = start(lambda: get_once(agent, server.url))
        wait_until(lambda: server.requests == 1)
        raw = raw_socket(agent)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == keep_alive
        if keep_alive:
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 7
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 10
        request.result(PATIENCE_S)


def test_ak_26_no_delay_can_be_switched_off() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(no_delay=False) as agent:
        get_once(agent, server.url)
        assert raw_socket(agent).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        assert raw_socket(agent).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_ak_26_a_probe_delay_beyond_what_the_system_takes_is_its_longest() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(keep_alive_delay="10h") as agent:
        assert get_once(agent, server.url).status == 200


def test_ak_27_a_free_socket_of_another_origin_gives_way() -> None:
    with (
        serving(echo_forever) as one,
        serving(echo_forever) as two,
        KeepAliveAgent(max_total_sockets=1) as agent,
    ):
        get_once(agent, one.url)
        assert agent.get_current_status().free_sockets == {one.origin: 1}
        get_once(agent, two.url)
        assert agent.get_current_status().free_sockets == {two.origin: 1}
        wait_until(lambda: one.open_now == 0)
        urls = [one.url, two.url] * 5
        assert in_threads(10, lambda number: get_once(agent, urls[number]).status) == [200] * 10
        assert agent.get_current_status().request_count == 12


def test_ak_27_with_none_free_anywhere_requests_wait_in_order_over_all_origins() -> None:
    go = threading.Event()
    arrived: list[bytes] = []

    async def handler(peer: Peer) -> None:
        while True:
            arrived.append((await peer.request()).split()[1])
            await until(go.is_set)
            await peer.send(OK)

    with serving(handler) as one, serving(handler) as two, KeepAliveAgent(max_total_sockets=1) as agent:
        futures = []
        for number in range(6):
            url = f"{(one, two)[number % 2].url}{number}"
            futures.append(start(lambda url=url: get_once(agent, url)))  # type: ignore[misc]  # mypy takes it for no argument
            wait_until(lambda number=number: len(arrived) == 1 and pending(agent) == number)  # type: ignore[misc]  # same
        go.set()
        assert [future.result(PATIENCE_S).status for future in futures] == [200] * 6
        assert arrived == [b"/%d" % number for number in range(6)]


@pytest.mark.parametrize("scheduling", ["lifo", "fifo"])
def test_ak_28_scheduling(scheduling: Any) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(lambda: server.sockets == 3)
        await peer.send(OK)
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent(scheduling=scheduling) as agent:
        assert in_threads(3, lambda _: get_once(agent, server.url).status) == [200] * 3
        for _ in range(6):
            get_once(agent, server.url)
        counts = sorted(len(peer.requests) for peer in server.peers)
        assert counts == ([1, 1, 7] if scheduling == "lifo" else [3, 3, 3])


def test_ak_29_a_request_pending_too_long_fails() -> None:
    go = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(go.is_set)
        await peer.send(OK)
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent(max_sockets=1, queue_timeout=0.1) as agent:
        first = start(lambda: get_once(agent, f"{server.url}0"))
        wait_until(lambda: server.requests == 1)
        patient = start(lambda: get_once(agent, f"{server.url}1", pool_timeout=PATIENCE_S))
        wait_until(lambda: pending(agent) == 1)
        with pytest.raises(EmptyPoolError) as caught:
            get_once(agent, server.url)
        assert isinstance(caught.value.__cause__, QueueTimeoutError)
        assert caught.value.__cause__.timeout == 0.1
        assert reused_socket(caught.value) is None
        assert agent.get_current_status().requests == {server.origin: 1}
        go.set()
        assert [first.result(PATIENCE_S).status, patient.result(PATIENCE_S).status] == [200, 200]
        assert agent.get_current_status().requests == {}
