"""Bodies that are sent as they are read, by the asyncio agents on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AsyncKeepAliveAgent,
    SocketTimeoutError,
    StaleSocketError,
)
from tests.sockets import OK, Peer, ScriptedServer, echo_forever, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

from tests.streams import (
    MANY_BYTES,
    TOO_LARGE,
    OwnError,
    Supply,
    Uploads,
    enter,
    head_of,
    never_reads,
    steady,
    upload_to,
)

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
            async with ScriptedServer(second) as server, AsyncKeepAliveAgent(retry_stale="idempotent") as agent:
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
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(retry_stale="idempotent") as agent:
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
        async with ScriptedServer(second) as server, AsyncKeepAliveAgent(retry_stale="idempotent") as agent:
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
