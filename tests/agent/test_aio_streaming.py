"""Responses that are read as they come, by the asyncio agents on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AgentClosedError,
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    IncompleteResponseError,
    ResponseParseError,
    SocketClosedError,
    SocketTimeoutError,
    StreamConsumedError,
)
from tests.sockets import Peer, ScriptedServer, answering_after, echo_forever, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

from tests.streams import (
    CHUNKED,
    HELLO,
    MANY_BYTES,
    PIECE,
    OwnError,
    chunk,
    collect,
    enter,
    steady,
)

# -- responses as they come --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunks", "until close"])
def test_pieces_arrive_as_the_server_sends_them(run: Run, framing: str) -> None:
    head = {"length": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "chunks": CHUNKED}.get(
        framing, b"HTTP/1.1 200 OK\r\n\r\n"
    )

    async def main() -> None:
        may_go_on = asyncio.Semaphore(0)

        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(head)
            for piece in (b"one", b"two"):
                await may_go_on.acquire()
                await peer.send(chunk(piece) if framing == "chunks" else piece)
            await may_go_on.acquire()
            await peer.send(b"0\r\n\r\n" if framing == "chunks" else b"")

        async with (
            ScriptedServer(handler) as server,
            AsyncKeepAliveAgent() as agent,
            agent.stream("GET", server.url) as response,
        ):
            assert (response.status, response.reason, response.http_version) == (200, "OK", "1.1")
            pieces = response.aiter_bytes()
            for piece in (b"one", b"two"):
                may_go_on.release()
                assert await anext(pieces) == piece
            may_go_on.release()
            assert [piece async for piece in pieces] == []

    run(main())


def test_a_streamed_response_knows_its_headers_and_its_socket(run: Run) -> None:
    raw = b"HTTP/1.1 201 Made\r\nX-Two: a\r\nx-two: b\r\nContent-Length: 2\r\n\r\nok"

    async def main() -> None:
        async with ScriptedServer(answering_after(0, raw)) as server, AsyncKeepAliveAgent() as agent:
            for expected in (False, True):
                async with agent.stream("GET", server.url) as response:
                    assert (response.status, response.reason) == (201, "Made")
                    assert response.headers["X-TWO"] == "a, b"
                    assert (response.reused_socket, response.retried) == (expected, False)
                    assert await response.aread() == b"ok"

    run(main())


@pytest.mark.parametrize("raw", [HELLO, CHUNKED + chunk(b"hel") + chunk(b"lo") + b"0\r\n\r\n"])
def test_the_socket_is_free_once_the_body_was_read_to_its_end(run: Run, raw: bytes) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(0, raw)) as server, AsyncKeepAliveAgent() as agent:
            async with agent.stream("GET", server.url) as response:
                assert await response.aread() == b"hello"
                assert agent.get_current_status().free_sockets == {server.origin: 1}
                assert (await agent.request("GET", server.url)).reused_socket
            assert agent.get_current_status().free_sockets == {server.origin: 1}
            assert server.sockets == 1

    run(main())


@pytest.mark.parametrize("leaving", ["unread", "half read", "by an error"])
def test_leaving_early_closes_the_socket_and_the_next_request_gets_a_new_one(run: Run, leaving: str) -> None:
    async def handler(peer: Peer) -> None:
        if peer.number > 0:
            await echo_forever(peer)
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            with contextlib.suppress(OwnError):
                async with agent.stream("GET", server.url) as response:
                    if leaving == "half read":
                        pieces = response.aiter_bytes()
                        assert await anext(pieces) == b"hello"
                    elif leaving == "by an error":
                        raise OwnError
            await until(lambda: server.open_now == 0)
            assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}
            with pytest.raises(StreamConsumedError):
                await response.aread()
            assert not (await agent.request("GET", server.url)).reused_socket
            assert server.sockets == 2

    run(main())


def test_ak_19_a_request_that_is_cancelled_before_its_head_came_closes_the_socket(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:

            async def read() -> None:
                await enter(agent.stream("GET", server.url))

            task = asyncio.ensure_future(read())
            await until(lambda: server.requests == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.open_now == 0)
            assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}

    run(main())


def test_ak_19_a_reader_that_is_cancelled_closes_the_socket(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(CHUNKED + chunk(b"hello"))
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            read: list[bytes] = []

            async def read_all() -> None:
                async with agent.stream("GET", server.url) as response:
                    async for piece in response.aiter_bytes():
                        read.append(piece)  # noqa: PERF401  # seen from outside while it grows

            task = asyncio.ensure_future(read_all())
            await until(lambda: read == [b"hello"])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.open_now == 0)
            assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}

    run(main())


def test_ak_20_a_stream_that_is_cancelled_while_it_waits_for_a_socket_leaves_the_queue(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(0.1)) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:

            async def read() -> bytes:
                async with agent.stream("GET", server.url) as response:
                    return await response.aread()

            tasks = [asyncio.ensure_future(read()) for _ in range(3)]
            await until(lambda: agent.get_current_status().requests == {server.origin: 2})
            tasks[1].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [outcomes[0], outcomes[2]] == [b"ok", b"ok"]
            assert (server.sockets, server.requests) == (1, 2)

    run(main())


def test_ak_24_closing_the_agent_ends_a_stream_after_what_has_come(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(CHUNKED + chunk(b"hello"))
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            async with agent.stream("GET", server.url) as response:
                await agent.close()
                pieces = response.aiter_bytes()
                assert await anext(pieces) == b"hello"
                with pytest.raises(AgentClosedError):
                    await anext(pieces)
            await until(lambda: server.open_now == 0)

    run(main())


@pytest.mark.parametrize(
    ("rest", "error"), [(b"", IncompleteResponseError), (b"zz\r\n", ResponseParseError)], ids=["closed", "nonsense"]
)
def test_ak_18_an_error_in_the_middle_is_raised_behind_the_pieces_that_came(
    run: Run, rest: bytes, error: type[Exception]
) -> None:
    async def main() -> None:
        may_go_on = asyncio.Event()

        async def handler(peer: Peer) -> None:
            await peer.answer(CHUNKED + chunk(b"one") + chunk(b"two"))
            await may_go_on.wait()
            await peer.send(chunk(b"three") + rest)

        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            async with agent.stream("GET", server.url) as response:
                may_go_on.set()
                await until(lambda: agent.get_current_status().sockets == {})  # the error is there before it is read
                taken = bytearray()
                with pytest.raises(error):
                    await collect(response, taken)
                assert taken.startswith(b"onetwo")
                assert taken == b"onetwothree" or error is ResponseParseError  # nonsense may take it along
            assert agent.get_current_status().free_sockets == {}

    run(main())


def test_a_server_that_closes_before_the_head_fails_the_stream_on_entering(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            with pytest.raises(SocketClosedError) as caught:
                await enter(agent.stream("GET", server.url))
            assert not isinstance(caught.value, IncompleteResponseError)

    run(main())


def test_ak_34_a_stream_on_a_stale_socket_is_sent_again(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        if peer.number == 1:
            raise AssertionError("the second socket carries one request")

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)
            async with agent.stream("GET", server.url) as response:
                assert (response.retried, response.reused_socket) == (True, False)
                assert await response.aread() == b"ok"

    run(main())


@pytest.mark.parametrize("first", ["aread", "aiter_bytes"])
@pytest.mark.parametrize("second", ["aread", "aiter_bytes"])
def test_a_body_can_be_read_once(run: Run, first: str, second: str) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as server,
            AsyncKeepAliveAgent() as agent,
            agent.stream("GET", server.url) as response,
        ):
            whole = await response.aread() if first == "aread" else b"".join([p async for p in response.aiter_bytes()])
            assert whole == b"ok"
            with pytest.raises(StreamConsumedError):
                await (response.aread() if second == "aread" else anext(response.aiter_bytes()))

    run(main())


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        ("HEAD", CHUNKED),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", CHUNKED + b"0\r\n\r\n"),
    ],
)
def test_a_response_without_a_body_has_no_pieces_and_its_socket_is_reused(run: Run, method: str, raw: bytes) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(0, raw)) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(3):
                async with agent.stream(method, server.url) as response:
                    assert [piece async for piece in response.aiter_bytes()] == []
            assert server.sockets == 1

    run(main())


def test_plain_agents_stream_too(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncPlainAgent() as agent:
            for _ in range(2):
                async with agent.stream("GET", server.url) as response:
                    assert await response.aread() == b"ok"
            assert server.sockets == 2
            await until(lambda: server.open_now == 0)

    run(main())


# -- slow readers and silent servers -----------------------------------------------------------------------------------


def test_a_server_is_held_while_nobody_reads_and_the_activity_timeout_waits(run: Run) -> None:
    sent = [0]

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MANY_BYTES)
        while sent[0] < MANY_BYTES:
            piece = PIECE[: MANY_BYTES - sent[0]]
            await peer.send(piece)
            sent[0] += len(piece)
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(timeout=0.1) as agent:
            async with agent.stream("GET", server.url) as response:
                assert await steady(lambda: sent[0]) < MANY_BYTES / 2  # what the system's buffers hold, and ours
                await asyncio.sleep(0.2)
                taken = 0
                async for piece in response.aiter_bytes():
                    if taken == 0:
                        await asyncio.sleep(0.2)
                        assert sent[0] < MANY_BYTES / 2
                    taken += len(piece)
                assert taken == MANY_BYTES
            assert agent.get_current_status().free_sockets == {server.origin: 1}
            assert agent.get_current_status().timeout_socket_count == 0

    run(main())


def test_ak_10_a_server_that_falls_silent_in_a_body_times_out(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(CHUNKED + chunk(b"hello"))
        await peer.closed_by_client()

    async def main() -> None:
        async with (
            ScriptedServer(handler) as server,
            AsyncKeepAliveAgent(timeout=0.1) as agent,
            agent.stream("GET", server.url) as response,
        ):
            pieces = response.aiter_bytes()
            assert await anext(pieces) == b"hello"
            with pytest.raises(SocketTimeoutError) as caught:
                await anext(pieces)
            assert caught.value.timeout == 0.1
            await until(lambda: server.open_now == 0)
            assert agent.get_current_status().timeout_socket_count == 1

    run(main())


@pytest.mark.parametrize("size", [300_000, 1_000_000])  # all of it with us when it is held, and some yet to come
def test_ak_10_the_activity_timeout_starts_again_when_a_slow_reader_goes_on(run: Run, size: int) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (size + 1) + bytes(size))
        await peer.closed_by_client()

    async def main() -> None:
        async with (
            ScriptedServer(handler) as server,
            AsyncKeepAliveAgent(timeout=0.1) as agent,
            agent.stream("GET", server.url) as response,
        ):
            await asyncio.sleep(0.3)
            taken = bytearray()
            begun = time.monotonic()
            with pytest.raises(SocketTimeoutError):
                await collect(response, taken)
            assert len(taken) == size
            assert 0.1 <= time.monotonic() - begun < 3

    run(main())


def test_ak_11_a_stream_s_own_timeout_wins(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(timeout=30) as agent:
            with pytest.raises(SocketTimeoutError) as caught:
                await enter(agent.stream("GET", server.url, timeout="50ms"))
            assert caught.value.timeout == 0.05

    run(main())


def test_ak_10_an_upload_under_way_does_not_start_the_timeout_of_a_body_that_nobody_reads(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        while await peer.reader.read(65_536):
            pass

    async def slowly() -> Any:
        for _ in range(8):
            await asyncio.sleep(0.05)
            yield b"y" * 100

    async def main() -> None:
        async with (
            ScriptedServer(handler) as server,
            AsyncKeepAliveAgent(timeout=0.5) as agent,
            agent.stream("POST", server.url, body=slowly()) as response,
        ):
            await asyncio.sleep(1.5)  # nobody reads, and nobody is to be given up
            assert len(await response.aread()) == 3_000_000

    run(main())
