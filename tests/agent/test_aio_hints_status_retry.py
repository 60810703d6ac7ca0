"""Hints, status and retries of the asyncio agents on real sockets: AK-30 to AK-35."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AsyncKeepAliveAgent,
    IncompleteResponseError,
    SocketClosedError,
    StaleSocketError,
)
from tests.sockets import Peer, ScriptedServer, answering_after, echo_forever, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


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
        retry_stale: Any = "idempotent" if method in ("PUT", "DELETE") else "safe"
        agent = AsyncKeepAliveAgent(max_sockets=1, retry_stale=retry_stale)
        async with ScriptedServer(handler) as server, agent:
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
