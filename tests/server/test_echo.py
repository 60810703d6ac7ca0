"""The echo server over real sockets, in this process and in its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from kabench.server import EmbeddedServer, ServerCounts, ServerError, ServerOptions
from kabench.server.echo import EchoServer
from tests.sockets import PATIENCE_S, reset, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

GET = b"GET /0?size=2 HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def echo_server() -> Iterator[EmbeddedServer]:
    """One of its own for each test: it is ended here."""
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        yield server


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[EchoServer]:
    server = EchoServer(ServerOptions(**({"delay_s": 0.0} | options)))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def connect(server: EchoServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)


async def response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


def test_requests_on_one_socket_are_answered_in_order(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            reader, writer = await connect(server)
            for _ in range(2):  # the second time, the requests are known
                for path in (b"/0?size=1", b"/20?size=2", b"/0?size=3", b"/5?size=4"):
                    writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
                assert [len((await response(reader))[1]) for _ in range(4)] == [1, 2, 3, 4]
            writer.close()
            assert server.counts.requests == server.counts.responses == 8
            assert server.counts.sockets == 1

    run(main())


def test_the_delay_is_waited_for_every_answer(run: Run) -> None:
    async def main() -> None:
        async with serving(delay_s=0.03) as server:
            reader, writer = await connect(server)
            for _ in range(3):
                begun_at = perf_counter()
                writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
                _, body = await response(reader)
                assert perf_counter() - begun_at >= 0.03
                assert json.loads(body)["data"] == "hi"
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("request_head", "stays"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_keep_alive_and_close(run: Run, request_head: bytes, stays: bool) -> None:
    async def main() -> None:
        async with serving() as server:
            reader, writer = await connect(server)
            writer.write(request_head)
            head, _ = await response(reader)
            assert (b"Connection: keep-alive" in head) is stays
            if stays:
                writer.write(GET)
                assert (await response(reader))[1] == b"xx"
            else:
                assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            writer.close()

    run(main())


def test_a_socket_carries_only_so_many_requests(run: Run) -> None:
    async def main() -> None:
        async with serving(max_requests_per_socket=2, keep_alive_hint=9) as server:
            reader, writer = await connect(server)
            writer.write(GET * 3)
            first, _ = await response(reader)
            last, _ = await response(reader)
            assert b"Keep-Alive: timeout=9, max=1\r\n" in first
            assert b"Connection: close\r\n" in last
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            writer.close()

    run(main())


def test_answers_behind_the_last_one_are_not_counted(run: Run) -> None:
    async def main() -> None:
        async with serving(max_requests_per_socket=1) as server:
            reader, writer = await connect(server)
            writer.write(GET * 5)
            await response(reader)
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            writer.close()
            assert (server.counts.requests, server.counts.responses, server.counts.response_body_bytes) == (1, 1, 2)

    run(main())


def test_a_name_with_several_addresses_has_one_port(run: Run) -> None:
    async def main() -> None:
        async with serving(host="localhost") as server:
            for host in {
                str(address[0]) for *_, address in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
            }:
                _, writer = await asyncio.open_connection(host, server.port)
                writer.close()

    run(main())


def test_no_host_is_refused() -> None:
    with pytest.raises(ValueError, match="no host"):
        ServerOptions(host="")


def test_an_idle_socket_is_closed_but_not_one_that_waits_for_an_answer(run: Run) -> None:
    async def main() -> None:
        async with serving(idle_timeout_s=0.15) as server:
            reader, writer = await connect(server)
            writer.write(b"GET /400?size=1 HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await response(reader))[1] == b"x"
            begun_at = perf_counter()
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            assert perf_counter() - begun_at > 0.1
            writer.close()
            assert server.counts.idle_closes == 1

    run(main())


def test_a_client_that_has_finished_sending_still_gets_its_answer(run: Run) -> None:
    async def main() -> None:
        async with serving(delay_s=0.03) as server:
            reader, writer = await connect(server)
            writer.write(b"GET /?size=2 HTTP/1.1\r\nHost: h\r\n\r\n")
            writer.write_eof()
            assert (await response(reader))[1] == b"xx"
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            writer.close()

    run(main())


def test_a_client_that_waits_for_100_continue_gets_it(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            reader, writer = await connect(server)
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            interim = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            assert json.loads((await response(reader))[1])["data"] == "abc"
            writer.close()

    run(main())


def test_a_client_that_goes_away_while_it_waits_is_forgotten(run: Run) -> None:
    async def main() -> None:
        async with serving(delay_s=0.05) as server:
            _, writer = await connect(server)
            writer.write(GET.replace(b"/0", b"/30") * 3)
            await until(lambda: server.counts.requests == 3)
            reset(writer)
            await asyncio.sleep(0.15)
            assert server.connections == set()
            assert server.counts.responses == 0

    run(main())


def test_many_pipelined_requests_do_not_pile_up(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            reader, writer = await connect(server)
            writer.write(GET.replace(b"/0", b"/1") * 500)
            answers = [await response(reader) for _ in range(500)]
            assert all(body == b"xx" for _, body in answers)
            writer.close()

    run(main())


def test_the_embedded_server_counts_and_ends(echo_server: EmbeddedServer) -> None:
    with socket.create_connection(("127.0.0.1", echo_server.port)) as client:
        client.sendall(b"POST /0?size=5 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc")
        while client.recv(4096):
            pass
    assert echo_server.counts() == ServerCounts(
        sockets=1, requests=1, responses=1, request_body_bytes=3, response_body_bytes=5
    )
    echo_server.stop()
    echo_server.stop()
    assert not echo_server.is_running
    assert echo_server.process.returncode == 0
    with pytest.raises(ServerError, match="ended"):
        echo_server.counts()


def test_a_taken_port_is_an_error(echo_server: EmbeddedServer) -> None:
    with pytest.raises(ServerError, match=rf"127\.0\.0\.1:{echo_server.port}: Address already in use"):
        EmbeddedServer(ServerOptions(port=echo_server.port))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("port", 70000),
        ("delay_s", -1),
        ("delay_s", float("nan")),
        ("keep_alive_hint", -1),
        ("idle_timeout_s", 0),
        ("max_requests_per_socket", 0),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=str(value).replace(".", r"\.")):
        ServerOptions(**{option: value})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_kabench_serve_says_where_it_is_and_stops_cleanly(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "kabench", "serve", "--port", "0", "--delay", "2ms"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line
        assert "2 ms" in line
        port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(GET)
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == 0
        assert process.stdout.read() == ""
        assert "Traceback" not in process.stderr.read()
