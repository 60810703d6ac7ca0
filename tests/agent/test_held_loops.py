"""What waits in the kernel when a socket is used again, however long nobody looked: the same for every agent (AK-61).

Between two requests of `any_agent` no event loop turns, so whatever the server does meanwhile waits in the kernel.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import AsyncKeepAliveAgent
from tests.agent.both import KINDS, any_agent, each_agent
from tests.sockets import LOOPS, OK, Peer, ScriptedServer, echo_forever, run_in, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.certificates import Keys

    Handler = Callable[[Peer], Awaitable[None]]

STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nBAD"
LATE_408 = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlate"


def unasked(what: str, done: list[int]) -> Handler:
    """Answer one request a socket with its own path, and a moment later do what nobody has asked for."""

    async def handler(peer: Peer) -> None:
        while True:
            path = (await peer.request()).split(b" ")[1]
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)
            if path != b"/first":
                continue
            await asyncio.sleep(0.02)
            if what == "RST":
                peer.reset()
            elif what != "FIN":
                await peer.send(STRAY if what == "a stray 200" else LATE_408)
            done.append(peer.number)
            if what != "a stray 200":
                return

    return handler


@each_agent
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("what", ["FIN", "RST", "a late 408", "a stray 200"])
def test_ak_61_what_waits_in_the_kernel_closes_the_socket_and_answers_nobody(
    kind: str, scheme: str, method: str, what: str, keys: Keys
) -> None:
    done: list[int] = []
    tls = keys.server_context() if scheme == "https" else None
    options = {"ca_data": keys.ca_data} if tls else {}
    body = b"x" if method == "POST" else None
    with serving(unasked(what, done), tls=tls) as server:
        for number in range(6):
            with any_agent(kind, **options) as agent:
                assert agent.ask("GET", server.url + "first").data == b"/first"
                wait_until(lambda: len(done) > number)  # noqa: B023  # it is called at once
                time.sleep(0.02)  # until it has arrived
                answers = [agent.ask(method, f"{server.url}own-{turn}", body=body) for turn in range(3)]
                assert [answer.data for answer in answers] == [b"/own-0", b"/own-1", b"/own-2"]
                assert [answer.reused for answer in answers] == [False, True, True]
                status = agent.status()
                assert (status.stale_socket_count, status.retry_count, status.create_socket_count) == (0, 0, 2)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "threads"])
def test_ak_61_a_socket_that_is_handed_over_is_looked_at_too(kind: str) -> None:
    """The loop is held while the response and the end of its socket arrive, and a POST waits for that socket."""

    async def main(url: str) -> None:
        async with AsyncKeepAliveAgent(max_sockets=1) as agent:
            for _ in range(5):
                under_way = asyncio.ensure_future(agent.request("GET", url))
                await asyncio.sleep(0)
                waiting = asyncio.ensure_future(agent.request("POST", url, body=b"x"))
                await asyncio.sleep(0.005)
                time.sleep(0.05)  # noqa: ASYNC251  # the loop is held
                assert (await under_way).data == b"ok"
                assert not (await waiting).retried
            assert agent.get_current_status().stale_socket_count == 0

    async def slow(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.02)
        await peer.send(OK)
        if peer.number % 2:
            await echo_forever(peer)

    with serving(slow) as server:
        run_in(kind, main(server.url))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "threads"])
def test_ak_61_a_hundred_dead_sockets_are_passed_over_one_after_the_other(kind: str) -> None:
    gone: list[int] = []

    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number >= 100:
            await echo_forever(peer)
        await asyncio.sleep(0.3)
        gone.append(peer.number)

    async def main(url: str) -> None:
        async with AsyncKeepAliveAgent() as agent:
            await asyncio.gather(*(agent.request("GET", url) for _ in range(100)))
            while len(gone) < 100:
                time.sleep(0.02)  # noqa: ASYNC251  # the loop is held
            time.sleep(0.05)  # noqa: ASYNC251
            response = await agent.request("POST", url, body=b"x")
            assert (response.status, response.reused_socket) == (200, False)
            status = agent.get_current_status()
            assert (status.closed_by["server_closed"], status.free_sockets) == (100, {url.rstrip("/"): 1})
            assert not agent.book.contradictions()

    with serving(handler) as server:
        run_in(kind, main(server.url))


@pytest.mark.parametrize("kind", sorted(LOOPS))
def test_ak_61_a_socket_in_quick_use_is_not_looked_at(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kabench.agent.aio import connection

    looks: list[Any] = []
    look = connection.Connection.look

    def counting(self: connection.Connection, now: float) -> Any:
        looks.append(now)
        return look(self, now)

    monkeypatch.setattr(connection.Connection, "look", counting)
    monkeypatch.setattr(connection, "_LOOKED_AT_AFTER_S", 0.5)

    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(20):
                await agent.request("GET", server.url)
            assert not looks
            await asyncio.sleep(0.6)
            await agent.request("GET", server.url)
            assert len(looks) == 1

    run_in(kind, main())
