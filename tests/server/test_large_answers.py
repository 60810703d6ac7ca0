"""Answers that are large, and clients who are slow to take them, or do not: what they cost the echo server."""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from kabench.faults import parse_fault
from kabench.http1.send_watch import SendWatch
from kabench.server import ClientLimits
from tests.server.echoes import FIN, RawSocket, asked_once, echoing
from tests.server.test_client_limits import status_of
from tests.sockets import reset, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kabench.server.echo import EchoServer

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

HUGE_BYTES = 1_000_000_000
MB = 1_000_000


def get(path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *headers, "", ""]).encode() + body


def post(path: str, body: bytes) -> bytes:
    return get(path, f"Content-Length: {len(body)}", method="POST", body=body)


def unsent_bytes(server: EchoServer) -> int:
    return sum(connection.transport.get_write_buffer_size() for connection in server.connections)


async def is_held(server: EchoServer) -> None:
    """Wait until a client takes nothing more."""
    await until(lambda: any(connection._is_writing_held for connection in server.connections))


# -- what they are -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["size=4096", "size=4097", "size=65537", "size=1000003", "size=1000003&chunked=1"])
def test_a_large_answer_is_whole_and_in_its_turn(run: Run, query: str) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            paths = ("/0?size=1", f"/0?{query}", "/0?size=2", f"/1?{query}", "/2?size=3", f"/0?{query}")
            client.send(b"".join(map(get, paths)))
            large_bytes = int(query.removesuffix("&chunked=1").removeprefix("size="))
            for size in (1, large_bytes, 2, large_bytes, 3, large_bytes):
                head, _, body = (await client.answer()).partition(b"\r\n\r\n")
                assert status_of(head) == 200
                assert body == b"x" * size
            client.close()
            counts = server.snapshot()
            assert counts.responses == counts.requests == 6
            assert counts.response_body_bytes == 6 + 3 * large_bytes

    run(main())


def test_a_large_body_is_echoed(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            for _ in range(2):
                client.send(post("/1", b"ab" * MB))
                assert json.loads((await client.answer()).partition(b"\r\n\r\n")[2])["data"] == "ab" * MB
            client.close()
            assert server.answer_book.held_bytes == 0

    run(main())


def test_a_large_answer_can_be_a_socket_s_last(run: Run) -> None:
    async def main() -> None:
        async with echoing(max_requests_per_socket=1) as server:
            for request in (get("/?size=1000000"), get("/?size=1000000", "Connection: close")):
                seen = await asked_once(server, request + get("/"))
                assert b"Connection: close" in seen[:200]
                assert seen.endswith(b"x" * MB + FIN)
                assert len(seen) < MB + 400
            seen = await asked_once(server, get("/?size=1000000", method="HEAD"))
            assert b"Content-Length: 1000000\r\n" in seen
            assert len(seen) < 400

    run(main())


@pytest.mark.parametrize(
    ("fault", "bytes_seen"),
    [("close-mid-body", MB // 2), ("no-length", MB), ("slow-body:50ms", MB), ("stall:1ms/2ms", MB)],
)
def test_a_large_answer_meets_faults_like_any_other(run: Run, fault: str, bytes_seen: int) -> None:
    async def main() -> None:
        given = fault if "/" in fault else f"{fault}:100%"
        async with echoing(faults=(parse_fault(given),)) as server:
            seen = await asked_once(server, get("/0?size=1000000", "Connection: close"))
            assert len(seen.partition(b"\r\n\r\n")[2]) == bytes_seen + len(FIN)

    run(main())


def test_delays_behind_a_large_answer_are_what_they_are(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            client.send(b"".join(map(get, ("/5?size=300000", "/100", "/101?size=300000", "/102", "/103"))))
            await client.answer()
            began_at = perf_counter()
            for number in range(1, 5):
                assert status_of(await client.answer()) == 200
                assert perf_counter() - began_at > 0.09 * number
            client.close()

    run(main())


def test_100_continue_waits_for_the_answers_before_it(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            expecting = get("/0", "Expect: 100-continue", "Content-Length: 5", method="POST")
            client.send(get("/0?size=20000000") + get("/20?size=3") + expecting)
            for size in (20_000_000, 3):
                assert (await client.answer()).endswith(b"\r\n\r\n" + b"x" * size)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"hello")
            assert json.loads((await client.answer()).partition(b"\r\n\r\n")[2])["data"] == "hello"
            client.close()

    run(main())


# -- clients who do not take them --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "requests",
    [get(f"/0?size={HUGE_BYTES}"), get("/0?size=200000") * 5000, get(f"/0?size={HUGE_BYTES}&chunked=1") * 70],
    ids=["one huge answer", "many answers", "many huge answers in chunks"],
)
def test_who_asks_and_does_not_read_takes_no_memory(run: Run, requests: bytes) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            client.send(requests)
            await is_held(server)
            assert unsent_bytes(server) < 2 * MB
            (connection,) = server.connections
            assert len(connection.waiting) < 1000
            assert all(len(each.wire) < 5000 for each in connection.waiting)
            client.close()
            await until(lambda: not server.connections)

    run(main())


def test_a_slow_reader_gets_all_of_it(run: Run) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(send_timeout_s=5)) as server:
            client = await RawSocket.to(server)
            client.send(get("/0?size=200000") * 100)
            await is_held(server)
            for _ in range(100):
                assert status_of(await client.answer()) == 200
                await asyncio.sleep(0.002)
            client.send(get("/0?size=5"))  # it is read from again
            assert (await client.answer()).endswith(b"xxxxx")
            client.close()

    run(main())


@pytest.mark.parametrize("headers", [(), ("Connection: close",)], ids=["an open socket", "a closing socket"])
def test_who_takes_nothing_for_too_long_is_cut_off(run: Run, headers: tuple[str, ...]) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(send_timeout_s=0.2, head_timeout_s=0.5)) as server:
            client = await RawSocket.to(server)
            client.send(get("/0?size=100000000", *headers))
            await is_held(server)
            await until(lambda: not server.connections)
            counts = server.snapshot()
            assert (counts.requests, counts.responses, counts.unanswered) == (1, 0, 1)
            client.close()

    run(main())


def test_bodies_that_are_held_have_a_limit_all_together(run: Run) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(max_held_bytes=3 * MB)) as server:
            book = server.answer_book
            begun = get("/0", f"Content-Length: {2 * MB}", method="POST", body=b"x" * (MB + MB // 2))
            beginner, late = await RawSocket.to(server), await RawSocket.to(server)
            beginner.send(begun)  # half of a body, which is held
            await until(lambda: book.held_bytes == MB + MB // 2)
            assert status_of(await asked_once(server, post("/0", b"y" * 2 * MB))) == 503
            await until(lambda: book.held_bytes == MB + MB // 2)
            beginner.close()
            await until(lambda: book.held_bytes == 0)
            late.send(post("/60000", b"z" * 2 * MB))  # whole, and its answer waits
            await until(lambda: server.snapshot().requests == 1)
            assert 2 * MB < book.held_bytes < 2.1 * MB
            assert status_of(await asked_once(server, post("/0", b"y" * 2 * MB))) == 503
            reset(late.writer)  # a FIN would say that it still waits
            await until(lambda: book.held_bytes == 0)
            client = await RawSocket.to(server)
            client.send(post("/0", b"y" * 2 * MB))
            assert status_of(await client.answer()) == 200
            client.close()
            assert book.held_bytes == 0

    run(main())


@pytest.mark.parametrize(
    "options",
    [{"faults": (parse_fault("slow-body:1ms:100%"),)}, {"max_requests_per_socket": 1}],
    ids=["a fault", "a socket's last request before"],
)
def test_whatever_becomes_of_a_held_body_it_is_let_go(run: Run, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(max_held_bytes=MB), **options) as server:
            for _ in range(4):
                client = await RawSocket.to(server)
                client.send(get("/0") + post("/0", b"\0" * 100_000))
                await client.answer()
                client.close()
                await until(lambda: not server.connections)
            assert server.answer_book.held_bytes == 0

    run(main())


def test_a_body_in_tiny_chunks_takes_no_more_memory_than_it_is_large(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            client.send(get("/0", "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n" * 100_000)
            await until(lambda: server.answer_book.held_bytes == 100_000)
            (connection,) = server.connections
            assert sys.getsizeof(connection._reader._body) < 200_000
            client.close()

    run(main())


def test_who_is_gone_in_the_middle_of_an_answer_has_not_got_it(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server:
            clients = [await RawSocket.to(server) for _ in range(10)]
            for client in clients:
                client.send(get(f"/0?size={HUGE_BYTES}"))
            for client in clients:
                await client.reader.readexactly(300_000)
                reset(client.writer)
            await until(lambda: not server.connections)
            counts = server.snapshot()
            assert (counts.requests, counts.responses, counts.unanswered) == (10, 0, 10)

    run(main())


# -- with a made-up clock ----------------------------------------------------------------------------------------------


def test_time_stands_still_only_while_something_is_unsent_and_nothing_moves() -> None:
    watch = SendWatch()
    assert watch.stands_still_for_s(0, 1.0) == 0
    assert watch.stands_still_for_s(0, 50.0) == 0
    assert watch.stands_still_for_s(500, 60.0) == 0
    assert watch.stands_still_for_s(500, 63.0) == 3
    assert watch.stands_still_for_s(400, 70.0) == 0  # it has taken something
    assert watch.stands_still_for_s(400, 75.0) == 5
    watch.moved()  # it has taken all, and as much again is unsent now
    assert watch.stands_still_for_s(400, 76.0) == 0
    assert watch.stands_still_for_s(400, 78.0) == 2
