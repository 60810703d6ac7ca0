"""Bodies of the asyncio agents in motion: read as they come, sent as they are read, and their limits."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AgentClosedError,
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    IncompleteResponseError,
    NotJsonError,
    ResponseParseError,
    ResponseTooLargeError,
    SocketClosedError,
    SocketTimeoutError,
    StaleSocketError,
    StreamConsumedError,
    WrongLoopError,
)
from tests.sockets import OK, Peer, ScriptedServer, answering_after, echo_forever, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from kabench.agent import StreamedResponse

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"
MANY_BYTES = 50_000_000
PIECE = bytes(65_536)


class OwnError(Exception):
    """What a caller's own iterator raises."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def head_of(peer: Peer) -> bytes:
    """The head of the next request; its body is left on the wire."""
    return await peer.reader.readuntil(b"\r\n\r\n")


async def upload_to(peer: Peer) -> tuple[bytes, bytes]:
    """The next request's head and its body, put together where it comes in chunks."""
    head = await head_of(peer)
    if b"\r\nTransfer-Encoding: chunked\r\n" not in head:
        length = head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0]
        return head, await peer.reader.readexactly(int(length or 0))
    assert b"content-length" not in head.lower()
    body = b""
    while size := int(await peer.reader.readuntil(b"\r\n"), 16):
        body += await peer.reader.readexactly(size)
        assert await peer.reader.readexactly(2) == b"\r\n"
    assert await peer.reader.readexactly(2) == b"\r\n"
    return head, body


class Uploads:
    """Takes uploads whole and answers each. `taken` is what came, `ends` how many sockets ended before a whole one."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, bytes]] = []
        self.ends = 0

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                self.taken.append(await upload_to(peer))
                await peer.send(OK)
        except (EOFError, ConnectionError):
            self.ends += 1
            raise


async def never_reads(peer: Peer) -> None:
    """Take a request's head and no more; look now and then whether the client has gone."""
    await head_of(peer)
    while not peer.writer.is_closing():  # noqa: ASYNC110  # only the transport knows
        await asyncio.sleep(0.01)


async def collect(response: StreamedResponse, into: bytearray) -> None:
    """Read a body to its end, or to the error that is there instead."""
    async for piece in response.aiter_bytes():
        into += piece


async def enter(stream: AbstractAsyncContextManager[StreamedResponse]) -> None:
    """Wait for the head of a response that does not come."""
    async with stream:
        raise AssertionError("there is no response")


async def steady(count: Callable[[], int]) -> int:
    """What a count comes to, once it has stopped growing."""
    before = -1
    while count() != before:
        before = count()
        await asyncio.sleep(0.15)
    return before


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


# -- uploads -----------------------------------------------------------------------------------------------------------

BODY = b"0123456789" * 20_000


def in_pieces(body: bytes = BODY) -> Iterator[bytes]:
    yield b""
    for at in range(0, len(body), 70_001):
        yield body[at : at + 70_001]
        yield b""


async def in_async_pieces(body: bytes = BODY) -> AsyncIterator[bytes]:
    for piece in in_pieces(body):
        await asyncio.sleep(0)
        yield piece


class AsyncFile:
    """A file whose `read` is awaited, as some libraries have them."""

    def __init__(self, body: bytes) -> None:
        self._file = io.BytesIO(body)

    async def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def at(position: int, file: Any) -> Any:
    file.seek(position)
    return file


@pytest.mark.parametrize(
    "kind", ["bytes", "bytearray", "memoryview", "BytesIO", "BytesIO in the middle", "file", "file in the middle"]
)
def test_a_body_of_known_length_goes_with_its_length(run: Run, kind: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(BODY)
    uploads = Uploads()

    async def main() -> None:
        with (tmp_path / "body").open("rb") as file:
            bodies: dict[str, Any] = {
                "bytes": BODY,
                "bytearray": bytearray(BODY),
                "memoryview": memoryview(BODY),
                "BytesIO": io.BytesIO(BODY),
                "BytesIO in the middle": at(100_003, io.BytesIO(BODY)),
                "file": file,
                "file in the middle": at(100_003, file) if "middle" in kind else None,
            }
            expected = BODY[100_003:] if "middle" in kind else BODY
            async with ScriptedServer(uploads) as server, AsyncKeepAliveAgent() as agent:
                response = await agent.request("PUT", server.url, body=bodies[kind])
                assert response.data == b"ok"
                (head, body) = uploads.taken[0]
                assert body == expected
                assert head.count(b"\r\nContent-Length: %d\r\n" % len(expected)) == 1
                assert b"Transfer-Encoding" not in head
                assert agent.get_current_status().free_sockets == {server.origin: 1}

    run(main())


@pytest.mark.parametrize("given_length", [False, True])
@pytest.mark.parametrize("kind", ["generator", "list", "async generator", "async file"])
def test_a_body_of_unknown_length_goes_in_chunks_unless_its_length_is_given(
    run: Run, kind: str, given_length: bool
) -> None:
    uploads = Uploads()
    headers = {"Content-Length": str(len(BODY))} if given_length else {}

    async def main() -> None:
        async with ScriptedServer(uploads) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(2):
                bodies: dict[str, Any] = {
                    "generator": in_pieces(),
                    "list": list(in_pieces()),
                    "async generator": in_async_pieces(),
                    "async file": AsyncFile(BODY),
                }
                async with agent.stream("POST", server.url, headers=headers, body=bodies[kind]) as response:
                    assert await response.aread() == b"ok"
            for head, body in uploads.taken:
                assert body == BODY
                assert (b"\r\nTransfer-Encoding: chunked\r\n" in head) is not given_length
                assert (b"\r\nContent-Length: %d\r\n" % len(BODY) in head) is given_length
            assert server.sockets == 1

    run(main())


@pytest.mark.parametrize(
    ("body", "framing"),
    [
        (io.BytesIO(b""), b"\r\nContent-Length: 0\r\n"),
        (io.BytesIO(b"read"), b"\r\nContent-Length: 0\r\n"),
        ([], b"\r\nTransfer-Encoding: chunked\r\n"),
        ([b"", b""], b"\r\nTransfer-Encoding: chunked\r\n"),
    ],
    ids=["an empty file", "a file at its end", "an empty list", "a list of nothing"],
)
def test_an_empty_body_is_a_whole_one(run: Run, body: Any, framing: bytes) -> None:
    uploads = Uploads()

    async def main() -> None:
        if isinstance(body, io.BytesIO):
            body.seek(0, io.SEEK_END)
        async with ScriptedServer(uploads) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(2):
                assert (await agent.request("POST", server.url, body=body)).data == b"ok"
            assert all(framing in head and taken == b"" for head, taken in uploads.taken)
            assert server.sockets == 1

    run(main())


def test_chunks_are_framed_as_they_come(run: Run) -> None:
    async def main() -> None:
        got: list[bytes] = []

        async def handler(peer: Peer) -> None:
            await head_of(peer)
            got.append(await peer.reader.readuntil(b"0\r\n\r\n"))
            await peer.send(OK)
            await peer.closed_by_client()

        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            pieces: list[Any] = [b"hello", bytearray(b"x" * 26), memoryview(b"!")]
            await agent.request("POST", server.url, body=pieces)
            assert got == [b"5\r\nhello\r\n1a\r\n" + b"x" * 26 + b"\r\n1\r\n!\r\n0\r\n\r\n"]

    run(main())


def test_sockets_are_reused_after_files_were_sent(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(BODY)
    uploads = Uploads()

    async def main() -> None:
        async with ScriptedServer(uploads) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(30):
                with path.open("rb") as file:
                    assert (await agent.request("PUT", server.url, body=file)).status == 200
            assert [body for _, body in uploads.taken] == [BODY] * 30
            assert server.sockets == 1

    run(main())


@pytest.mark.parametrize("body", ["text", {"a": 1}, 5, 1.5], ids=["str", "dict", "int", "float"])
def test_what_is_no_body_is_a_type_error_before_anything_is_sent(run: Run, body: Any) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            with pytest.raises(TypeError, match=type(body).__name__):
                await agent.request("POST", server.url, body=body)
            with pytest.raises(TypeError, match=type(body).__name__):
                await enter(agent.stream("POST", server.url, body=body))
            assert server.sockets == 0

    run(main())


@pytest.mark.parametrize("kind", ["text file", "StringIO", "list of str"])
def test_text_where_bytes_belong_is_a_type_error_and_the_socket_is_closed(run: Run, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_text("text")
    uploads = Uploads()

    async def main() -> None:
        with path.open(encoding="utf-8") as file:
            body: Any = {"text file": file, "StringIO": io.StringIO("text"), "list of str": [b"a", "b"]}[kind]
            async with ScriptedServer(uploads) as server, AsyncKeepAliveAgent() as agent:
                with pytest.raises(TypeError, match="str"):
                    await agent.request("POST", server.url, body=body)
                await until(lambda: uploads.ends == server.sockets)
                assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}
                assert (await agent.request("POST", server.url, body=[b"bytes"])).status == 200
                assert [taken for _, taken in uploads.taken] == [b"bytes"]

    run(main())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_an_iterator_raises_is_raised_and_the_socket_is_closed(
    run: Run, is_async: bool, is_streamed: bool
) -> None:
    uploads = Uploads()

    def failing() -> Iterator[bytes]:
        yield b"one"
        raise OwnError("in the middle")

    async def failing_async() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(0.01)
        raise OwnError("in the middle")

    async def main() -> None:
        async with ScriptedServer(uploads) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            url = server.url
            body = failing_async() if is_async else failing()
            with pytest.raises(OwnError, match="in the middle"):
                await (
                    enter(agent.stream("PUT", url, body=body)) if is_streamed else agent.request("PUT", url, body=body)
                )
            await until(lambda: uploads.ends == server.sockets)
            status = agent.get_current_status()
            assert status.sockets == status.free_sockets == status.requests == {}
            assert (await agent.request("PUT", server.url, body=b"two")).status == 200
            assert [body for _, body in uploads.taken] == [b"two"]

    run(main())


@pytest.mark.parametrize(("length", "says"), [(2, "longer"), (4, "ended after 3")])
def test_an_iterator_that_is_not_as_long_as_was_said_is_a_value_error(run: Run, length: int, says: str) -> None:
    got: list[bytes] = []

    async def handler(peer: Peer) -> None:
        if peer.number > 0:
            await echo_forever(peer)
        await head_of(peer)
        got.append(await peer.reader.read())

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            with pytest.raises(ValueError, match=says):
                await agent.request("PUT", server.url, headers={"Content-Length": str(length)}, body=[b"a", b"b", b"c"])
            await until(lambda: len(got) == 1)
            assert b"abc".startswith(got[0])
            assert len(got[0]) <= length  # not a byte that would be read as the next request
            assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}
            assert (await agent.request("GET", server.url)).status == 200

    run(main())


def test_a_length_that_is_not_the_file_s_is_refused_before_anything_is_sent(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            with pytest.raises(ValueError, match="Content-Length 4"):
                await agent.request("PUT", server.url, headers={"Content-Length": "4"}, body=io.BytesIO(b"abc"))
            assert server.sockets == 0

    run(main())


class Supply:
    """An endless supply of pieces, which knows how much was drawn and whether it was closed."""

    def __init__(self, most: int = 10**9) -> None:
        self.drawn = 0
        self.most = most
        self.is_closed = False

    def pieces(self) -> Iterator[bytes]:
        try:
            while self.drawn < self.most:
                self.drawn += len(PIECE)
                yield PIECE
        finally:
            self.is_closed = True

    async def async_pieces(self) -> AsyncIterator[bytes]:
        try:
            while self.drawn < self.most:
                self.drawn += len(PIECE)
                yield PIECE
                await asyncio.sleep(0)
        finally:
            self.is_closed = True

    def body(self, is_async: bool) -> Iterator[bytes] | AsyncIterator[bytes]:
        return self.async_pieces() if is_async else self.pieces()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_generator_is_drawn_from_no_faster_than_the_server_reads(run: Run, is_async: bool) -> None:
    supply = Supply(MANY_BYTES)

    async def main() -> None:
        may_go_on = asyncio.Event()

        async def handler(peer: Peer) -> None:
            await head_of(peer)
            await may_go_on.wait()
            taken = 0
            while size := int(await peer.reader.readuntil(b"\r\n"), 16):
                taken += len(await peer.reader.readexactly(size + 2)) - 2
            await peer.reader.readexactly(2)
            assert taken == supply.drawn
            await peer.send(OK)
            await peer.closed_by_client()

        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            task = asyncio.ensure_future(agent.request("PUT", server.url, body=supply.body(is_async)))
            await until(lambda: supply.drawn > 0)
            assert await steady(lambda: supply.drawn) < MANY_BYTES / 2
            may_go_on.set()
            assert (await task).status == 200
            assert supply.drawn >= MANY_BYTES
            assert agent.get_current_status().free_sockets == {server.origin: 1}

    run(main())


def test_ak_10_a_server_that_stops_reading_an_upload_times_out(run: Run) -> None:
    supply = Supply()

    async def main() -> None:
        async with ScriptedServer(never_reads) as server, AsyncKeepAliveAgent(timeout=0.2) as agent:
            with pytest.raises(SocketTimeoutError):
                await agent.request("PUT", server.url, body=supply.pieces())
            await until(lambda: supply.is_closed)
            assert agent.get_current_status().sockets == {}

    run(main())


def test_ak_10_a_slow_generator_is_no_silent_server(run: Run) -> None:
    uploads = Uploads()

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0.15)
            yield b"x"

    async def main() -> None:
        async with ScriptedServer(uploads) as server, AsyncKeepAliveAgent(timeout=0.1) as agent:
            assert (await agent.request("PUT", server.url, body=slowly())).status == 200
            assert uploads.taken[0][1] == b"xxx"

    run(main())


def test_ak_10_a_server_that_does_not_answer_a_whole_upload_times_out(run: Run) -> None:
    async def handler(peer: Peer) -> None:
        await upload_to(peer)
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(timeout=0.1) as agent:
            with pytest.raises(SocketTimeoutError):
                await agent.request("PUT", server.url, body=in_async_pieces())

    run(main())


def test_ak_19_an_upload_that_is_cancelled_closes_its_socket_and_its_generator(run: Run) -> None:
    supply = Supply()

    async def main() -> None:
        async with ScriptedServer(never_reads) as server, AsyncKeepAliveAgent() as agent:
            task = asyncio.ensure_future(agent.request("PUT", server.url, body=supply.async_pieces()))
            await until(lambda: supply.drawn > 0)
            await steady(lambda: supply.drawn)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            await until(lambda: supply.is_closed)
            assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}

    run(main())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_response_before_the_upload_is_done_ends_the_upload(run: Run, is_async: bool, is_streamed: bool) -> None:
    supply = Supply()

    async def handler(peer: Peer) -> None:
        if peer.number > 0:
            await echo_forever(peer)
        await head_of(peer)
        await peer.reader.readexactly(100_000)
        await peer.send(TOO_LARGE)
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            if is_streamed:
                async with agent.stream("PUT", server.url, body=supply.body(is_async)) as streamed:
                    assert (streamed.status, await streamed.aread()) == (413, b"no")
            else:
                response = await agent.request("PUT", server.url, body=supply.body(is_async))
                assert (response.status, response.data) == (413, b"no")
            await until(lambda: supply.is_closed)
            assert agent.get_current_status().sockets == agent.get_current_status().free_sockets == {}
            assert not (await agent.request("GET", server.url)).reused_socket

    run(main())


@pytest.mark.parametrize("kind", ["bytes", "generator", "async generator"])
def test_a_socket_is_not_reused_if_the_response_began_before_the_upload_was_done(run: Run, kind: str) -> None:
    supply = Supply()

    async def handler(peer: Peer) -> None:
        if peer.number > 0:
            await echo_forever(peer)
        await head_of(peer)
        await peer.send(TOO_LARGE[:-1])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):  # the client stops, and all it had sent is taken off the wire
                while await peer.reader.read(65_536):
                    pass
        await peer.send(TOO_LARGE[-1:])
        while await peer.reader.read(65_536):
            pass

    async def main() -> None:
        bodies: dict[str, Any] = {
            "bytes": bytes(MANY_BYTES),
            "generator": supply.pieces(),
            "async generator": supply.async_pieces(),
        }
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            response = await agent.request("PUT", server.url, body=bodies.pop(kind))
            assert (response.status, response.data) == (413, b"no")
            assert agent.get_current_status().free_sockets == {}
            assert not (await agent.request("GET", server.url)).reused_socket
            await until(lambda: server.open_now == 1)

    run(main())


# -- uploads on stale sockets ------------------------------------------------------------------------------------------


class SlowFile(io.RawIOBase):
    """A seekable file that takes its time to read, as one on a network does."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._file = io.BytesIO(body)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1, /) -> bytes:
        time.sleep(0.05)
        return self._file.read(size)


class SecondSocket:
    """Answers once on the first socket and closes it with the next request's head. `bodies` came on later sockets."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        if peer.number == 0:
            await peer.answer()
            await head_of(peer)
            return
        while True:
            self.bodies.append((await upload_to(peer))[1])
            await peer.send(OK)


@pytest.mark.parametrize("kind", ["BytesIO", "file", "slow file"])
def test_ak_34_a_put_of_a_seekable_file_on_a_stale_socket_is_sent_again_whole(
    run: Run, kind: str, tmp_path: Path
) -> None:
    body = bytes(range(256)) * 8_000
    (tmp_path / "body").write_bytes(body)
    second = SecondSocket()

    async def main() -> None:
        with (tmp_path / "body").open("rb") as file:
            files: dict[str, Any] = {"BytesIO": io.BytesIO(body), "file": file, "slow file": SlowFile(body)}
            async with ScriptedServer(second) as server, AsyncKeepAliveAgent() as agent:
                await agent.request("GET", server.url)
                response = await agent.request("PUT", server.url, body=at(1_000, files[kind]))
                assert (response.status, response.retried, response.reused_socket) == (200, True, False)
                assert second.bodies == [body[1_000:]]
                assert agent.get_current_status().retry_count == 1

    run(main())


def test_ak_34_a_put_whose_whole_body_had_been_sent_is_sent_again_whole(run: Run) -> None:
    got: list[bytes] = []

    async def handler(peer: Peer) -> None:
        if peer.number == 0:
            await peer.answer()
        got.append((await upload_to(peer))[1])
        if peer.number == 1:
            await peer.send(OK)
            await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)
            response = await agent.request("PUT", server.url, body=io.BytesIO(BODY))
            assert (response.status, response.retried) == (200, True)
            assert got == [BODY, BODY]

    run(main())


@pytest.mark.parametrize(
    ("method", "kind"),
    [("PUT", "generator"), ("PUT", "async generator"), ("PUT", "list"), ("POST", "BytesIO"), ("POST", "bytes")],
)
def test_ak_34_what_cannot_safely_be_sent_again_is_a_stale_socket_error(run: Run, method: str, kind: str) -> None:
    second = SecondSocket()

    async def main() -> None:
        async with ScriptedServer(second) as server, AsyncKeepAliveAgent() as agent:
            await agent.request("GET", server.url)
            bodies: dict[str, Any] = {
                "generator": in_pieces(),
                "async generator": in_async_pieces(),
                "list": [BODY],
                "BytesIO": io.BytesIO(BODY),
                "bytes": BODY,
            }
            with pytest.raises(StaleSocketError) as caught:
                await agent.request(method, server.url, body=bodies[kind])
            assert caught.value.reused_socket
            assert (server.sockets, agent.get_current_status().retry_count) == (1, 0)
            assert (await agent.request("PUT", server.url, body=io.BytesIO(b"later"))).status == 200
            assert second.bodies == [b"later"]

    run(main())


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
