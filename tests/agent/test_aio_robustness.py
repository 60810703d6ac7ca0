"""What must not go wrong in the asyncio agents themselves: memory, large requests, callbacks that meddle."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    ConnectError,
)
from kabench.agent.aio import Exchange, Response
from kabench.agent.aio.connection import Connection
from kabench.agent.aio.exchange import FutureExchange
from kabench.agent.reader import ResponseReader
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
