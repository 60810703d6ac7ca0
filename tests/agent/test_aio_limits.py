"""Responses over their limit, what is no JSON, another loop and a closed agent: the asyncio agents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AgentClosedError,
    AsyncKeepAliveAgent,
    NotJsonError,
    ResponseTooLargeError,
    WrongLoopError,
)
from tests.sockets import Peer, ScriptedServer, answering_after, echo_forever, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

from tests.streams import (
    CHUNKED,
    HELLO,
    Supply,
    chunk,
    enter,
)

# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["option", "request", "prepared"])
@pytest.mark.parametrize(
    ("raw", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b""),
        (CHUNKED + chunk(b"hel"), chunk(b"lo!")),
        (b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo!"),
    ],
    ids=["length", "chunks", "until close"],
)
def test_a_response_over_the_limit_fails_as_soon_as_that_is_known(
    run: Run, where: str, raw: bytes, rest: bytes
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(raw)
        await asyncio.sleep(0.02)
        await peer.send(rest)
        await peer.closed_by_client()  # the response has no end, and yet it is over

    async def main() -> None:
        async with (
            ScriptedServer(handler) as server,
            AsyncKeepAliveAgent(max_response_bytes=5 if where == "option" else None) as agent,
        ):
            request = {
                "option": agent.request("GET", server.url),
                "request": agent.request("GET", server.url, max_response_bytes=5),
                "prepared": agent.send(agent.prepare("GET", server.url), max_response_bytes=5),
            }
            for other in request.keys() - {where}:
                request[other].close()
            with pytest.raises(ResponseTooLargeError, match="5 bytes"):
                await request[where]
            await until(lambda: server.open_now == 0)
            assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}

    run(main())


@pytest.mark.parametrize(
    "raw",
    [HELLO, CHUNKED + chunk(b"hel") + chunk(b"lo") + b"0\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\nhello"],
    ids=["length", "chunks", "until close"],
)
def test_a_response_at_the_limit_passes(run: Run, raw: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(raw)
        if b"HTTP/1.0" not in raw:
            await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(max_response_bytes=5) as agent:
            assert (await agent.request("GET", server.url)).data == b"hello"

    run(main())


@pytest.mark.parametrize("times_before", [0, 1, 2])
def test_a_response_over_the_limit_closes_its_socket_even_if_its_head_is_known(run: Run, times_before: int) -> None:
    async def main() -> None:
        async with ScriptedServer(answering_after(0, HELLO)) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(times_before):
                await agent.request("GET", server.url)
            with pytest.raises(ResponseTooLargeError):
                await agent.request("GET", server.url, max_response_bytes=4)
            assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}
            await until(lambda: server.open_now == 0)

    run(main())


def test_a_request_s_own_limit_wins_over_the_agent_s(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(answering_after(0, HELLO)) as server,
            AsyncKeepAliveAgent(max_response_bytes=4) as agent,
        ):
            assert (await agent.request("GET", server.url, max_response_bytes=5)).data == b"hello"
            with pytest.raises(ResponseTooLargeError):
                await agent.request("GET", server.url)

    run(main())


def test_a_head_that_describes_a_large_body_is_not_over_the_limit(run: Run) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"

    async def main() -> None:
        async with (
            ScriptedServer(answering_after(0, raw)) as server,
            AsyncKeepAliveAgent(max_response_bytes=4) as agent,
        ):
            assert (await agent.request("HEAD", server.url)).status == 200

    run(main())


def test_a_streamed_response_has_no_limit(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(answering_after(0, HELLO)) as server,
            AsyncKeepAliveAgent(max_response_bytes=4) as agent,
            agent.stream("GET", server.url) as response,
        ):
            assert await response.aread() == b"hello"

    run(main())


# -- what is no JSON, another loop, a closed agent ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "shown"), [(b"<html>", "<html>"), (b"", "''"), (b"x" * 5_000, "xxx..."), (b"\xff\xfe\xfd", "no JSON")]
)
def test_a_body_that_is_no_json_says_what_came(run: Run, body: bytes, shown: str) -> None:
    raw = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def main() -> None:
        async with ScriptedServer(answering_after(0, raw)) as server, AsyncKeepAliveAgent() as agent:
            response = await agent.request("GET", server.url)
            with pytest.raises(NotJsonError) as caught:
                response.json()
            assert isinstance(caught.value, ValueError)
            text = str(caught.value)
            assert all(part in text for part in ("502", "text/html", shown))
            assert len(text) < 1_000

    run(main())


def test_an_agent_is_for_one_event_loop(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)

            async def elsewhere() -> None:
                with pytest.raises(WrongLoopError, match="event loop"):
                    await agent.request("GET", server.url)
                with pytest.raises(WrongLoopError):
                    await agent.send(agent.prepare("GET", server.url))
                with pytest.raises(WrongLoopError):
                    await enter(agent.stream("GET", server.url))

            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
            assert (await agent.request("GET", server.url)).reused_socket
            assert server.requests == 2

    run(main())


def test_ak_24_a_closed_agent_refuses_every_kind_of_request(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server:
            agent = AsyncKeepAliveAgent()
            prepared = agent.prepare("GET", server.url)
            await agent.request("GET", server.url)
            await agent.close()
            supply = Supply()
            with pytest.raises(AgentClosedError):
                await agent.request("GET", server.url)
            with pytest.raises(AgentClosedError):
                await agent.send(prepared)
            with pytest.raises(AgentClosedError):
                await agent.request("PUT", server.url, body=supply.pieces())
            with pytest.raises(AgentClosedError):
                await enter(agent.stream("GET", server.url))
            assert supply.drawn == 0
            assert server.requests == 1

    run(main())
