"""The asyncio agents over https: handshakes that fail, and bodies both ways."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AgentClosedError,
    AgentError,
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    CertificateError,
    ConnectTimeoutError,
    IncompleteResponseError,
    TlsError,
)
from tests.sockets import (
    Peer,
    ScriptedServer,
    echo_forever,
    until,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

from tests.certificates import (
    UNTIL_CLOSE,
    Keys,
    Rush,
    cut_off,
    drips,
    echo_bodies,
    in_both_versions,
    read_all,
    reads_and_closes,
    reads_and_resets,
    speaks_plain_http,
)

# -- asyncio: handshakes that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [read_all, drips])
def test_the_connect_timeout_covers_a_handshake_that_never_ends(run: Run, keys: Keys, handler: Handler) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(handler) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), connect_timeout=0.15, max_sockets=1) as agent,
        ):
            begun = time.monotonic()
            url = f"https://127.0.0.1:{server.port}/"
            both = await asyncio.gather(*(agent.request("GET", url) for _ in range(2)), return_exceptions=True)
            for error in both:
                assert isinstance(error, ConnectTimeoutError)
                assert error.timeout == 0.15
            assert 0.3 <= time.monotonic() - begun < 3
            await until(lambda: server.open_now == 0)
            status = agent.get_current_status()
            assert (status.create_socket_error_count, status.create_socket_count, status.sockets) == (2, 0, {})

    run(main())


@pytest.mark.parametrize("handler", [reads_and_closes, reads_and_resets, speaks_plain_http])
def test_ak_23_a_server_that_does_not_finish_the_handshake_is_a_tls_error(
    run: Run, keys: Keys, handler: Handler
) -> None:
    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(tls=keys.trusted(), max_sockets=1) as agent:
            url = f"https://127.0.0.1:{server.port}/"
            outcomes = await asyncio.gather(*(agent.request("GET", url) for _ in range(3)), return_exceptions=True)
            for error in outcomes:
                assert isinstance(error, TlsError)
                assert not isinstance(error, CertificateError)
                assert f"https://127.0.0.1:{server.port}" in str(error)
            status = agent.get_current_status()
            assert (status.create_socket_error_count, status.create_socket_count, status.close_socket_count) == (
                3,
                0,
                0,
            )
            assert (status.error_socket_count, status.sockets, status.requests) == (0, {}, {})

    run(main())


def test_a_plain_http_request_to_a_tls_port_fails_and_the_agent_lives_on(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            with pytest.raises(AgentError):
                await agent.request("GET", server.url.replace("https", "http"))
            assert server.requests == 0
            assert (await agent.request("GET", server.url)).status == 200

    run(main())


def test_ak_19_a_request_that_is_cancelled_in_the_handshake_closes_its_socket(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with ScriptedServer(read_all) as server, AsyncKeepAliveAgent(tls=keys.trusted()) as agent:
            task = asyncio.ensure_future(agent.request("GET", f"https://127.0.0.1:{server.port}/"))
            await until(lambda: server.open_now == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.open_now == 0)
            assert agent.get_current_status().sockets == {}

    run(main())


def test_ak_24_closing_the_agent_ends_a_handshake(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with ScriptedServer(read_all) as server, AsyncKeepAliveAgent(tls=keys.trusted()) as agent:
            task = asyncio.ensure_future(agent.request("GET", f"https://127.0.0.1:{server.port}/"))
            await until(lambda: server.open_now == 1)
            await agent.close()
            with pytest.raises(AgentClosedError):
                await task
            await until(lambda: server.open_now == 0)

    run(main())


# -- asyncio: bodies ---------------------------------------------------------------------------------------------------


@in_both_versions
def test_large_bodies_go_both_ways(run: Run, keys: Keys, version: ssl.TLSVersion) -> None:
    body = os.urandom(4_000_003)

    async def main() -> None:
        async with (
            ScriptedServer(echo_bodies, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            for size in (len(body), 16_384, 16_385, 65_537):
                assert (await agent.request("PUT", server.url, body=body[:size])).data == body[:size]
            assert server.sockets == 1

    run(main())


def test_large_bodies_go_both_ways_in_pieces(run: Run, keys: Keys) -> None:
    pieces = [os.urandom(size) for size in (1, 16_384, 100_000, 1_500_000)]
    whole = b"".join(pieces)

    async def main() -> None:
        async with (
            ScriptedServer(echo_bodies, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            headers = {"Content-Length": str(len(whole))}
            for _ in range(2):
                async with agent.stream("PUT", server.url, headers=headers, body=pieces) as response:
                    assert b"".join([piece async for piece in response.aiter_bytes()]) == whole
            assert server.sockets == 1

    run(main())


def test_a_server_is_held_while_nobody_reads(run: Run, keys: Keys) -> None:
    size, sent = 50_000_000, [0]

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent[0] < size:
            await peer.send(bytes(50_000))
            sent[0] += 50_000
        await peer.closed_by_client()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), timeout=0.2) as agent,
            agent.stream("GET", server.url) as response,
        ):
            before = -1
            while sent[0] != before:
                before = sent[0]
                await asyncio.sleep(0.25)
            assert before < size / 2  # what the system's buffers hold, and ours
            assert sum([len(piece) async for piece in response.aiter_bytes()]) == size
            assert agent.get_current_status().free_sockets == {server.origin: 1}

    run(main())


@in_both_versions
@pytest.mark.parametrize("size", [2, 300_000])
def test_a_body_that_ends_with_a_goodbye_is_whole(run: Run, keys: Keys, version: ssl.TLSVersion, size: int) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(UNTIL_CLOSE + bytes(size))

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            assert (await agent.request("GET", server.url)).data == bytes(size)
            async with agent.stream("GET", server.url) as response:
                assert await response.aread() == bytes(size)
            assert server.sockets == 2

    run(main())


@in_both_versions
@pytest.mark.parametrize("size", [2, 300_000])
def test_a_body_that_ends_without_a_goodbye_may_have_been_cut_off(
    run: Run, keys: Keys, version: ssl.TLSVersion, size: int
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(UNTIL_CLOSE + bytes(size))
        await cut_off(peer)

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            with pytest.raises(IncompleteResponseError):
                await agent.request("GET", server.url)
            async with agent.stream("GET", server.url) as response:
                with pytest.raises(IncompleteResponseError):
                    await response.aread()

    run(main())


@pytest.mark.parametrize("ending", ["goodbye", "cut off"])
def test_ak_18_a_body_that_is_too_short_is_incomplete_however_it_ends(run: Run, keys: Keys, ending: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell")
        if ending == "cut off":
            await cut_off(peer)

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            with pytest.raises(IncompleteResponseError):
                await agent.request("GET", server.url)

    run(main())


@in_both_versions
def test_ak_21_plain_agents_open_a_socket_a_request_and_never_too_many(
    run: Run, keys: Keys, version: ssl.TLSVersion
) -> None:
    rush = Rush()

    async def main() -> None:
        async with (
            ScriptedServer(rush, tls=keys.server_context(version=version)) as server,
            AsyncPlainAgent(tls=keys.trusted(), max_sockets=5) as agent,
        ):
            responses = await asyncio.gather(*(agent.request("GET", server.url) for _ in range(40)))
            assert [response.data for response in responses] == [b"ok"] * 40
            assert (server.sockets, agent.tls_handshake_count) == (40, 40)
            assert rush.most <= 5
            assert agent.tls_resumed_count > 20
            assert all(b"\r\nConnection: close\r\n" in peer.requests[0] for peer in server.peers)
            await until(lambda: server.open_now == 0)

    run(main())


def test_ak_22_a_plain_agent_hands_secured_sockets_on(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncPlainAgent(tls=keys.trusted(), max_sockets=3, hand_off=True) as agent,
        ):
            await asyncio.gather(*(agent.request("GET", server.url) for _ in range(30)))
            assert server.sockets == agent.tls_handshake_count == 3
            await until(lambda: server.open_now == 0)

    run(main())
