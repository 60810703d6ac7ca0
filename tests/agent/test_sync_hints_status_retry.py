"""Hints, status, retries, addresses and refusals of the threaded agents on real sockets: AK-30 to AK-34, AK-44, AK-45.

urllib3 has no retries here: what is sent again is sent again by the agent, at no cost of the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest
from urllib3.exceptions import NewConnectionError, ProtocolError

from kabench.agent import (
    AgentEvent,
    ConnectError,
    IncompleteResponseError,
    KeepAliveAgent,
    SocketClosedError,
    StaleSocketError,
    reused_socket,
)
from tests.agent.threads import ONCE
from tests.sockets import PATIENCE_S, Peer, ScriptedServer, answering_after, echo_forever, serving, until, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kabench.agent.sync.response import AgentResponse


def ask(agent: KeepAliveAgent, method: str, url: str, **options: Any) -> AgentResponse:
    """A request that urllib3 does not send again by itself."""
    return cast("AgentResponse", agent.request(method, url, retries=ONCE, **options))


def answering_with(headers: bytes) -> Callable[[Peer], Awaitable[None]]:
    return answering_after(0, b"HTTP/1.1 200 OK\r\n" + headers + b"\r\nContent-Length: 0\r\n\r\n")


def test_ak_30_a_keep_alive_hint_shortens_the_free_time() -> None:
    with serving(answering_with(b"Keep-Alive: timeout=1")) as server, KeepAliveAgent(free_socket_timeout=30) as agent:
        ask(agent, "GET", server.url)
        assert ask(agent, "GET", server.url).reused_socket
        asked_at = time.monotonic()
        wait_until(lambda: server.open_now == 0)
        assert 0.4 < time.monotonic() - asked_at < 0.95
        assert agent.get_current_status().timeout_socket_count == 1


@pytest.mark.parametrize("hint", [b"Keep-Alive: timeout=30", b"Keep-Alive: timeout=soon", b"Keep-Alive:"])
def test_ak_30_a_longer_hint_and_one_that_is_no_number_change_nothing(hint: bytes) -> None:
    with serving(answering_with(hint)) as server, KeepAliveAgent(free_socket_timeout=0.2) as agent:
        ask(agent, "GET", server.url)
        assert ask(agent, "GET", server.url).reused_socket
        wait_until(lambda: server.open_now == 0)
        assert agent.get_current_status().timeout_socket_count == 1


@pytest.mark.parametrize("hint", [b"timeout=0", b"max=0", b"timeout=5, max=0"])
def test_ak_30_and_ak_31_hints_that_end_a_socket_now(hint: bytes) -> None:
    with serving(answering_with(b"Keep-Alive: " + hint)) as server:
        with KeepAliveAgent() as agent:
            for _ in range(2):
                ask(agent, "GET", server.url)
            assert server.sockets == 2
        with KeepAliveAgent(respect_hints=False) as agent:
            for _ in range(2):
                ask(agent, "GET", server.url)
            assert server.sockets == 3


def test_ak_31_a_hint_says_how_many_more_requests() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=2\r\nContent-Length: 0\r\n\r\n")
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent() as agent:
        for _ in range(7):
            ask(agent, "GET", server.url)
        assert [len(peer.requests) for peer in server.peers] == [3, 3, 1]


def test_ak_31_max_requests_per_socket() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(max_requests_per_socket=3) as agent:
        for _ in range(7):
            ask(agent, "GET", server.url)
        assert [len(peer.requests) for peer in server.peers] == [3, 3, 1]


def test_ak_32_and_ak_33_the_status() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        before = agent.status_changed
        ask(agent, "GET", server.url)
        assert [before, agent.status_changed, agent.status_changed] == [False, True, False]
        status = agent.get_current_status().as_dict()
        assert json.loads(json.dumps(status)) == status
        assert status["free_sockets"] == {server.origin: 1}
        assert status["create_socket_count"] == status["request_count"] == 1
        assert status["sockets"] == status["requests"] == {}


def test_ak_32_the_status_while_requests_are_under_way() -> None:
    go = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(go.is_set)
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await echo_forever(peer)

    with (
        serving(handler) as server,
        KeepAliveAgent(max_sockets=2) as agent,
        ThreadPoolExecutor(5) as threads,
    ):
        futures = [threads.submit(ask, agent, "GET", server.url) for _ in range(5)]
        try:
            wait_until(lambda: server.requests == 2 and agent.get_current_status().requests != {})
            wait_until(lambda: agent.get_current_status().requests == {server.origin: 3})
            status = agent.get_current_status()
            assert (status.create_socket_count, status.request_count) == (2, 0)
            assert (status.sockets, status.free_sockets) == ({server.origin: 2}, {})
        finally:
            go.set()
        assert {future.result(PATIENCE_S).status for future in futures} <= {200, 204}
        status = agent.get_current_status()
        assert (status.request_count, status.free_sockets, status.sockets) == (5, {server.origin: 2}, {})


def losing_the_race(how: str = "RST", answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n") -> Any:
    """Answer once; on the first socket, take the next request and close instead of answering it."""

    async def handler(peer: Peer) -> None:
        await peer.answer(answer)
        if peer.number == 0:
            await peer.request()
            if how == "RST":
                peer.reset()
            return
        while True:
            await peer.answer(answer)

    return handler


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_ak_34_an_idempotent_request_on_a_stale_socket_is_sent_again(method: str, how: str) -> None:
    retry_stale = "idempotent" if method in ("PUT", "DELETE") else "safe"
    with serving(losing_the_race(how)) as server, KeepAliveAgent(max_sockets=1, retry_stale=retry_stale) as agent:
        ask(agent, "GET", server.url)
        response = ask(agent, method, server.url)
        assert (response.status, response.retried, response.reused_socket) == (204, True, False)
        status = agent.get_current_status()
        assert (status.retry_count, status.create_socket_count, status.close_socket_count) == (1, 2, 1)
        assert (status.request_count, status.free_sockets) == (2, {server.origin: 1})
        response = ask(agent, method, server.url)
        assert (response.retried, response.reused_socket) == (False, True)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_34_a_post_on_a_stale_socket_is_not_sent_again(method: str, how: str) -> None:
    with serving(losing_the_race(how)) as server, KeepAliveAgent() as agent:
        ask(agent, method, server.url, body=b"1")
        with pytest.raises(ProtocolError) as caught:
            ask(agent, method, server.url, body=b"2")
        cause = caught.value.__cause__
        assert isinstance(cause, StaleSocketError)
        assert isinstance(cause, ConnectionResetError)
        assert cause.reused_socket is reused_socket(caught.value) is True
        status = agent.get_current_status()
        assert (status.retry_count, status.close_socket_count, status.sockets) == (0, 1, {})
        assert server.sockets == 1


def test_ak_34_a_socket_that_was_handed_over_is_a_reused_one() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(lambda: agent.get_current_status().requests != {})
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await peer.request()
        peer.reset()

    with (
        serving(handler) as server,
        KeepAliveAgent(max_sockets=1) as agent,
        ThreadPoolExecutor(2) as threads,
    ):
        first = threads.submit(ask, agent, "POST", server.url, body=b"1")
        wait_until(lambda: server.requests == 1)
        second = threads.submit(ask, agent, "POST", server.url, body=b"2")
        assert first.result(PATIENCE_S).status == 204
        error = second.exception(PATIENCE_S)
        assert error is not None
        assert isinstance(error.__cause__, StaleSocketError)
        assert reused_socket(error) is True


@pytest.mark.parametrize("body", [b"0123456789", "0123456789", bytearray(b"0123456789")])
def test_ak_34_a_body_of_bytes_or_text_can_be_sent_again(body: Any) -> None:
    with serving(losing_the_race()) as server, KeepAliveAgent(retry_stale="idempotent") as agent:
        ask(agent, "GET", server.url)
        assert ask(agent, "PUT", server.url, body=body).status == 204
        sent = [peer.requests[-1].partition(b"\r\n\r\n")[2] for peer in server.peers]
        assert sent == [b"0123456789", b"0123456789"]


def test_ak_34_a_file_is_sent_again_from_where_it_stood() -> None:
    with serving(losing_the_race()) as server, KeepAliveAgent(retry_stale="idempotent") as agent:
        ask(agent, "GET", server.url)
        file = io.BytesIO(b"0123456789")
        file.seek(4)
        assert ask(agent, "PUT", server.url, body=file, headers={"Content-Length": "6"}).status == 204
        sent = [peer.requests[-1].partition(b"\r\n\r\n")[2] for peer in server.peers]
        assert sent == [b"456789", b"456789"]


class Pipe(io.BytesIO):
    """A file that says where it stands, and cannot be put back."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")


@pytest.mark.parametrize("kind", ["iterator", "pipe"])
def test_ak_34_what_can_be_read_only_once_is_not_sent_again(kind: str) -> None:
    with serving(losing_the_race()) as server, KeepAliveAgent(retry_stale="idempotent") as agent:
        ask(agent, "GET", server.url)
        body = iter([b"0123", b"456789"]) if kind == "iterator" else Pipe(b"0123456789")
        with pytest.raises(ProtocolError) as caught:
            ask(agent, "PUT", server.url, body=body, headers={"Content-Length": "10"})
        assert isinstance(caught.value.__cause__, StaleSocketError)
        assert reused_socket(caught.value) is True
        assert server.sockets == 1
        assert agent.get_current_status().retry_count == 0


def refusing_while_it_is_sent(how: str) -> Any:
    """Answer once; on the first socket, close as soon as the head of the next request has come."""

    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 0:
            await peer.reader.readuntil(b"\r\n\r\n")
            if how == "RST":
                peer.reset()
            else:
                peer.writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await peer.reader.read()
            return
        await echo_forever(peer)

    return handler


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_34_so_is_a_large_one_whose_socket_dies_while_it_is_sent(how: str) -> None:
    with serving(refusing_while_it_is_sent(how)) as server, KeepAliveAgent(retry_stale="idempotent") as agent:
        ask(agent, "GET", server.url)
        response = ask(agent, "PUT", server.url, body=bytes(8_000_000))
        assert (response.status, response.retried, response.reused_socket) == (200, True, False)
        assert agent.get_current_status().retry_count == 1
        assert len(server.peers[1].requests[0]) > 8_000_000


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_34_and_a_large_post_says_that_its_socket_was_stale(how: str) -> None:
    with serving(refusing_while_it_is_sent(how)) as server, KeepAliveAgent() as agent:
        ask(agent, "GET", server.url)
        with pytest.raises(ProtocolError) as caught:
            ask(agent, "POST", server.url, body=bytes(8_000_000))
        assert isinstance(caught.value.__cause__, StaleSocketError)
        assert reused_socket(caught.value) is True
        assert agent.get_current_status().sockets == {}


def test_ak_34_retry_stale_false_turns_it_off() -> None:
    with serving(losing_the_race()) as server, KeepAliveAgent(retry_stale=False) as agent:
        ask(agent, "GET", server.url)
        with pytest.raises(ProtocolError) as caught:
            ask(agent, "GET", server.url)
        assert isinstance(caught.value.__cause__, StaleSocketError)
        assert server.sockets == 1


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_34_a_request_on_a_first_use_socket_is_never_sent_again(how: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        if how == "RST":
            peer.reset()

    with serving(handler) as server, KeepAliveAgent() as agent:
        with pytest.raises(ProtocolError) as caught:
            ask(agent, "GET", server.url)
        assert isinstance(caught.value.__cause__, SocketClosedError)
        assert not isinstance(caught.value.__cause__, StaleSocketError)
        assert reused_socket(caught.value) is False
        assert server.sockets == 1


def test_ak_34_a_request_is_sent_again_only_once() -> None:
    async def handler(peer: Peer) -> None:
        if peer.number == 0:
            await peer.answer()
        await peer.request()
        peer.reset()

    with serving(handler) as server, KeepAliveAgent() as agent:
        ask(agent, "GET", server.url)
        with pytest.raises(ProtocolError) as caught:
            ask(agent, "GET", server.url)
        assert isinstance(caught.value.__cause__, SocketClosedError)
        assert reused_socket(caught.value) is False  # it is about the second socket
        status = agent.get_current_status()
        assert (server.sockets, status.retry_count, status.close_socket_count) == (2, 1, 2)


def test_ak_34_a_second_socket_that_cannot_be_opened_gives_up_its_place() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        closed.set()
        await until(refused.is_set)
        peer.reset()

    closed, refused = threading.Event(), threading.Event()
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(KeepAliveAgent(max_sockets=1))
        with serving(handler) as server:
            ask(agent, "GET", server.url)
            threads = stack.enter_context(ThreadPoolExecutor(1))
            second = threads.submit(ask, agent, "GET", server.url)
            closed.wait(PATIENCE_S)
            asyncio_server = server._server
            assert asyncio_server is not None
            asyncio_server.get_loop().call_soon_threadsafe(asyncio_server.close)
            wait_until(lambda: not asyncio_server.is_serving())
            refused.set()
            error = second.exception(PATIENCE_S)
        assert isinstance(error, NewConnectionError)
        assert isinstance(error.__cause__, ConnectError)
        status = agent.get_current_status()
        assert (status.create_socket_count, status.close_socket_count) == (1, 1)
        assert (status.create_socket_error_count, status.retry_count, status.sockets) == (1, 1, {})


def test_ak_34_nothing_is_sent_again_after_the_first_byte_of_a_response() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        if peer.number == 0:
            await peer.send(b"HTTP/1.1 200")
            await asyncio.sleep(0.02)

    with serving(handler) as server, KeepAliveAgent() as agent:
        ask(agent, "GET", server.url)
        with pytest.raises(ProtocolError) as caught:
            ask(agent, "GET", server.url)
        assert isinstance(caught.value.__cause__, IncompleteResponseError)
        assert reused_socket(caught.value) is True
        assert server.sockets == 1


def test_ak_34_the_events_of_one_that_is_sent_again() -> None:
    events: list[AgentEvent] = []
    with serving(losing_the_race()) as server, KeepAliveAgent(on_event=events.append) as agent:
        ask(agent, "GET", server.url)
        ask(agent, "GET", server.url)
        kinds = [event.kind.value for event in events]
        assert kinds == ["created", "reused", "closed", "retried", "created"]
        assert [event.reason for event in events if event.kind == "closed"] == ["error"]  # it was reset


@contextlib.contextmanager
def serving_on_ipv6() -> Iterator[ScriptedServer]:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(echo_forever, host="::1") as server:
        yield server


def test_ak_44_an_ipv6_address_is_in_brackets_wherever_it_is_text() -> None:
    with serving_on_ipv6() as server, KeepAliveAgent() as agent:
        assert [ask(agent, "GET", server.url).reused_socket for _ in range(2)] == [False, True]
        assert b"\r\nHost: [::1]:%d\r\n" % server.port in server.peers[0].requests[0]
        assert agent.get_current_status().free_sockets == {f"http://[::1]:{server.port}": 1}


@pytest.mark.parametrize("listening", ["127.0.0.1", "::1"])
def test_ak_44_a_name_with_both_families_tries_both(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(echo_forever) if listening == "127.0.0.1" else serving_on_ipv6())
        agent = stack.enter_context(KeepAliveAgent())
        addresses: list[Any] = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", server.port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
        ]
        if listening == "::1":
            addresses.reverse()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert ask(agent, "GET", f"http://both.test:{server.port}/").status == 200
        assert b"\r\nHost: both.test:%d\r\n" % server.port in server.peers[0].requests[0]
        status = agent.get_current_status()
        assert (status.create_socket_count, status.create_socket_error_count) == (1, 0)
        assert status.free_sockets == {f"http://both.test:{server.port}": 1}


SPLITTING = ["a\r\nX-Smuggled: 1", "a\nb", "a\rb", "a\0b", "a\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"]


def request_by(agent: KeepAliveAgent, way: str, server: ScriptedServer, path: str, **options: Any) -> None:
    if way == "agent.request":
        agent.request("GET", server.url + path, retries=False, **options)
    elif way == "agent.urlopen":
        agent.urlopen("GET", server.url + path, retries=False, **options)
    else:
        agent.connection_from_url(server.url).urlopen("GET", "/" + path, retries=False, **options)


@pytest.mark.parametrize("way", ["agent.request", "agent.urlopen", "pool.urlopen"])
@pytest.mark.parametrize("text", SPLITTING)
@pytest.mark.parametrize("place", ["URL", "query", "header name", "header value", "header value in bytes"])
def test_ak_45_what_would_split_a_line_is_refused_before_anything_is_sent(place: str, text: str, way: str) -> None:
    path, headers = {
        "URL": (text, None),
        "query": (f"?x={text}", None),
        "header name": ("", {text: "1"}),
        "header value": ("", {"X-One": text}),
        "header value in bytes": ("", {"X-One": text.encode()}),
    }[place]
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        with pytest.raises(ValueError, match=r"control character|no header name|CR, LF or NUL"):
            request_by(agent, way, server, path, **({} if headers is None else {"headers": headers}))
        assert (server.sockets, agent.get_current_status().sockets) == (0, {})
        request_by(agent, way, server, "")
        assert server.requests == 1


@pytest.mark.parametrize("text", SPLITTING)
def test_ak_45_so_it_is_in_the_agent_s_own_headers_and_in_a_method(text: str) -> None:
    with serving(echo_forever) as server:
        with KeepAliveAgent(headers={"X-One": text}) as agent, pytest.raises(ValueError, match="CR, LF or NUL"):
            agent.request("GET", server.url)
        with KeepAliveAgent() as agent, pytest.raises(ValueError, match=r"(?i)method"):
            agent.request(text, server.url)
        assert server.sockets == 0


def test_ak_45_a_refused_request_leaves_the_queue_moving() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(max_sockets=1, queue_timeout=2) as agent:
        for _ in range(3):
            ask(agent, "GET", server.url)
            with pytest.raises(ValueError, match="CR, LF or NUL"):
                ask(agent, "GET", server.url, headers={"X": "a\r\nb"})
        assert server.requests == 3
        assert agent.get_current_status().sockets == {}
