"""Responses of the threaded agents read piece by piece, in all the ways that urllib3 has."""

from __future__ import annotations

import contextlib
import io
import time
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest
from urllib3.exceptions import (
    HTTPError,
    ResponseNotChunked,
)

from kabench.agent import (
    KeepAliveAgent,
)
from tests.agent.threads import get
from tests.responses import HALF, always, answer
from tests.sockets import (
    PATIENCE_S,
    Peer,
    echo_forever,
    serving,
    start,
    until,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kabench.agent.sync.response import AgentResponse

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def read_whole(response: AgentResponse) -> list[bytes]:
    return [response.read()]


def read_by_3(response: AgentResponse) -> list[bytes]:
    return list(iter(lambda: response.read(3), b""))


def read1_by_3(response: AgentResponse) -> list[bytes]:
    return list(iter(lambda: response.read1(3), b""))


def read1_whole(response: AgentResponse) -> list[bytes]:
    return list(iter(response.read1, b""))


def read_into(response: AgentResponse) -> list[bytes]:
    pieces, buffer = [], bytearray(3)
    while size := response.readinto(buffer):
        pieces.append(bytes(buffer[:size]))
    return pieces


def stream_by_3(response: AgentResponse) -> list[bytes]:
    return list(response.stream(3))


def stream_by_default(response: AgentResponse) -> list[bytes]:
    return list(response.stream())


def lines(response: AgentResponse) -> list[bytes]:
    return list(response)


READERS = [
    read_whole,
    read_by_3,
    read1_by_3,
    read1_whole,
    read_into,
    stream_by_3,
    stream_by_default,
    lines,
]

TEXT = b"one\ntwo\nthree\nfour"


def zipped(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


BODIES = {
    "with a length": answer(TEXT),
    "chunked": CHUNKED + b"\r\n" + chunks(b"one\ntwo", b"\nth", b"ree\nfour", b""),
    "zipped": answer(zipped(TEXT), b"Content-Encoding: gzip"),
    "zipped and chunked": CHUNKED
    + b"Content-Encoding: gzip\r\n\r\n"
    + chunks(zipped(TEXT)[:15], zipped(TEXT)[15:], b""),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("reader", READERS)
def test_a_streamed_response_gives_its_socket_back_once_it_is_read(
    reader: Callable[[AgentResponse], list[bytes]], body: str
) -> None:
    with serving(always(BODIES[body])) as server, KeepAliveAgent() as agent:
        for number in range(3):
            response = get(agent, server.url, preload_content=False)
            assert response.reused_socket is (number > 0)
            assert agent.get_current_status().sockets == {server.origin: 1}
            pieces = reader(response)
            assert b"".join(pieces) == TEXT
            if reader is lines:
                assert pieces == [b"one\n", b"two\n", b"three\n", b"four"]
            assert agent.get_current_status().free_sockets == {server.origin: 1}
            assert response.closed
        assert server.sockets == 1


def test_a_body_can_be_left_as_it_was_encoded() -> None:
    with serving(always(BODIES["zipped"])) as server, KeepAliveAgent() as agent:
        assert get(agent, server.url, decode_content=False).data == zipped(TEXT)
        response = get(agent, server.url, preload_content=False)
        assert b"".join(response.stream(3, decode_content=False)) == zipped(TEXT)


def test_read_chunked_gives_chunks_and_only_those() -> None:
    with serving(always(BODIES["chunked"])) as server, KeepAliveAgent() as agent:
        response = get(agent, server.url, preload_content=False)
        assert list(response.read_chunked()) == [b"one\ntwo", b"\nth", b"ree\nfour"]
        response = get(agent, server.url, preload_content=False)
        assert list(response.read_chunked(4)) == [b"one\n", b"two", b"\nth", b"ree\n", b"four"]
        assert server.sockets == 1
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        response = get(agent, server.url, preload_content=False)
        with pytest.raises(ResponseNotChunked):
            list(response.read_chunked())


def test_a_response_is_a_file_for_who_reads_files() -> None:
    with serving(always(answer(TEXT))) as server, KeepAliveAgent() as agent:
        response = get(agent, server.url, preload_content=False)
        response.auto_close = False
        with io.TextIOWrapper(io.BufferedReader(cast("Any", response))) as file:
            assert file.read().splitlines() == ["one", "two", "three", "four"]
        assert agent.get_current_status().free_sockets == {server.origin: 1}


def test_drain_conn_gives_the_socket_back() -> None:
    with serving(always(answer(bytes(1_000_000)))) as server, KeepAliveAgent() as agent:
        for _ in range(2):
            response = get(agent, server.url, preload_content=False)
            assert len(response.read(10)) == 10
            response.drain_conn()
            assert agent.get_current_status().free_sockets == {server.origin: 1}
        assert server.sockets == 1


@pytest.mark.parametrize("ending", ["release_conn", "close"])
def test_what_lets_go_of_an_unread_body_closes_the_socket(ending: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(HALF)
        await peer.closed_by_client()

    with serving(handler) as server, KeepAliveAgent() as agent:
        response = get(agent, server.url, preload_content=False)
        getattr(response, ending)()
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.sockets, status.free_sockets, status.close_socket_count) == ({}, {}, 1)


def test_a_response_read_on_after_it_was_released_takes_no_bytes_of_another_s() -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(answer(bytes(200_000) if peer.number == 0 else b"other"))

    with serving(handler) as server, KeepAliveAgent() as agent:
        first = get(agent, server.url, preload_content=False)
        first.read(10)
        first.release_conn()
        second = get(agent, server.url, preload_content=False)
        with contextlib.suppress(HTTPError):
            first.read()
        assert second.read() == b"other"


def test_release_conn_false_keeps_the_socket_until_it_is_released() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        response = agent.connection_from_url(server.url).urlopen("GET", "/", release_conn=False)
        assert response.data == b"ok"
        assert agent.get_current_status().sockets == {server.origin: 1}
        response.release_conn()
        response.release_conn()
        status = agent.get_current_status()
        assert (status.free_sockets, status.sockets, status.request_count) == ({server.origin: 1}, {}, 1)


def one_by_one(head: bytes, pieces: list[bytes], received: list[bytes]) -> Callable[[Peer], Awaitable[None]]:
    """Send each piece when the one before it has been received."""

    async def handler(peer: Peer) -> None:
        await peer.answer(head)
        for number, piece in enumerate(pieces):
            await until(lambda number=number: len(received) == number)  # type: ignore[misc]  # mypy misses the default
            await peer.send(piece)

    return handler


EVENTS = [b"data: %d\n\n" % number for number in range(5)]


@pytest.mark.parametrize("reader", ["stream", "read_chunked", "read1"])
def test_server_sent_events_come_one_by_one(reader: str) -> None:
    received: list[bytes] = []
    pieces = [chunks(event) for event in EVENTS] + [chunks(b"")]
    with serving(one_by_one(CHUNKED + b"\r\n", pieces, received)) as server, KeepAliveAgent() as agent:
        response = get(agent, server.url, preload_content=False)
        each = iter(response.read1, b"") if reader == "read1" else getattr(response, reader)()
        for piece in each:
            received.append(piece)  # noqa: PERF402  # the server looks at it meanwhile
        assert received == EVENTS


def test_lines_of_server_sent_events_come_one_by_one() -> None:
    received: list[bytes] = []
    pieces = [chunks(b"data: %d\n" % number) for number in range(5)] + [chunks(b"")]
    with serving(one_by_one(CHUNKED + b"\r\n", pieces, received)) as server, KeepAliveAgent() as agent:
        for line in get(agent, server.url, preload_content=False):
            received.append(line)  # noqa: PERF402  # as above
        assert received == [b"data: %d\n" % number for number in range(5)]


def test_zipped_server_sent_events_come_one_by_one() -> None:
    received: list[bytes] = []
    packer = zlib.compressobj(wbits=31)
    pieces = [chunks(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)) for event in EVENTS]
    pieces.append(chunks(packer.flush(), b""))
    head = CHUNKED + b"Content-Encoding: gzip\r\n\r\n"
    with serving(one_by_one(head, pieces, received)) as server, KeepAliveAgent() as agent:
        for piece in get(agent, server.url, preload_content=False).stream():
            received.append(piece)  # noqa: PERF402  # as above
        assert received == EVENTS


def test_server_sent_events_without_chunks_come_one_by_one_from_read1() -> None:
    received: list[bytes] = []
    with serving(one_by_one(b"HTTP/1.1 200 OK\r\n\r\n", EVENTS, received)) as server, KeepAliveAgent() as agent:
        for piece in iter(get(agent, server.url, preload_content=False).read1, b""):
            received.append(piece)  # noqa: PERF402  # as above
        assert received == EVENTS
        assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}


def test_shutdown_from_another_thread_ends_who_reads() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(HALF)
        await peer.closed_by_client()

    with serving(handler) as server, KeepAliveAgent(timeout=0) as agent:
        response = get(agent, server.url, preload_content=False)
        reading = start(response.read)
        time.sleep(0.05)  # let it come to where it waits
        response.shutdown()
        assert isinstance(reading.exception(PATIENCE_S), HTTPError)
        assert agent.get_current_status().sockets == {}
