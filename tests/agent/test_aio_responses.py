"""What the asyncio agents make of bytes: bodies, heads, URLs and addresses, on real sockets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AsyncKeepAliveAgent,
    ResponseParseError,
)
from kabench.agent.aio import resolver
from tests.sockets import Peer, ScriptedServer, answering_after, echo_forever

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


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


def test_ak_44_an_ipv6_origin_has_brackets(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever, host="::1") as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)
            assert agent.get_current_status().free_sockets == {f"http://[::1]:{server.port}": 1}
            assert f"Host: [::1]:{server.port}\r\n".encode() in server.peers[0].requests[0]

    run(main())


def test_ak_44_a_name_with_several_addresses_is_tried_in_turn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(_: str) -> list[str]:
        return ["::1", "127.0.0.1"]

    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            monkeypatch.setattr(resolver, "_look_up", both)
            assert (await agent.request("GET", f"http://two.test:{server.port}/")).status == 200
            assert agent.get_current_status().create_socket_error_count == 0

    run(main())
