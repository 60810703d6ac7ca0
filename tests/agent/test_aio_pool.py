"""The asyncio agents' pool on real sockets, on asyncio's loop and on uvloop: AK-01 to AK-29."""

from __future__ import annotations

import asyncio
import contextlib
import errno
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
    SocketTimeoutError,
    TooManyOpenFilesError,
)
from kabench.agent.aio.connection import Connection
from tests.sockets import OK, Peer, ScriptedServer, answering_after, echo_forever, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


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
            assert isinstance(booked.handle, Connection)
            raw = booked.handle.transport.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == keep_alive
            if keep_alive:
                assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
                assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 7
                assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 10
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
            assert isinstance(booked.handle, Connection)
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
