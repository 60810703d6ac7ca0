"""The asyncio agents on real sockets, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AgentClosedError,
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    ConnectError,
    ConnectTimeoutError,
    IncompleteResponseError,
    LocalPortsExhaustedError,
    QueueTimeoutError,
    ResponseParseError,
    SocketClosedError,
    SocketTimeoutError,
    StaleSocketError,
    TooManyOpenFilesError,
)
from kabench.agent.aio import Exchange, Response, resolver
from kabench.agent.aio.connection import Connection
from kabench.agent.aio.exchange import FutureExchange
from kabench.agent.aio.reader import ResponseReader
from tests.sockets import OK, Peer, ScriptedServer, answering_after, echo_forever, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from kabench.agent.aio import PreparedRequest, ResponseHead

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


def closing_after(response: bytes = OK, *, requests: int = 1) -> Callable[[Peer], Awaitable[None]]:
    """Answer so many requests, then close."""

    async def handler(peer: Peer) -> None:
        for _ in range(requests):
            await peer.answer(response)

    return handler


def test_ak_01_a_second_request_uses_the_same_socket(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            first = await agent.request("GET", server.url)
            second = await agent.request("GET", server.url)
            assert (first.status, first.data, first.reused_socket) == (200, b"ok", False)
            assert (second.status, second.data, second.reused_socket) == (200, b"ok", True)
            assert server.sockets == 1

    run(main())


def test_ak_02_with_one_socket_the_second_request_waits_its_turn(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(0.05)) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            both = asyncio.gather(*(agent.request("GET", server.url) for _ in range(2)))
            await until(lambda: server.requests == 1)
            assert agent.get_current_status().requests == {server.origin: 1}
            await both
            assert server.sockets == 1
            assert agent.get_current_status().requests == {}

    run(main())


@pytest.mark.parametrize("ending", ["answer", "fail", "time out", "abort"])
def test_ak_03_never_more_than_max_sockets(run: Run, ending: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        if ending in ("time out", "abort"):
            await peer.closed_by_client()
        elif ending == "answer":
            await peer.send(OK)
            await echo_forever(peer)

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(max_sockets=3, timeout=0.05) as agent:
            tasks = [asyncio.ensure_future(agent.request("GET", server.url)) for _ in range(12)]
            if ending == "abort":
                await until(lambda: server.requests == 3)
                for task in tasks[:6]:
                    task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert len(results) == 12
            assert server.open_most <= 3
            status = agent.get_current_status()
            assert status.create_socket_count == status.close_socket_count + sum(status.free_sockets.values())
            assert status.requests == status.sockets == {}

    run(main())


def test_ak_04_pending_requests_are_served_in_order(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            await asyncio.gather(*(agent.request("GET", f"{server.url}{n}") for n in range(20)))
            paths = [request.split()[1] for request in server.peers[0].requests]
            assert paths == [b"/%d" % n for n in range(20)]

    run(main())


def test_ak_05_and_ak_06_300_requests_at_once_make_10_sockets_and_leave_5(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as server,
            AsyncKeepAliveAgent(max_sockets=10, max_free_sockets=5) as agent,
        ):
            await asyncio.gather(*(agent.request("GET", server.url) for _ in range(300)))
            await until(lambda: server.open_now == 5)
            status = agent.get_current_status()
            assert status.create_socket_count == server.sockets == 10
            assert status.free_sockets == {server.origin: 5}
            assert status.request_count == 300

    run(main())


def test_ak_07_a_free_socket_is_closed_after_its_time(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(free_socket_timeout=0.05) as agent:
            await agent.request("GET", server.url)
            await until(lambda: server.open_now == 0)
            status = agent.get_current_status()
            assert (status.timeout_socket_count, status.close_socket_count) == (1, 1)
            assert (status.error_socket_count, status.free_sockets) == (0, {})
            assert not (await agent.request("GET", server.url)).reused_socket

    run(main())


def test_ak_07_a_socket_whose_time_is_over_is_not_handed_out_even_if_the_timer_is_late(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(free_socket_timeout=0.05) as agent:
            await agent.request("GET", server.url)
            time.sleep(0.1)  # noqa: ASYNC251  # holds the loop up on purpose, so that no timer can run
            assert not (await agent.request("GET", server.url)).reused_socket

    run(main())


def test_ak_08_a_free_time_of_0_outlives_the_timeout(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as server,
            AsyncKeepAliveAgent(free_socket_timeout=0, timeout=0.05) as agent,
        ):
            await agent.request("GET", server.url)
            await asyncio.sleep(0.15)
            assert (await agent.request("GET", server.url)).reused_socket

    run(main())


def test_ak_09_a_free_time_equal_to_the_timeout_works(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as server,
            AsyncKeepAliveAgent(free_socket_timeout=0.1, timeout=0.1) as agent,
        ):
            await agent.request("GET", server.url)
            assert (await agent.request("GET", server.url)).reused_socket
            await until(lambda: agent.get_current_status().timeout_socket_count == 1)

    run(main())


@pytest.mark.parametrize("answered_before", [0, 1])
def test_ak_10_an_active_socket_without_activity_times_out(run: Run, answered_before: int) -> None:
    async def handler(peer: Peer) -> None:
        for _ in range(answered_before):
            await peer.answer()
        await peer.request()
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(timeout=0.1) as agent:
            for _ in range(answered_before):
                await agent.request("GET", server.url)
            with pytest.raises(SocketTimeoutError) as caught:
                await agent.request("GET", server.url)
            assert (caught.value.code, caught.value.timeout) == ("ERR_SOCKET_TIMEOUT", 0.1)
            assert caught.value.reused_socket is bool(answered_before)
            await until(lambda: server.open_now == 0)
            status = agent.get_current_status()
            assert (status.timeout_socket_count, status.close_socket_count, status.sockets) == (1, 1, {})

    run(main())


def test_ak_10_activity_starts_the_timeout_anew(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.15)
            await peer.send(b"x")

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(timeout=0.4) as agent:
            assert (await agent.request("GET", server.url)).data == b"xxxx"

    run(main())


def test_ak_11_a_request_s_own_timeout_wins_and_does_not_stay(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(0.3)) as server, AsyncKeepAliveAgent(timeout=0.1) as agent:
            assert (await agent.request("GET", server.url, timeout=5)).status == 200
            with pytest.raises(SocketTimeoutError) as caught:
                await agent.request("GET", server.url)
            assert caught.value.reused_socket
            assert (await agent.request("GET", server.url, timeout=0)).status == 200
            with pytest.raises(SocketTimeoutError):
                await agent.request("GET", server.url, timeout="50ms")

    run(main())


@pytest.mark.parametrize("answered_before", [0, 1])
def test_ak_11_a_request_s_shorter_timeout_holds_from_its_first_socket_on(run: Run, answered_before: int) -> None:
    async def handler(peer: Peer) -> None:
        for _ in range(answered_before):
            await peer.answer()
        await peer.request()
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(timeout=60) as agent:
            for _ in range(answered_before):
                await agent.request("GET", server.url)
            async with asyncio.timeout(5):
                with pytest.raises(SocketTimeoutError):
                    await agent.request("GET", server.url, timeout=0.1)

    run(main())


def test_ak_12_a_socket_past_its_ttl_is_not_handed_to_a_pending_request(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(answering_after(0.06)) as server,
            AsyncKeepAliveAgent(socket_active_ttl=0.05, max_sockets=1) as agent,
        ):
            responses = await asyncio.gather(*(agent.request("GET", server.url) for _ in range(3)))
            assert [response.reused_socket for response in responses] == [False] * 3
            assert server.sockets == 3
            assert server.open_most == 1

    run(main())


def test_ak_13_and_ak_14_a_free_socket_lives_as_long_as_its_ttl_and_no_shorter(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as server,
            AsyncKeepAliveAgent(socket_active_ttl=0.4, free_socket_timeout=30) as agent,
        ):
            await agent.request("GET", server.url)
            assert (await agent.request("GET", server.url)).reused_socket
            await until(lambda: server.open_now == 0)
            assert agent.get_current_status().timeout_socket_count == 1

    run(main())


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_15_and_ak_16_a_free_socket_that_the_server_closes_leaves_the_pool(run: Run, how: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if how == "RST":
            peer.reset()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)
            await until(lambda: agent.get_current_status().free_sockets == {})
            status = agent.get_current_status()
            assert status.close_socket_count == 1
            assert status.error_socket_count == (how == "RST")
            assert not (await agent.request("GET", server.url)).reused_socket
            assert server.sockets == 2

    run(main())


@pytest.mark.parametrize("stray", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"\0", OK])
def test_ak_17_bytes_on_a_free_socket_close_it(run: Run, stray: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 0:
            await asyncio.sleep(0.02)
            await peer.send(stray)
        await echo_forever(peer)

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)
            await until(lambda: agent.get_current_status().free_sockets == {})
            assert agent.get_current_status().error_socket_count == 1
            response = await agent.request("GET", server.url)
            assert (response.status, response.reused_socket) == (200, False)

    run(main())


@pytest.mark.parametrize("behind", [b"X", OK, b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_ak_17_bytes_behind_a_response_close_its_socket(run: Run, behind: bytes) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(OK + behind)

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(3):
                response = await agent.request("GET", server.url)
                assert (response.data, response.reused_socket) == (b"ok", False)

    run(main())


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_18_a_close_in_the_middle_of_a_response_fails_that_request_only(run: Run, how: str) -> None:
    async def handler(peer: Peer) -> None:
        if peer.number:
            await echo_forever(peer)
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await asyncio.sleep(0.02)
        if how == "RST":
            peer.reset()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            results = await asyncio.gather(
                *(agent.request("GET", server.url) for _ in range(3)), return_exceptions=True
            )
            assert isinstance(results[0], IncompleteResponseError)
            assert [getattr(result, "data", result) for result in results[1:]] == [b"ok", b"ok"]

    run(main())


def test_ak_19_a_cancelled_request_closes_its_socket(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(0.2)) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            task = asyncio.ensure_future(agent.request("GET", server.url))
            await until(lambda: server.requests == 1)
            behind = asyncio.ensure_future(agent.request("GET", server.url))
            await asyncio.sleep(0)
            task.cancel()
            assert not (await behind).reused_socket
            assert task.cancelled()
            assert server.sockets == 2
            assert agent.get_current_status().close_socket_count == 1

    run(main())


def test_ak_19_a_request_can_be_cancelled_while_its_socket_connects(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            task = asyncio.ensure_future(agent.request("GET", server.url))
            behind = asyncio.ensure_future(agent.request("GET", server.url))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            assert (await behind).status == 200
            status = agent.get_current_status()
            assert status.create_socket_count == status.close_socket_count + 1
            assert status.create_socket_error_count == 0

    run(main())


def test_ak_20_a_cancelled_pending_request_leaves_the_queue(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(0.05)) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            tasks = [asyncio.ensure_future(agent.request("GET", f"{server.url}{n}")) for n in range(4)]
            await until(lambda: server.requests == 1)
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert [request.split()[1] for request in server.peers[0].requests] == [b"/0", b"/2", b"/3"]
            assert server.sockets == 1

    run(main())


def test_ak_21_a_plain_agent_makes_one_request_a_socket(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncPlainAgent(max_sockets=2) as agent:
            await asyncio.gather(*(agent.request("GET", server.url) for _ in range(6)))
            assert server.sockets == 6
            assert all(b"\r\nConnection: close\r\n" in peer.requests[0] for peer in server.peers)
            await until(lambda: server.open_now == 0)
            status = agent.get_current_status()
            assert (status.close_socket_count, status.request_count, status.free_sockets) == (6, 6, {})

    run(main())


def test_ak_22_a_hand_off_agent_hands_sockets_to_pending_requests(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncPlainAgent(max_sockets=2, hand_off=True) as agent:
            responses = await asyncio.gather(*(agent.request("GET", server.url) for _ in range(10)))
            assert server.sockets == 2
            assert sum(response.reused_socket for response in responses) == 8
            assert all(b"\r\nConnection: keep-alive\r\n" in peer.requests[0] for peer in server.peers)
            await until(lambda: server.open_now == 0)
            await agent.request("GET", server.url)
            assert server.sockets == 3

    run(main())


def test_ak_23_a_refused_connect_fails_its_request_and_the_next_one_tries(run: Run) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"

        async def main() -> None:
            async with AsyncKeepAliveAgent(max_sockets=1) as agent:
                results = await asyncio.gather(*(agent.request("GET", url) for _ in range(3)), return_exceptions=True)
                assert all(isinstance(result, ConnectError) for result in results)
                assert "Connection refused" in str(results[0])
                status = agent.get_current_status()
                assert status.create_socket_error_count == 3
                assert status.create_socket_count == status.close_socket_count == status.error_socket_count == 0

        run(main())


def test_ak_23_a_name_that_does_not_resolve_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def main() -> None:
        async with AsyncKeepAliveAgent() as agent:
            with pytest.raises(ConnectError, match=r"'nowhere.invalid' does not resolve"):
                await agent.request("GET", "http://nowhere.invalid/")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    run(main())


@pytest.mark.parametrize(
    ("number", "error", "advice"),
    [
        (errno.EADDRNOTAVAIL, LocalPortsExhaustedError, "ip_local_port_range"),
        (errno.EMFILE, TooManyOpenFilesError, "ulimit -n"),
    ],
)
def test_ak_23_what_this_machine_has_run_out_of_is_said(number: int, error: type[Exception], advice: str) -> None:
    async def main() -> None:
        async def fail(*_: object, **__: object) -> None:
            raise OSError(number, "no more")

        asyncio.get_running_loop().create_connection = fail  # type: ignore[method-assign, assignment]
        async with AsyncPlainAgent() as agent:
            with pytest.raises(error, match=advice):
                await agent.request("GET", "http://127.0.0.1:9/")

    asyncio.run(main())


def test_ak_23_connecting_takes_no_longer_than_connect_timeout(run: Run) -> None:
    with socket.socket() as full:
        # a listener that accepts nobody, its backlog filled: the next SYN gets no answer
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)

            async def main() -> None:
                async with AsyncKeepAliveAgent(connect_timeout=0.2) as agent:
                    with pytest.raises(ConnectTimeoutError) as caught:
                        await agent.request("GET", f"http://127.0.0.1:{address[1]}/")
                    assert caught.value.timeout == 0.2
                    status = agent.get_current_status()
                    assert (status.create_socket_error_count, status.timeout_socket_count) == (1, 0)

            run(main())


def test_ak_24_close_fails_what_is_under_way_and_what_waits(run: Run) -> None:
    async def main() -> None:
        async def never_answering(peer: Peer) -> None:
            await peer.request()
            await peer.closed_by_client()

        async with ScriptedServer(never_answering) as server:
            agent = AsyncKeepAliveAgent(max_sockets=1)
            tasks = [asyncio.ensure_future(agent.request("GET", server.url)) for _ in range(3)]
            await until(lambda: server.requests == 1)
            await agent.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [AgentClosedError] * 3
            await until(lambda: server.open_now == 0)
            await agent.close()
            with pytest.raises(AgentClosedError):
                await agent.request("GET", server.url)
            status = agent.get_current_status()
            assert (status.create_socket_count, status.close_socket_count) == (1, 1)

    run(main())


def test_ak_24_close_ends_connecting_sockets_too(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server:
            agent = AsyncKeepAliveAgent()
            task = asyncio.ensure_future(agent.request("GET", server.url))
            await asyncio.sleep(0)
            await agent.close()
            with pytest.raises(AgentClosedError):
                await task
            await until(lambda: server.open_now == 0)

    run(main())


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
    ],
)
def test_ak_25_some_responses_are_the_last_on_their_socket(run: Run, response: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(response)
        assert await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(2):
                assert (await agent.request("GET", server.url)).data in (b"ok", b"")
            assert server.sockets == 2

    run(main())


def test_ak_25_an_http_1_0_response_that_asks_for_keep_alive_is_reused(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(3):
                await agent.request("GET", server.url)
            assert server.sockets == 1

    run(main())


def test_ak_25_a_response_that_ends_with_the_connection(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\nall ")
        await peer.send(b"of it")

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(2):
                assert (await agent.request("GET", server.url)).data == b"all of it"
            assert server.sockets == 2

    run(main())


def test_ak_25_our_own_connection_close_is_kept_even_if_the_server_ignores_it(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(2):
                await agent.request("GET", server.url, headers={"connection": "close"})
            assert server.sockets == 2

    run(main())


@pytest.mark.parametrize("keep_alive", [True, False])
def test_ak_26_socket_options(run: Run, keep_alive: bool) -> None:
    async def main() -> None:
        agent = AsyncKeepAliveAgent(keep_alive_delay=7) if keep_alive else AsyncPlainAgent(keep_alive_delay=7)
        async with ScriptedServer(answering_after(0.1)) as server, agent:
            task = asyncio.ensure_future(agent.request("GET", server.url))
            await until(lambda: server.requests == 1)
            (booked,) = agent.book._sockets
            assert booked.handle is not None
            raw = booked.handle.transport.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == keep_alive
            if keep_alive:
                assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            await task

    run(main())


def test_ak_26_no_delay_can_be_switched_off(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(answering_after(0.1)) as server,
            AsyncKeepAliveAgent(no_delay=False) as agent,
        ):
            task = asyncio.ensure_future(agent.request("GET", server.url))
            await until(lambda: server.requests == 1)
            (booked,) = agent.book._sockets
            assert booked.handle is not None
            raw = booked.handle.transport.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            await task

    run(main())


def test_ak_27_a_free_socket_of_another_origin_gives_way(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as one,
            ScriptedServer(echo_forever) as two,
            AsyncKeepAliveAgent(max_total_sockets=1) as agent,
        ):
            await agent.request("GET", one.url)
            assert agent.get_current_status().free_sockets == {one.origin: 1}
            await agent.request("GET", two.url)
            assert agent.get_current_status().free_sockets == {two.origin: 1}
            await until(lambda: one.open_now == 0)
            await asyncio.gather(*(agent.request("GET", url) for url in [one.url, two.url] * 5))
            assert agent.get_current_status().request_count == 12

    run(main())


@pytest.mark.parametrize("scheduling", ["lifo", "fifo"])
def test_ak_28_scheduling(run: Run, scheduling: Any) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(scheduling=scheduling) as agent:
            await asyncio.gather(*(agent.request("GET", server.url) for _ in range(3)))
            for _ in range(6):
                await agent.request("GET", server.url)
            counts = sorted(len(peer.requests) for peer in server.peers)
            assert counts == ([1, 1, 7] if scheduling == "lifo" else [3, 3, 3])

    run(main())


def test_ak_29_a_request_pending_too_long_fails(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(answering_after(0.3)) as server,
            AsyncKeepAliveAgent(max_sockets=1, queue_timeout=0.1) as agent,
        ):
            first = asyncio.ensure_future(agent.request("GET", server.url))
            await until(lambda: server.requests == 1)
            with pytest.raises(QueueTimeoutError) as caught:
                await agent.request("GET", server.url)
            assert caught.value.timeout == 0.1
            assert (await first).status == 200
            assert agent.get_current_status().requests == {}

    run(main())


def test_ak_30_a_keep_alive_hint_shortens_the_free_time(run: Run) -> None:
    async def main() -> None:
        hinting = answering_after(0, b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n")
        async with ScriptedServer(hinting) as server, AsyncKeepAliveAgent(free_socket_timeout=30) as agent:
            await agent.request("GET", server.url)
            assert (await agent.request("GET", server.url)).reused_socket
            loop = asyncio.get_running_loop()
            asked_at = loop.time()
            await until(lambda: server.open_now == 0)
            assert 0.4 < loop.time() - asked_at < 0.95

    run(main())


def test_ak_30_and_ak_31_hints_that_end_a_socket_now(run: Run) -> None:
    async def main() -> None:
        for hint in (b"timeout=0", b"max=0", b"timeout=5, max=0"):
            ending = answering_after(0, b"HTTP/1.1 200 OK\r\nKeep-Alive: " + hint + b"\r\nContent-Length: 0\r\n\r\n")
            async with ScriptedServer(ending) as server, AsyncKeepAliveAgent() as agent:
                for _ in range(2):
                    await agent.request("GET", server.url)
                assert server.sockets == 2
                agent = AsyncKeepAliveAgent(respect_hints=False)
                for _ in range(2):
                    await agent.request("GET", server.url)
                assert server.sockets == 3
                await agent.close()

    run(main())


def test_ak_31_max_requests_per_socket(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(max_requests_per_socket=3) as agent:
            for _ in range(7):
                await agent.request("GET", server.url)
            assert [len(peer.requests) for peer in server.peers] == [3, 3, 1]

    run(main())


def test_ak_32_and_ak_33_the_status(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            before = agent.status_changed
            await agent.request("GET", server.url)
            assert [before, agent.status_changed, agent.status_changed] == [False, True, False]
            status = agent.get_current_status().as_dict()
            assert status["free_sockets"] == {server.origin: 1}
            assert status["create_socket_count"] == status["request_count"] == 1
            assert status["sockets"] == status["requests"] == {}

    run(main())


async def _lose_the_race(peer: Peer) -> None:
    """Answer once; on the first socket, take the next request and reset instead of answering it."""
    await peer.answer()
    if peer.number == 0:
        await peer.request()
        peer.reset()
    else:
        await echo_forever(peer)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_ak_34_an_idempotent_request_on_a_stale_socket_is_sent_again(run: Run, method: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 0:
            await peer.request()
            peer.reset()
        while True:
            await peer.answer(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            await agent.request("GET", server.url)
            response = await agent.request(method, server.url)
            assert (response.status in (200, 204), response.retried, response.reused_socket) == (True, True, False)
            status = agent.get_current_status()
            assert (status.retry_count, status.create_socket_count) == (1, 2)

    run(main())


def test_ak_34_a_post_on_a_stale_socket_is_not_sent_again(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(_lose_the_race) as server, AsyncKeepAliveAgent() as agent:
            await agent.request("POST", server.url, body=b"1")
            with pytest.raises(StaleSocketError) as caught:
                await agent.request("POST", server.url, body=b"2")
            assert caught.value.reused_socket
            assert isinstance(caught.value, ConnectionResetError)
            assert agent.get_current_status().retry_count == 0
            assert server.sockets == 1

    run(main())


def test_ak_34_retry_stale_false_turns_it_off(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(_lose_the_race) as server, AsyncKeepAliveAgent(retry_stale=False) as agent:
            await agent.request("GET", server.url)
            with pytest.raises(StaleSocketError):
                await agent.request("GET", server.url)

    run(main())


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_34_a_request_on_a_first_use_socket_is_never_sent_again(run: Run, how: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        if how == "RST":
            peer.reset()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            with pytest.raises(SocketClosedError) as caught:
                await agent.request("GET", server.url)
            assert not caught.value.reused_socket
            assert not isinstance(caught.value, StaleSocketError)
            assert server.sockets == 1

    run(main())


def test_ak_34_a_request_is_sent_again_only_once_and_not_after_the_first_byte(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        if peer.number == 0:
            await peer.send(b"HTTP/1.1 200")
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)
            with pytest.raises(IncompleteResponseError):
                await agent.request("GET", server.url)
            assert server.sockets == 1

    run(main())


def test_ak_35_a_server_that_resets_idle_sockets_and_says_when_costs_no_request(run: Run) -> None:
    # the row has 2 s and 3 s; here 1 s and 1.5 s, which is as hard and sooner over
    resets_after_s, posts_every_s, users, rounds = 1.0, 1.5, 60, 3

    async def handler(peer: Peer) -> None:
        hinted = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n"
        try:
            while True:
                async with asyncio.timeout(resets_after_s):
                    await peer.request()
                await peer.send(hinted)
        except TimeoutError:
            peer.reset()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(max_sockets=50) as agent:

            async def user(number: int) -> int:
                await asyncio.sleep(number * posts_every_s / users)
                for _ in range(rounds):
                    response = await agent.request("POST", server.url, body=b"x")
                    assert response.status == 200
                    await asyncio.sleep(posts_every_s)
                return rounds

            assert sum(await asyncio.gather(*(user(number) for number in range(users)))) == users * rounds
            assert agent.get_current_status().error_socket_count == 0

    run(main())


# -- responses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("method", "raw", "status", "body"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            200,
            b"hello",
        ),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nTrailer: x\r\n\r\n", 200, b"a"),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x"),
        (
            "GET",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 X\r\nContent-Length: 1\r\n\r\nx",
            201,
            b"x",
        ),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", 304, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", 200, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n", 200, b""),
        ("POST", b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", 503, b"busy"),
    ],
)
def test_bodies_end_where_they_should_and_the_socket_is_reused(
    run: Run, method: str, raw: bytes, status: int, body: bytes, piece: int
) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            for at in range(0, len(raw), piece):
                await peer.send(raw[at : at + piece])
                await asyncio.sleep(0)

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(3):  # the first is parsed; later ones may be recognised
                response = await agent.request(method, server.url, body=b"b" if method == "POST" else None)
                assert (response.status, response.data) == (status, body)
            assert server.sockets == 1
            assert agent.get_current_status().free_sockets == {server.origin: 1}

    run(main())


def test_a_known_head_with_another_body_or_none_is_read_right(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        for body in (b"aaaa", b"bbbb", b"cccc"):
            await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")  # to a HEAD
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndd")
        await asyncio.sleep(0.02)
        await peer.send(b"dd")
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\neeeeX")

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for method, body in zip(("GET", "GET", "GET", "HEAD", "GET", "GET"), "abc de", strict=True):
                response = await agent.request(method, server.url)
                assert response.data == (b"" if method == "HEAD" else body.encode() * 4)
                assert response.headers["content-length"] == "4"
            assert agent.get_current_status().free_sockets == {}

    run(main())


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\0\0\0\0",
    ],
)
def test_what_is_no_response_is_an_error_and_a_closed_socket(run: Run, raw: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(raw)
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(2):
                with pytest.raises(ResponseParseError):
                    await agent.request("GET", server.url)
            status = agent.get_current_status()
            assert (server.sockets, status.error_socket_count, status.free_sockets) == (2, 2, {})

    run(main())


def test_a_response_knows_its_headers_and_its_json(run: Run) -> None:
    raw = b'HTTP/1.1 200 Fine\r\nX-Two: a\r\nx-two: b\r\nContent-Length: 9\r\n\r\n{"a": 12}'

    async def main() -> None:
        async with ScriptedServer(answering_after(0, raw)) as server, AsyncKeepAliveAgent() as agent:
            response = await agent.request("GET", server.url)
            assert response.json() == {"a": 12}
            assert response.headers["X-TWO"] == "a, b"
            assert response.headers.getlist("x-two") == ["a", "b"]
            assert (response.reason, response.http_version) == ("Fine", "1.1")

    run(main())


def test_a_large_body_goes_out_and_comes_back(run: Run) -> None:
    size = 3_000_000

    async def handler(peer: Peer) -> None:
        while True:
            whole = await peer.request()
            body = whole.partition(b"\r\n\r\n")[2]
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for fill in (b"a", b"b"):
                assert (await agent.request("PUT", server.url, body=fill * size)).data == fill * size
            assert server.sockets == 1

    run(main())


def test_a_prepared_request_is_sent_as_often_as_one_likes(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            prepared = agent.prepare("POST", f"{server.url}a?b=c", headers={"X-A": "1"}, body=b"abc")
            for _ in range(3):
                await agent.send(prepared)
            assert len({*server.peers[0].requests}) == 1
            assert server.peers[0].requests[0].startswith(b"POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")

    run(main())


def test_an_ipv6_origin_has_brackets(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever, host="::1") as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)
            assert agent.get_current_status().free_sockets == {f"http://[::1]:{server.port}": 1}
            assert f"Host: [::1]:{server.port}\r\n".encode() in server.peers[0].requests[0]

    run(main())


def test_a_name_with_several_addresses_is_tried_in_turn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(_: str) -> list[str]:
        return ["::1", "127.0.0.1"]

    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            monkeypatch.setattr(resolver, "_look_up", both)
            assert (await agent.request("GET", f"http://two.test:{server.port}/")).status == 200
            assert agent.get_current_status().create_socket_error_count == 0

    run(main())


def test_sockets_and_parsers_need_no_garbage_collection(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(closing_after()) as server, AsyncPlainAgent(max_sockets=4) as agent:
            await asyncio.gather(*(agent.request("GET", server.url) for _ in range(20)))
            await asyncio.sleep(0.05)
            alive = [thing for thing in gc.get_objects() if isinstance(thing, Connection | ResponseReader)]
            assert alive == []

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


# -- what must not go wrong in the agent itself --------------------------------------------------------------------


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "x" * 300 + ".test"])
def test_a_host_that_is_no_host_name_fails_at_once(run: Run, host: str) -> None:
    async def main() -> None:
        async with AsyncKeepAliveAgent(timeout=0) as agent:
            with pytest.raises(ConnectError, match="does not resolve"):
                await agent.request("GET", f"http://{host}/")
            assert agent.get_current_status().sockets == {}

    run(main())


def test_ak_26_a_probe_delay_beyond_what_the_system_takes_is_its_longest(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(keep_alive_delay="10h") as agent:
            assert (await agent.request("GET", server.url)).status == 200

    run(main())


def test_closed_sockets_keep_no_response_alive(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(closing_after()) as server, AsyncPlainAgent() as agent:
            for _ in range(20):
                await agent.request("GET", server.url)
            await asyncio.sleep(0.05)
            alive = [thing for thing in gc.get_objects() if isinstance(thing, Response | FutureExchange)]
            assert alive == []

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_ak_10_bytes_that_go_out_are_activity(run: Run) -> None:
    size = 24_000_000

    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < size:  # slowly, but never for as long as the timeout without taking any
            taken += len(await peer.reader.readexactly(min(1_000_000, size - taken)))
            await asyncio.sleep(0.03)
        await peer.send(OK)
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(timeout=0.45) as agent:
            assert (await agent.request("PUT", server.url, body=bytes(size))).status == 200

    run(main())


def test_an_answer_before_the_request_was_sent_ends_the_socket(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(2):
                response = await agent.request("PUT", server.url, body=bytes(30_000_000))
                assert (response.status, response.reused_socket) == (413, False)
            assert agent.get_current_status().free_sockets == {}

    run(main())


class Meddling(Exchange):
    """An exchange whose owner does something to the agent when it fails."""

    def __init__(self, prepared: PreparedRequest, timeout: float, meddle: Callable[[], None], heard: list[str]) -> None:
        super().__init__(prepared, timeout)
        self._meddle = meddle
        self._heard = heard

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        self._heard.append("succeeded")

    def failed(self, error: Exception, now: float) -> None:
        self._heard.append(type(error).__name__)
        self._meddle()


def test_one_who_asks_again_while_the_agent_closes_does_not_keep_others_from_hearing(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(5)) as server:
            agent = AsyncKeepAliveAgent(max_sockets=2)
            prepared = agent.prepare("GET", server.url)
            heard: list[str] = []
            complaints: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

            def ask_again() -> None:
                agent.start(Meddling(prepared, 5, lambda: None, heard), time.perf_counter())

            for _ in range(4):
                agent.start(Meddling(prepared, 5, ask_again, heard), time.perf_counter())
            await until(lambda: server.requests == 2)
            agent.close_now()
            assert heard == ["AgentClosedError"] * 4
            assert len(complaints) == 4

    run(main())


def test_one_who_closes_the_agent_when_told_of_a_timeout_leaves_it_in_order(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(5)) as server:
            agent = AsyncKeepAliveAgent(max_sockets=2)
            prepared = agent.prepare("GET", server.url)
            heard: list[str] = []
            now = time.perf_counter()
            for _ in range(4):
                agent.start(Meddling(prepared, 0.1, agent.close_now, heard), now)
            await until(lambda: len(heard) == 4)
            assert heard.count("SocketTimeoutError") == 2
            assert heard.count("AgentClosedError") == 2
            status = agent.get_current_status()
            assert status.create_socket_count == status.close_socket_count == 2
            assert status.sockets == status.free_sockets == {}

    run(main())
