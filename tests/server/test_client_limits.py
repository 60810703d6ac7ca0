"""Hostile clients of the echo server: each limit, and what it does not get to hear."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from kabench.http1.request_watch import RequestWatch
from kabench.http1.requests import RequestParser
from kabench.server import ClientLimits
from kabench.system.limits import most_open_sockets
from tests.server.echoes import FIN, GET, RawSocket, asked_once, echoing
from tests.sockets import reset, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


def status_of(seen: bytes) -> int:
    return int(seen.split(b" ", 2)[1])


def test_too_many_connections_are_sent_away_and_the_others_stay(run: Run) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(max_connections=3)) as server:
            friends = [await RawSocket.to(server) for _ in range(3)]
            await until(lambda: len(server.connections) == 3)
            seen = await asked_once(server, b"")
            assert status_of(seen) == 503
            assert seen.endswith(b"there are 3 connections already\n" + FIN)
            for friend in friends:
                friend.send(GET)
                assert status_of(await friend.answer()) == 200
            friends.pop().close()
            await until(lambda: len(server.connections) == 2)
            assert status_of(await asked_once(server, GET.replace(b"Host", b"Connection: close\r\nHost"))) == 200
            for friend in friends:
                friend.close()
            counts = server.snapshot()
        assert (counts.refused_sockets, counts.requests) == (1, 4)

    run(main())


def test_no_more_connections_are_promised_than_the_system_allows() -> None:
    most = most_open_sockets()
    limits = ClientLimits(max_connections=1 << 40)
    assert limits.connections_for(files=2) == ((1 << 40) if most is None else most // 2)


@pytest.mark.parametrize(
    "begun",
    [b"GET /0 HTTP/1.1\r\nHost: h\r\nX: ", b"GET /", b"GET /0 HTTP/1.1\r\n"],
    ids=["header", "target", "line"],
)
def test_slow_heads_are_not_waited_for(run: Run, begun: bytes) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(head_timeout_s=0.15)) as server:
            client = await RawSocket.to(server)
            began_at = perf_counter()
            client.send(begun)
            while not client.reader._buffer and perf_counter() - began_at < 5:  # type: ignore[attr-defined]  # a byte now and then does not help
                client.send(b"a")
                await asyncio.sleep(0.01)
            seen = await client.rest()
            assert status_of(seen) == 408
            assert 0.14 <= perf_counter() - began_at < 3
            assert server.snapshot().bad_requests == 1
            client.close()

    run(main())


def test_slow_bodies_are_not_waited_for_for_ever_and_idle_sockets_are_no_slow_requests(run: Run) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(head_timeout_s=0.05, request_timeout_s=0.3)) as server:
            idle, slow, patient = [await RawSocket.to(server) for _ in range(3)]
            idle.send(GET)
            await idle.answer()
            patient.send(b"GET /500?size=1 HTTP/1.1\r\nHost: h\r\n\r\n")  # a slow answer is not a slow request
            slow.send(b"POST /0 HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n")
            began_at = perf_counter()
            while not slow.reader._buffer and perf_counter() - began_at < 5:  # type: ignore[attr-defined]  # as above
                slow.send(b"a")
                await asyncio.sleep(0.02)
            assert status_of(await slow.rest()) == 408
            assert perf_counter() - began_at >= 0.29
            assert status_of(await patient.answer()) == 200
            idle.send(GET)
            assert status_of(await idle.answer()) == 200
            for client in (idle, slow, patient):
                client.close()

    run(main())


LARGE_HEADS = {
    "one header": b"GET /0 HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 3000 + b"\r\n\r\n",
    "many headers": b"GET /0 HTTP/1.1\r\nHost: h\r\n" + b"X: 1\r\n" * 1000 + b"\r\n",
    "a header without end": b"GET /0 HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 3000,
    "a target without end": b"GET /" + b"a" * 3000,
    "chunk extensions": b"POST /0 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 3000,
    "trailers": b"POST /0 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: 1\r\n" * 1000,
    "empty lines": b"\r\n" * 3000,
}


@pytest.mark.parametrize("request_bytes", LARGE_HEADS.values(), ids=LARGE_HEADS.keys())
@pytest.mark.parametrize("step", [7, 100_000])
def test_heads_and_trailers_have_an_end(run: Run, request_bytes: bytes, step: int) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(max_head_bytes=2048)) as server:
            client = await RawSocket.to(server)
            for at in range(0, len(request_bytes), step):
                client.send(request_bytes[at : at + step])
                if at % 700 == 0:
                    await asyncio.sleep(0)
            assert status_of(await client.rest()) == 431
            client.close()
            assert server.snapshot().requests == 0

    run(main())


def test_large_bodies_are_refused_before_they_come_and_while_they_do(run: Run) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(max_body_bytes=1000)) as server:
            announced = b"POST /0 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n"
            seen = await asked_once(server, announced)
            assert status_of(seen) == 413  # and no 100 before
            in_chunks = (
                b"POST /0 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                + b"1f4\r\n%b\r\n" % (b"x" * 500) * 3
            )
            assert status_of(await asked_once(server, in_chunks)) == 413
            just_fits = (
                b"POST /0 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
            )
            assert status_of(await asked_once(server, just_fits)) == 200
            counts = server.snapshot()
        assert (counts.bad_requests, counts.requests) == (2, 1)

    run(main())


def test_who_never_pauses_between_requests_is_no_slow_client(run: Run) -> None:
    """Each read begins and ends in the middle of a request."""

    async def main() -> None:
        limits = ClientLimits(head_timeout_s=1, max_head_bytes=300)
        async with echoing(limits=limits) as server:
            client = await RawSocket.to(server)
            client.send(GET[:10])
            for _ in range(30):
                await asyncio.sleep(0.05)
                client.send(GET[10:] + GET[:10])
                assert status_of(await client.answer()) == 200
            client.close()

    run(main())


def test_many_requests_in_one_read_are_no_large_head(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            client.send(GET * 6000)
            for _ in range(6000):
                assert status_of(await client.answer()) == 200
            client.close()

    run(main())


def test_a_refusal_comes_in_its_turn(run: Run) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(head_timeout_s=0.1)) as server:
            client = await RawSocket.to(server)
            client.send(GET.replace(b"/0", b"/400") + b"GET /0 HT")
            assert status_of(await client.answer()) == 200
            assert status_of(await client.answer()) == 408
            assert await client.rest() == FIN
            client.close()

    run(main())


def test_who_is_not_read_from_is_not_slow(run: Run) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(head_timeout_s=0.5)) as server:
            client = await RawSocket.to(server)
            client.send(GET.replace(b"/0", b"/2") * 600)  # more than are read before the first are answered
            for _ in range(600):
                assert status_of(await client.answer()) == 200
            client.close()

    run(main())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /0 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HEAD /0?size=zz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ],
    ids=["no 100 behind it", "no body for HEAD"],
)
def test_a_refusal_is_all_that_is_said(run: Run, request_bytes: bytes) -> None:
    async def main() -> None:
        async with echoing() as server:
            head, _, body = (await asked_once(server, request_bytes)).partition(b"\r\n\r\n")
            assert status_of(head) == 400
            assert body.endswith(FIN)
            assert (body == FIN) == request_bytes.startswith(b"HEAD")
            assert b"HTTP" not in body.replace(b"not HTTP", b"")

    run(main())


def test_refused_requests_are_not_unanswered_ones(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            client.send(GET.replace(b"/0", b"/5000") + GET.replace(b"size=20", b"size=zz") * 2)
            await until(lambda: server.snapshot().bad_requests == 2)
            reset(client.writer)
            await until(lambda: not server.connections)
            counts = server.snapshot()
            assert (counts.requests, counts.unanswered, counts.bad_requests) == (1, 1, 2)

    run(main())


def test_a_request_is_measured_from_its_own_beginning(run: Run) -> None:
    async def main() -> None:
        async with echoing(limits=ClientLimits(max_head_bytes=300)) as server:
            client = await RawSocket.to(server)
            for body_bytes in (5000, 4000, 3000):
                head = b"POST /0 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % body_bytes
                client.send(head + b"x" * 2000)
                await asyncio.sleep(0.05)  # so that they are read apart
                client.send(b"x" * (body_bytes - 2000))
                assert status_of(await client.answer()) == 200
            client.close()

    run(main())


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
SMUGGLING = {
    "a length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 36\r\n\r\n",
    "the same length twice": b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 36\r\n\r\n",
    "a length with a sign": b"Content-Length: +0\r\n\r\n",
    "a hexadecimal length": b"Content-Length: 0x0\r\n\r\n",
    "a space before the colon": b"Content-Length : 36\r\n\r\n",
    "a folded line": b"X: 1\r\n Content-Length: 36\r\n\r\n",
    "a bare line end": b"X: 1\nContent-Length: 36\r\n\r\n",
    "a NUL": b"X: 1\x00\r\n\r\n",
    "another coding": b"Transfer-Encoding: gzip\r\n\r\n",
    "a coding before chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding behind chunked": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "nearly chunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a wrong chunk size": b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "a chunk that goes on": b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "a second host": b"Host: other\r\n\r\n",
}


@pytest.mark.parametrize("rest", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_what_two_servers_might_read_differently_ends_the_connection(run: Run, rest: bytes) -> None:
    async def main() -> None:
        async with echoing() as server:
            seen = await asked_once(server, b"POST /0 HTTP/1.1\r\nHost: h\r\n" + rest + SMUGGLED)
            assert status_of(seen) in (400, 501)
            assert seen.count(b"HTTP/1.1 ") == 1
            assert server.snapshot().requests == 0

    run(main())


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /0 HTTP/1.1\r\n\r\n", 400),
        (b"GET /0 HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"POST /0 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /0 HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_a_request_says_its_host_and_speaks_http_1(run: Run, request_bytes: bytes, status: int) -> None:
    async def main() -> None:
        async with echoing() as server:
            assert status_of(await asked_once(server, request_bytes)) == status

    run(main())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /0?size=1 HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 36\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
        b"GET /0?size=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ],
    ids=["upgrade", "connect", "close"],
)
def test_nothing_is_read_behind_a_request_that_ends_the_connection(run: Run, request_bytes: bytes) -> None:
    async def main() -> None:
        async with echoing() as server:
            client = await RawSocket.to(server)
            client.send(request_bytes)
            client.send(SMUGGLED)
            seen = await client.rest()
            client.close()
            assert seen.count(b"HTTP/1.1 ") == 1
            assert server.snapshot().requests <= 1

    run(main())


def test_the_time_of_a_request_begins_with_it_and_passes_only_while_its_client_is_read_from() -> None:
    limits = ClientLimits(head_timeout_s=2, request_timeout_s=5)
    reader = RequestParser(limits)
    watch = RequestWatch(limits)

    def seen_at(now: float, *, is_read_from: bool = True) -> float | None:
        return watch.too_slow_s(reader, now, is_read_from=is_read_from)

    reader.feed(b"POST / HT")
    assert [seen_at(now) for now in (10, 12, 12.5)] == [None, None, 2.5]
    reader.feed(b"TP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab")
    assert [seen_at(now) for now in (13, 15, 15.5)] == [None, None, 5.5]
    assert seen_at(20, is_read_from=False) is None
    assert [seen_at(now) for now in (25, 26)] == [None, 6]
    reader.feed(b"cdGET")  # another has begun between two looks
    assert [seen_at(now) for now in (30, 32, 33)] == [None, None, 3]
    reader.feed(b" / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert seen_at(100) is None


@pytest.mark.parametrize("name", ["max_connections", "max_head_bytes", "max_body_bytes", "head_timeout_s"])
def test_limits_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a finite number above 0"):
        ClientLimits(**{name: 0})
