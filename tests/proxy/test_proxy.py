"""The proxy between real sockets: what passes, what is answered in its place, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import AgentOptions
from kabench.faults import parse_fault
from kabench.proxy import Proxy, ProxyOptions
from kabench.published import PUBLISHED_BODY
from kabench.server import ClientLimits
from tests.server.echoes import FIN, RST, RawSocket, asked_once, echoing
from tests.server.test_client_limits import SMUGGLED, SMUGGLING, status_of
from tests.sockets import OK, Peer, ScriptedServer, echo_forever, reset, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@contextlib.asynccontextmanager
async def proxying(target: str, limits: ClientLimits | None = None, **options: Any) -> AsyncIterator[Proxy]:
    agent_options = AgentOptions(**({"max_sockets": 10, "free_socket_timeout": 30} | options))
    given = ProxyOptions(target, port=0, agent_options=agent_options)
    proxy = Proxy(given if limits is None else dataclasses.replace(given, limits=limits))
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


async def asked(proxy: Proxy, *requests: bytes) -> list[bytes]:
    """The answers to some requests, one after the other on one socket."""
    client = await RawSocket.to(proxy)
    answers = []
    try:
        for each in requests:
            client.send(each)
            answers.append(await client.answer())
    finally:
        client.close()
    return answers


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


# -- what passes -------------------------------------------------------------------------------------------------------


def test_k_goes_through_the_keep_alive_agent_and_the_rest_through_the_normal_one(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url) as proxy:
            answers = await asked(proxy, *[get("/k/0")] * 3, *[get("/0")] * 3)
            assert [status_of(each) for each in answers] == [200] * 6
            keepalive, normal = (each.status for each in proxy.figures())
            assert (keepalive.create_socket_count, keepalive.request_count) == (1, 3)
            assert (normal.create_socket_count, normal.request_count, normal.close_socket_count) == (3, 3, 3)
            assert server.counts.sockets == 4
            echoed = json.loads(body_of(answers[0]))["headers"]
            assert (echoed["via"], echoed["host"]) == (proxy.via, server.url.split("/")[2])
            answers = await asked(proxy, get("/post/k/0"), get("/post/k/0"))
            assert json.loads(body_of(answers[1]))["data"] == PUBLISHED_BODY.decode()

    run(main())


def test_the_status_says_what_both_agents_did(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url) as proxy:
            *_, status = await asked(proxy, get("/k/0"), get("/k/30"), get("/0"), get("/-/status"))
            assert b"Content-Type: application/json\r\n" in status
            seen = json.loads(body_of(status))
            assert list(seen) == ["keepalive", "normal"]
            assert seen["keepalive"]["create_socket_count"] == 1
            assert seen["keepalive"]["free_sockets"] == {server.url.rstrip("/"): 1}
            assert seen["keepalive"]["buckets"]["<10ms"] == 1
            assert sum(seen["keepalive"]["buckets"].values()) == 2
            assert list(seen["normal"]["buckets"]) == list(seen["keepalive"]["buckets"])
            assert len(seen["normal"]["buckets"]) == 10
            assert seen["normal"]["request_count"] == sum(seen["normal"]["buckets"].values()) == 1
            (refused,) = await asked(proxy, get("/-/status", "Content-Length: 0", method="POST"))
            assert status_of(refused) == 405

    run(main())


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url) as proxy:
            for _ in range(2):  # the second time, they are known
                client = await RawSocket.to(proxy)
                paths = ("/k/30?size=1", "/0?size=2", "/-/status", "/k/0?size=4", "/post/k/0?size=5")
                client.send(b"".join(get(path) for path in paths))
                sizes = [len(body_of(await client.answer())) for _ in paths]
                assert [*sizes[:2], *sizes[3:]] == [1, 2, 4, 5]
                assert sizes[2] > 100
                client.close()

    run(main())


def test_bodies_of_both_kinds_pass_in_both_directions(run: Run) -> None:
    async def main() -> None:
        large = b"x" * 3_000_000
        async with echoing() as server, proxying(server.url) as proxy:
            for body in (b"", b"small", large):
                framed = get("/k/0", f"Content-Length: {len(body)}", method="PUT") + body
                chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:]) if p) + b"0\r\n\r\n"
                in_chunks = get("/k/0", "Transfer-Encoding: chunked", method="PUT") + chunks
                for each in await asked(proxy, framed, in_chunks, framed):
                    echoed = json.loads(body_of(each))
                    assert echoed["size"] == len(body)
                    assert echoed["data"] == body.decode()
            assert server.counts.sockets == 1
            in_chunks, framed = await asked(proxy, get("/k/0?size=200000&chunked=1"), get("/k/0?size=200000"))
            assert body_of(in_chunks) == body_of(framed) == b"x" * 200_000

    run(main())


def test_a_client_of_http_1_0_gets_neither_chunks_nor_a_socket_that_stays_unasked(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url) as proxy:
            seen = await asked_once(proxy, b"GET /k/0?size=200000&chunked=1 HTTP/1.0\r\n\r\n")
            assert b"Transfer-Encoding" not in seen
            assert body_of(seen) == b"x" * 200_000 + FIN
            client = await RawSocket.to(proxy)
            for _ in range(2):
                client.send(b"GET /k/0?size=3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                answer = await client.answer()
                assert b"Connection: keep-alive\r\n" in answer
                assert body_of(answer) == b"xxx"
            client.close()

    run(main())


def test_answers_without_a_body_have_none(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/0?size=500", method="HEAD") + get("/k/0?status=204") + get("/k/0?status=304"))
            client.send(get("/-/status", method="HEAD") + get("/k/0?size=3", "Connection: close"))
            seen = await client.rest()
            heads = seen.split(b"\r\n\r\n")
            assert [status_of(head) for head in heads[:5]] == [200, 204, 304, 200, 200]
            assert heads[0].endswith(b"\r\nContent-Length: 500")
            assert heads[5] == b"xxx" + FIN
            client.close()

    run(main())


def test_what_a_target_sends_before_its_response_and_how_it_frames_it_is_its_own_affair(run: Run) -> None:
    responses = [
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",  # until the connection ends
    ]

    async def handler(peer: Peer) -> None:
        for each in responses[peer.number * 2 :]:
            await peer.answer(each)
            if not each.startswith((b"HTTP/1.1 1", b"HTTP/1.1 200 OK\r\nT")):
                return

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            for _ in range(2):
                client.send(get("/k/"))
                answer = await client.answer()
                assert b"X-Sum" not in answer
                assert b"103" not in answer
                assert body_of(answer) == b"ok"
            client.send(get("/k/"))
            assert body_of(await client.answer()) == b"ok"
            client.close()

    run(main())


def test_a_response_passes_as_it_comes(run: Run) -> None:
    seen = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await seen.wait()
        await peer.send(b"later")

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/"))
            await client.reader.readuntil(b"first")
            seen.set()
            assert await client.reader.readexactly(5) == b"later"
            client.close()

    run(main())


def test_a_request_passes_as_it_comes_and_100_continue_is_said_at_once(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert b"Expect" not in head
        await peer.reader.readexactly(70_000)
        peer.requests.append(head)
        await peer.reader.readexactly(30_000)
        await peer.send(OK)

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/", "Content-Length: 100000", "Expect: 100-continue", method="POST"))
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"x" * 70_000)
            await until(lambda: server.requests == 1)  # before the rest has been sent
            client.send(b"x" * 30_000)
            assert status_of(await client.answer()) == 200
            client.close()

    run(main())


def test_a_slow_reader_slows_the_target_down_and_costs_no_memory(run: Run) -> None:
    total = 100_000_000
    sent = [0]

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // 1_000_000):
            await peer.send(b"x" * 1_000_000)
            sent[0] += 1_000_000

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/"))
            await client.reader.readuntil(b"\r\n\r\n")
            before = -1
            while sent[0] != before:  # until nothing moves any more
                before = sent[0]
                await asyncio.sleep(0.3)
            assert sent[0] < total / 2
            (connection,) = proxy.connections
            assert connection.transport.get_write_buffer_size() < 2_000_000
            left = total
            while left:
                left -= len(await client.reader.read(1_000_000))
            client.close()

    run(main())


def test_who_takes_nothing_for_too_long_is_cut_off_and_his_socket_to_the_target_is_free_for_others(run: Run) -> None:
    async def main() -> None:
        limits = ClientLimits(send_timeout_s=0.2, head_timeout_s=0.5)
        async with echoing() as server, proxying(server.url, limits, max_sockets=1) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/0?size=100000000"))
            await client.reader.readuntil(b"\r\n\r\n")
            seen = await asked(proxy, get("/k/0?size=7"))  # waits for the only socket
            assert body_of(seen[0]) == b"xxxxxxx"
            client.close()
            assert proxy.figures()[0].given_up == 1

    run(main())


def test_a_slow_target_slows_the_sender_down_and_costs_no_memory(run: Run) -> None:
    total = 100_000_000
    go_on = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        left = total
        while left:
            left -= len(await peer.reader.read(1_000_000))
        await peer.send(OK)

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/", f"Content-Length: {total}", method="POST"))
            for _ in range(total // 1_000_000):
                client.send(b"x" * 1_000_000)
            before = -1
            while (waits := client.writer.transport.get_write_buffer_size()) != before:
                before = waits
                await asyncio.sleep(0.3)
            assert waits > total / 2
            (connection,) = proxy.connections
            assert connection._waiting or connection._served is not None  # it is under way
            go_on.set()
            assert status_of(await client.answer()) == 200
            client.close()

    run(main())


def test_100_continue_waits_for_its_turn(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/100?size=3") + get("/k/0", "Expect: 100-continue", "Content-Length: 5", method="POST"))
            assert (await client.answer()).endswith(b"xxx")
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"hello")
            assert json.loads(body_of(await client.answer()))["data"] == "hello"
            client.close()

    run(main())


# -- what is answered in its place -------------------------------------------------------------------------------------


def test_nobody_there_is_502_and_the_socket_stays(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with proxying(f"http://127.0.0.1:{nobody.getsockname()[1]}") as proxy:
                answers = await asked(proxy, get("/k/"), get("/"), get("/post/k/"), get("/-/status"))
                assert [status_of(each) for each in answers] == [502, 502, 502, 200]
                assert b"refused" in answers[0]
                assert [each.failures for each in proxy.figures()] == [2, 1]

    run(main())


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        (b"", b"without a response"),
        (b"no HTTP\r\n\r\n", b"not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok", b"not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000, b"over 65536 bytes"),
        (b"HTTP/1.1 200", b"in the middle of its response"),
    ],
)
def test_a_target_that_speaks_no_http_is_502(run: Run, spoiled: bytes, why: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(spoiled)

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            for answer in await asked(proxy, get("/k/", method="POST"), get("/k/")):
                assert status_of(answer) == 502
                assert why in answer or b"chars" in answer

    run(main())


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 000 What\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
    ids=["another protocol", "no status", "a coding that was not asked for"],
)
def test_what_nobody_asked_for_is_502(run: Run, response: bytes) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(response)

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            first, second = await asked(proxy, get("/k/"), get("/k/"))
            assert status_of(first) == status_of(second) == 502
            assert [each.failures for each in proxy.figures()] == [2, 0]

    run(main())


def test_a_target_that_takes_its_body_s_length_away_splits_no_response(run: Run) -> None:
    split = b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Content-Length\r\nContent-Length: 5\r\n\r\nhello"

    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(split)

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            for answer in await asked(proxy, get("/k/"), get("/k/")):
                assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

    run(main())


def test_a_target_that_leads_back_is_508(run: Run) -> None:
    async def main() -> None:
        async with proxying("http://127.0.0.1:1/") as proxy:
            for upstream in proxy.upstreams.values():
                upstream._target = proxy.url.rstrip("/")
            (answer,) = await asked(proxy, get("/k/"))
            assert status_of(answer) == 508

    run(main())


def test_a_target_that_says_nothing_is_504(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.closed_by_client()

    async def main() -> None:
        options: dict[str, Any] = {"timeout": 0.1, "max_sockets": 1, "queue_timeout": 0.05}
        async with ScriptedServer(handler) as server, proxying(server.url, **options) as proxy:
            first, second = await asyncio.gather(asked(proxy, get("/k/1")), asked(proxy, get("/k/2")))
            assert [status_of(each) for each in (*first, *second)] == [504, 504]
            assert b"no byte" in first[0] + second[0]

    run(main())


def test_a_response_that_breaks_off_is_no_whole_one_for_the_client_either(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        framing = (b"Content-Length: 10", b"Transfer-Encoding: chunked")[peer.number % 2]
        await peer.answer(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nabc")

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            by_length = await asked_once(proxy, get("/k/", method="POST"))
            in_chunks = await asked_once(proxy, get("/k/", method="POST"))
            assert body_of(by_length).removesuffix(FIN).removesuffix(RST) == b"5\r\nabc"
            assert body_of(in_chunks).removesuffix(FIN).removesuffix(RST) == b"3\r\nabc\r\n"
            assert proxy.figures()[0].failures == 2

    run(main())


def test_half_a_chunked_response_is_no_whole_one_for_a_client_of_http_1_0(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await asyncio.sleep(0.1)

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            seen = await asked_once(proxy, b"GET /k/ HTTP/1.0\r\n\r\n")
            assert seen.endswith(b"hello" + RST)

    run(main())


@pytest.mark.parametrize("sent_bytes", [10, 100_000], ids=["little of it", "much of it"])
def test_a_client_who_goes_in_the_middle_of_a_body_gives_the_target_s_socket_back(run: Run, sent_bytes: int) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url, max_sockets=1) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/0", "Content-Length: 1000000", method="POST") + b"x" * sent_bytes)
            await until(lambda: bool(proxy.connections))
            (connection,) = proxy.connections
            await until(lambda: connection._exchange is not None or any(w.body.has_begun for w in connection._waiting))
            client.close()
            assert status_of((await asked(proxy, get("/k/0")))[0]) == 200
            await until(lambda: not proxy.connections)

    run(main())


def test_many_answers_of_its_own_in_one_read_are_no_recursion(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/-/status", method="POST") * 2000 + get("/k/0"))
            for _ in range(2000):
                assert status_of(await client.answer()) == 405
            assert status_of(await client.answer()) == 200
            client.close()

    run(main())


def test_a_client_who_goes_takes_his_request_along(run: Run) -> None:
    closed = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        if await peer.closed_by_client():
            closed.set()

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/"))
            await until(lambda: server.requests == 1)
            reset(client.writer)
            await asyncio.wait_for(closed.wait(), 20)
            keepalive = proxy.figures()[0]
            assert (keepalive.given_up, keepalive.transactions, keepalive.failures) == (1, 0, 0)
            assert keepalive.status.sockets == {}
            assert not proxy.connections

    run(main())


def test_a_target_that_answers_early_ends_the_upload_and_the_client_hears_it(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        while await peer.reader.read(1_000_000):
            pass

    async def main() -> None:
        async with ScriptedServer(handler) as server, proxying(server.url) as proxy:
            client = await RawSocket.to(proxy)
            client.send(get("/k/", "Content-Length: 50000000", method="POST"))
            for _ in range(10):
                client.send(b"x" * 100_000)
            answer = await client.answer()
            assert status_of(answer) == 413
            assert b"Connection: close\r\n" in answer
            client.close()

    run(main())


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_nothing_is_smuggled_past_it(run: Run, rest: bytes) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, proxying(server.url) as proxy:
            seen = await asked_once(proxy, b"POST /k/0 HTTP/1.1\r\nHost: h\r\n" + rest + SMUGGLED)
            assert status_of(seen) in (400, 501)
            assert seen.count(b"HTTP/1.1 ") == 1
            assert server.requests == 0

    run(main())


def test_it_is_no_open_proxy(run: Run) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as other,
            ScriptedServer(echo_forever) as target,
            proxying(target.url) as proxy,
        ):
            for attempt in (
                get(other.url),
                get(f"http://127.0.0.1:{proxy.port}@127.0.0.1:{other.port}/"),
                get(f"127.0.0.1:{other.port}", method="CONNECT"),
            ):
                assert status_of(await asked_once(proxy, attempt)) in (403, 405)
            for to_the_target in (
                get(f"/k//127.0.0.1:{other.port}/"),
                get(f"/@127.0.0.1:{other.port}/"),
                get(proxy.url + "k/"),
                b"GET /k/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % other.port,
            ):
                assert status_of((await asked(proxy, to_the_target))[0]) == 200
            assert other.sockets == 0
            assert target.requests == 4
            assert all(b"Host: 127.0.0.1:%d\r\n" % target.port in each for p in target.peers for each in p.requests)

    run(main())


def test_what_was_right_before_is_answered_before_what_is_refused(run: Run) -> None:
    async def main() -> None:
        async with echoing() as server, proxying(server.url) as proxy:
            seen = await asked_once(proxy, get("/k/20?size=1") + get("/0?size=2") + b"NO HTTP\r\n\r\n" + get("/k/0"))
            assert [status_of(each) for each in seen.split(b"HTTP/1.1")[1:]] == [200, 200, 400]
            assert server.counts.requests == 2

    run(main())


def test_its_clients_have_limits(run: Run) -> None:
    async def main() -> None:
        limits = ClientLimits(
            max_connections=2, max_head_bytes=2000, max_body_bytes=100_000, head_timeout_s=0.1, request_timeout_s=0.3
        )
        async with echoing() as server, proxying(server.url, limits) as proxy:
            assert status_of(await asked_once(proxy, get("/k/0", "X: " + "a" * 3000))) == 431
            assert status_of(await asked_once(proxy, get("/k/0", "Content-Length: 100001", method="POST"))) == 413
            assert status_of(await asked_once(proxy, b"GET /k/0 HTT")) == 408
            post = get("/k/0", "Transfer-Encoding: chunked", method="POST")
            assert status_of(await asked_once(proxy, post + b"5\r\nab")) == 408
            chunk = b"c350\r\n" + b"x" * 50_000 + b"\r\n"
            assert status_of(await asked_once(proxy, post + 3 * chunk)) == 413
            friends = [await RawSocket.to(proxy) for _ in range(2)]
            await until(lambda: len(proxy.connections) == 2)
            assert status_of(await asked_once(proxy, b"")) == 503
            await asyncio.sleep(0.4)  # an idle socket is no slow request
            for friend in friends:
                friend.send(get("/k/0"))
                assert status_of(await friend.answer()) == 200
                friend.close()
            assert not [each for each in server.connections if each.waiting]

    run(main())


def test_faults_of_a_target_become_answers_or_cut_off_ones_and_nothing_is_left_over(run: Run) -> None:
    kinds = ("reset", "garbage", "close-mid-body", "extra-bytes", "no-length", "slow-body:20ms", "refuse")
    faults = tuple(parse_fault(f"{kind}:5%") for kind in kinds)
    outcomes: dict[str, int] = {"200": 0, "502": 0, "cut off": 0}

    async def visit(proxy: Proxy, path: str) -> None:
        for _ in range(40):
            try:
                (answer,) = await asked(proxy, get(path, method="POST"))
                outcomes[str(status_of(answer))] += 1
                assert b"nobody asked" not in answer
            except (EOFError, ConnectionError):
                outcomes["cut off"] += 1

    async def main() -> None:
        async with echoing(faults=faults) as server, proxying(server.url) as proxy:
            await asyncio.gather(*[visit(proxy, path) for path in ("/k/1?size=200", "/1?size=200") for _ in range(10)])
            await until(lambda: not proxy.connections)
            for each in proxy.figures():
                assert each.transactions + each.failures == 400
                assert each.status.sockets == {}
                assert each.status.requests == {}
            assert sum(outcomes.values()) == 800
            assert min(outcomes.values()) > 10
            assert outcomes["200"] == sum(each.transactions for each in proxy.figures())
            assert len(server.snapshot().faults) == len(kinds)

    run(main())
