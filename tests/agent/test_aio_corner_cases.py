"""The asyncio agents where two things happen at once: uploads and answers, ends of loops, goodbyes, two readers."""

from __future__ import annotations

import asyncio
import gc
import ssl
from typing import TYPE_CHECKING, Any, cast

import pytest
import trustme

from kabench.agent import (
    AgentError,
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    StreamConsumedError,
    TlsError,
    TlsOptions,
    WrongLoopError,
)
from kabench.agent.aio.tls_connection import TlsConnection
from tests.sockets import ECHOED_BYTES, LOOPS, OK, Peer, ScriptedServer, echo_at_once, echo_forever, run_in, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def server_tls() -> tuple[ssl.SSLContext, TlsOptions]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, TlsOptions(ca_data=authority.cert_pem.bytes().decode())


async def read_chunked(peer: Peer) -> bytes:
    body = b""
    while size := int(await peer.reader.readline(), 16):
        body += (await peer.reader.readexactly(size + 2))[:-2]
    await peer.reader.readline()
    return body


def test_an_iterator_that_is_cancelled_by_others_fails_its_request(run: Run) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        producer = asyncio.get_running_loop().create_future()
        producer.cancel()
        yield await producer

    async def swallow(peer: Peer) -> None:
        await peer.reader.read()

    async def main() -> None:
        async with ScriptedServer(swallow) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
            for _ in range(2):
                with pytest.raises(AgentError, match="iterator was cancelled"):
                    await agent.request("POST", server.url, body=body())
            assert agent.get_current_status().sockets == {}

    run(main())


def test_a_server_that_answers_while_it_reads_gets_the_whole_request_and_no_other(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_at_once) as server, AsyncKeepAliveAgent(timeout=5) as agent:
            assert len((await agent.request("POST", server.url, body=bytes(ECHOED_BYTES))).data) == ECHOED_BYTES
            assert (await agent.request("GET", server.url)).reused_socket is False

    run(main())


def test_an_iterator_that_raises_on_being_stopped_does_not_hide_the_answer(run: Run) -> None:
    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.sleep(60)
        finally:
            raise RuntimeError("while it was stopped")

    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"x\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(refuse) as server, AsyncKeepAliveAgent(timeout=5) as agent:
            response = await agent.request("POST", server.url, body=body())
            assert (response.status, response.data) == (413, b"big")
            await asyncio.sleep(0.05)

    run(main())


def test_many_small_pieces_leave_the_loop_time_for_others(run: Run) -> None:
    drawn = 0

    def body() -> Iterator[bytes]:
        nonlocal drawn
        for _ in range(300_000):
            drawn += 1
            yield b"x" * 50

    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await peer.closed_by_client()

    async def main() -> None:
        async with ScriptedServer(refuse) as server, AsyncKeepAliveAgent(timeout=10) as agent:
            assert (await agent.request("POST", server.url, body=body())).status == 413

    run(main())
    assert drawn < 300_000


def test_ak_10_a_100_while_the_caller_has_nothing_to_send_does_not_start_the_timeout(run: Run) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(0.5)
        yield b"y"

    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"x\r\n")
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await read_chunked(peer) == b"y"
        await peer.send(OK)

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(timeout=0.2) as agent:
            assert (await agent.request("POST", server.url, body=body())).data == b"ok"

    run(main())


def test_a_file_that_grows_is_sent_as_long_as_it_was(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"1" * 300_000)

    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        with path.open("ab") as log:
            log.write(b"2" * 300_000)
        body = await peer.reader.readexactly(300_000)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body[-1:])

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent() as agent:
            with path.open("rb") as log:
                assert (await agent.request("PUT", server.url, body=log)).data == b"1"

    run(main())


def test_a_streamed_body_has_one_reader(run: Run) -> None:
    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(0.05)
        await peer.send(b"ok")

    async def main() -> None:
        async with ScriptedServer(slow) as server, AsyncKeepAliveAgent() as agent:
            async with agent.stream("GET", server.url) as response:
                outcomes = await asyncio.gather(response.aread(), response.aread(), return_exceptions=True)
            assert outcomes[0] == b"ok"
            assert isinstance(outcomes[1], StreamConsumedError)

    run(main())


@pytest.mark.parametrize("wrong", ["10kb", -1, 0, True])
def test_a_limit_that_is_none_is_refused_by_name(run: Run, wrong: Any) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            with pytest.raises((TypeError, ValueError), match="max_response_bytes"):
                await agent.request("GET", server.url, max_response_bytes=wrong)
            assert server.sockets == 0

    run(main())


# -- the end of a loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop_name", sorted(LOOPS))
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what the dead loop left open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_agent_outlives_its_loop_in_good_order(loop_name: str) -> None:
    events: list[str] = []
    agents = [AsyncKeepAliveAgent(on_event=lambda event: events.append(event.kind.value))]

    async def first() -> None:
        async with ScriptedServer(echo_forever) as server:
            await agents[0].request("GET", server.url)
            await asyncio.sleep(0)

    async def second() -> None:
        with pytest.raises(WrongLoopError):
            async with agents[0] as agent:
                await agent.request("GET", "http://127.0.0.1:1/")
        await agents[0].close()

    run_in(loop_name, first())
    run_in(loop_name, second())
    status = agents[0].get_current_status()
    assert (status.create_socket_count, status.free_sockets, status.sockets) == (1, {}, {})
    assert events == ["created", "closed"]


def test_an_agent_is_closed_in_its_own_loop() -> None:
    with asyncio.Runner() as runner:
        agent = AsyncKeepAliveAgent()

        async def use() -> None:
            async with ScriptedServer(echo_forever) as server:
                await agent.request("GET", server.url)

        runner.run(use())
        with asyncio.Runner() as other, pytest.raises(WrongLoopError):
            other.run(agent.close())
        runner.run(agent.close())


# -- over TLS ----------------------------------------------------------------------------------------------------------


def test_tls_connections_need_no_garbage_collection(run: Run, server_tls: tuple[ssl.SSLContext, TlsOptions]) -> None:
    context, options = server_tls

    def connections() -> int:
        return sum(isinstance(found, TlsConnection) for found in gc.get_objects())

    async def main() -> None:
        async with ScriptedServer(echo_forever, tls=context) as server, AsyncPlainAgent(tls=options) as agent:
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    await agent.request("GET", server.url)
                await until(lambda: connections() == 0)
            finally:
                gc.enable()

    run(main())


def test_a_server_without_tickets_is_asked_for_a_session_twice_and_not_for_ever(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.num_tickets = 0

    async def main() -> None:
        options = TlsOptions(ca_data=authority.cert_pem.bytes().decode(), minimum_version="1.3")
        async with ScriptedServer(echo_forever, tls=context) as server, AsyncKeepAliveAgent(tls=options) as agent:
            looks = 0
            keep = agent._connector.tls_sessions.keep

            def note(*arguments: Any) -> bool:
                nonlocal looks
                looks += 1
                return keep(*arguments)

            monkeypatch.setattr(agent._connector.tls_sessions, "keep", note)
            for _ in range(5):
                await agent.request("GET", server.url)
            assert looks == 2

    run(main())


def test_a_goodbye_behind_the_response_retires_the_socket(
    run: Run, server_tls: tuple[ssl.SSLContext, TlsOptions]
) -> None:
    context, options = server_tls

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: SayingGoodbye(context), "127.0.0.1", 0)
        url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        async with AsyncKeepAliveAgent(max_sockets=1, tls=options) as agent:
            responses = await asyncio.gather(*(agent.request("POST", url) for _ in range(4)))
            assert [response.data for response in responses] == [b"ok"] * 4
            assert agent.get_current_status().create_socket_count == 4
        listening.close()

    run(main())


class SayingGoodbye(asyncio.Protocol):
    """Answers, and says goodbye in the same segment."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_secured = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if not self._is_secured:
                self._tls.do_handshake()
                self._is_secured = True
            if self._tls.read(65_536):
                self._tls.write(OK)
                self._tls.unwrap()
        except ssl.SSLError:
            pass
        self._transport.write(self._outgoing.read())


@pytest.mark.parametrize("name", [".".join(["a" * 60] * 5), "a\0b", ".x"])
def test_a_server_name_that_is_none_fails_its_request_at_once(
    run: Run, server_tls: tuple[ssl.SSLContext, TlsOptions], name: str
) -> None:
    context, options = server_tls

    async def main() -> None:
        tls = TlsOptions(ca_data=options.ca_data, server_name=name)
        async with ScriptedServer(echo_forever, tls=context) as server, AsyncKeepAliveAgent(tls=tls) as agent:
            with pytest.raises(TlsError, match="not the name of a server"):
                await asyncio.wait_for(agent.request("GET", server.url), 5)

    run(main())


def test_ak_44_an_address_that_says_nothing_leaves_time_for_the_next(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(connect_timeout=1.0) as agent:

            async def addresses(_: str) -> list[str]:
                return ["127.0.0.2", "127.0.0.1"]

            loop = asyncio.get_running_loop()
            connect = loop.create_connection

            async def connect_or_not(protocol: Any, host: str, port: int) -> Any:
                if host == "127.0.0.2":
                    await asyncio.sleep(60)
                return await connect(protocol, host, port)

            class Loop:
                create_connection = staticmethod(connect_or_not)

            monkeypatch.setattr(agent._connector._resolver, "addresses", addresses)
            protocol = agent._connector._connect_to_any

            async def with_loop(_: Any, *rest: Any) -> None:
                await protocol(Loop, *rest)  # type: ignore[arg-type]

            monkeypatch.setattr(agent._connector, "_connect_to_any", with_loop)
            response = await agent.request("GET", f"http://two-addresses:{server.port}/")
            assert response.data == b"ok"

    run(main())
