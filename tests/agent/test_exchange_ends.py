"""What the end of a request says about its socket, on real sockets: the same for every agent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import time
from typing import TYPE_CHECKING, Any

import pytest
from urllib3.exceptions import InvalidHeader, ProtocolError

from kabench.agent import KeepAliveAgent, ResponseParseError, SocketClosedError, StaleSocketError
from kabench.agent.aio.connection import Connection
from kabench.agent.errors import ConflictingLengthsError
from tests.agent.both import any_agent, each_agent
from tests.sockets import LOOPS, OK, Peer, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.certificates import Keys

    Handler = Callable[[Peer], Awaitable[None]]

TOO_LARGE = b"HTTP/1.1 413 Too large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig"


def answer_of(text: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + more + b"Content-Length: %d\r\n\r\n" % len(text) + text


def first(raw: bytes, *, closes: bool = False) -> Handler:
    """The first request of a socket gets these bytes, each later one its own path."""

    async def handler(peer: Peer) -> None:
        await peer.answer(raw)
        while not closes:
            request = await peer.request()
            await peer.send(answer_of(request.split(b" ")[1]))

    return handler


# -- AK-50 -------------------------------------------------------------------------------------------------------------


async def refuse_after_the_head(peer: Peer) -> None:
    """Answer 413 once the head is there, and close with the rest unread, which resets the socket."""
    await peer.reader.readuntil(b"\r\n\r\n")
    await peer.send(TOO_LARGE)


def bodies(size: int) -> dict[str, Callable[[], Any]]:
    def pieces() -> Iterator[bytes]:
        for at in range(0, size, 30_000):
            yield b"x" * min(30_000, size - at)

    return {"bytes": lambda: b"x" * size, "file": lambda: io.BytesIO(b"x" * size), "generator": pieces}


@each_agent
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("body", ["bytes", "file", "generator"])
def test_ak_50_an_early_answer_is_the_answer(
    kind: str, scheme: str, body: str, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    tls = keys.server_context() if scheme == "https" else None
    with (
        serving(refuse_after_the_head, tls=tls) as server,
        any_agent(kind, **({"ca_data": keys.ca_data} if tls else {})) as agent,
    ):
        for size in (20_000, 100_000, 300_000, 1_000_000, 5_000_000):
            for _ in range(6):
                answer = agent.ask("POST", server.url, body=bodies(size)[body]())
                assert (answer.status, answer.data) == (413, b"big"), size
        assert (agent.status().free_sockets, agent.status().sockets) == ({}, {})
        assert agent.status().request_count == server.sockets == 30
    assert not [record for record in caplog.records if "socket.send()" in record.getMessage()]


@each_agent
def test_ak_50_an_early_answer_whose_body_ends_with_the_reset_connection_is_one_too(kind: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\nbad")

    with serving(handler) as server, any_agent(kind) as agent:
        for _ in range(10):
            answer = agent.ask("POST", server.url, body=b"x" * 3_000_000)
            assert (answer.status, answer.data) == (400, b"bad")


@each_agent
def test_ak_50_half_an_early_answer_is_none(kind: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(TOO_LARGE[:-1])

    with serving(handler) as server, any_agent(kind) as agent:
        for _ in range(5):
            with pytest.raises(SocketClosedError, match="middle of its response"):
                agent.ask("POST", server.url, body=b"x" * 3_000_000)
        assert agent.status().sockets == {}


@each_agent
def test_ak_50_the_socket_of_an_early_answer_is_not_reused(kind: str) -> None:
    async def handler(peer: Peer) -> None:
        if peer.number:
            await peer.answer()
            return
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.sleep(0.5)

    with serving(handler) as server, any_agent(kind) as agent:
        assert agent.ask("POST", server.url, body=b"x" * 9_000_000).status == 403
        assert agent.status().free_sockets == {}
        assert agent.ask("GET", server.url).reused is False


# -- AK-51 to AK-54 ----------------------------------------------------------------------------------------------------

FINAL = answer_of(b"final")
INTERIM = {
    "103 that closes": b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n",
    "100 that closes": b"HTTP/1.1 100 Continue\r\nConnection: Keep-Alive, Close\r\n\r\n",
    "HTTP/1.0 100": b"HTTP/1.0 100 Continue\r\n\r\n",
    "several, one closes": b"HTTP/1.1 102 Processing\r\nConnection: close\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
}


@each_agent
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("name", INTERIM)
def test_ak_51_an_informational_response_that_closes_only_forbids_to_reuse(kind: str, name: str, apart: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        for part in (INTERIM[name], FINAL) if apart else (INTERIM[name] + FINAL,):
            await peer.send(part)
            await asyncio.sleep(0.02)
        await peer.closed_by_client()

    with serving(handler) as server, any_agent(kind) as agent:
        assert [agent.ask("GET", server.url).data for _ in range(2)] == [b"final"] * 2
        assert (agent.status().free_sockets, server.sockets) == ({}, 2)


@each_agent
def test_ak_51_any_number_of_informational_responses_ends_no_request(kind: str) -> None:
    raw = b"HTTP/1.1 102 Processing\r\n\r\n" * 100 + FINAL
    with serving(first(raw)) as server, any_agent(kind) as agent:
        assert agent.ask("GET", server.url).data == b"final"
        answer = agent.ask("GET", server.url + "next")
        assert (answer.data, answer.reused) == (b"/next", True)


@each_agent
def test_ak_51_a_101_that_nobody_asked_for_is_an_error_and_one_that_was_asked_for_is_an_answer(kind: str) -> None:
    raw = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    with serving(first(raw)) as server, any_agent(kind) as agent:
        with pytest.raises(ResponseParseError, match="101"):
            agent.ask("GET", server.url)
        headers = {"Connection": "upgrade", "Upgrade": "x"}
        assert agent.ask("GET", server.url, headers=headers).status == 101
        assert (agent.status().free_sockets, server.sockets) == ({}, 2)


@each_agent
@pytest.mark.parametrize("status", [b"417 Expectation Failed", b"401 Unauthorized", b"200 OK"])
def test_ak_52_a_final_status_in_place_of_a_100_ends_the_socket(kind: str, status: bytes) -> None:
    raw = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    with serving(first(raw)) as server, any_agent(kind) as agent:
        headers = {"Expect": "100-continue"}
        assert agent.ask("POST", server.url, headers=headers, body=b"GET /evil HTTP/1.1\r\n\r\n").status == int(
            status[:3]
        )
        assert agent.ask("GET", server.url + "mine").reused is False


@each_agent
def test_ak_52_after_a_100_the_socket_is_reused(kind: str) -> None:
    with serving(first(b"HTTP/1.1 100 Continue\r\n\r\n" + FINAL)) as server, any_agent(kind) as agent:
        assert agent.ask("POST", server.url, headers={"Expect": "100-Continue"}, body=b"x").data == b"final"
        answer = agent.ask("GET", server.url + "mine")
        assert (answer.data, answer.reused) == (b"/mine", True)


@each_agent
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    ("framing", "reused"),
    [
        (b"", True),
        (b"Content-Length: 0\r\n", True),
        (b"Content-Length: 8\r\n", False),
        (b"Transfer-Encoding: chunked\r\n", False),
    ],
)
def test_ak_53_a_204_that_is_framed_is_the_last_on_its_socket(
    kind: str, method: str, framing: bytes, reused: bool
) -> None:
    with serving(first(b"HTTP/1.1 204 No\r\n" + framing + b"\r\n")) as server, any_agent(kind) as agent:
        assert agent.ask(method, server.url).status == 204
        answer = agent.ask("GET", server.url + "mine")
        assert answer.reused is reused
        assert answer.status == (200 if reused else 204)


@each_agent
def test_ak_54_folded_lines_are_unfolded(kind: str) -> None:
    raw = answer_of(b"ok", b"X-Folded: one\r\n two\r\n\t three \r\nX-Next: 1\r\n")
    with serving(first(raw)) as server, any_agent(kind) as agent:
        headers = agent.ask("GET", server.url).headers
        assert (headers["X-Folded"], headers["X-Next"]) == ("one two three", "1")
        assert agent.ask("GET", server.url).reused


@each_agent
@pytest.mark.parametrize(
    "trailer", ["Connection: close", "Transfer-Encoding: gzip", "Content-Length: 3", "Keep-Alive: timeout=0, max=0"]
)
def test_ak_54_a_trailer_has_no_say_in_this_response_or_the_next(kind: str, trailer: str) -> None:
    async def handler(peer: Peer) -> None:
        for number in range(30):
            raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Number: %d\r\n\r\n1\r\nx\r\n0\r\n" % number
            await peer.answer(raw + trailer.encode() + b"\r\n\r\n")
            await peer.answer(answer_of(b"own %d" % number, b"X-Number: %d\r\n" % number))

    with serving(handler) as server, any_agent(kind) as agent:
        for number in range(10):
            assert agent.ask("GET", server.url).data == b"x"
            assert agent.ask("GET", server.url).data == b"own %d" % number
        assert server.sockets == 1


# -- AK-55 -------------------------------------------------------------------------------------------------------------

IDLE_408 = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlate"


async def give_up_the_idle_socket(peer: Peer) -> None:
    """Answer once; on the first socket, cross the next request with a 408 that is meant for the idle socket."""
    await peer.answer()
    if peer.number == 0:
        await peer.request()
        await peer.send(IDLE_408)
        return
    while True:
        await peer.answer()


@each_agent
def test_ak_55_a_408_meant_for_the_idle_socket_is_no_answer_to_what_may_be_sent_again(kind: str) -> None:
    with serving(give_up_the_idle_socket) as server, any_agent(kind) as agent:
        agent.ask("GET", server.url)
        answer = agent.ask("GET", server.url)
        assert (answer.status, answer.retried, answer.reused) == (200, True, False)
        status = agent.status()
        assert (status.stale_socket_count, status.retry_count, status.request_count) == (1, 1, 2)
        assert status.closed_by == {"server_closed": 1}


@each_agent
def test_ak_55_it_is_delivered_to_what_may_not(kind: str) -> None:
    with serving(give_up_the_idle_socket) as server, any_agent(kind) as agent:
        agent.ask("GET", server.url)
        answer = agent.ask("POST", server.url, body=b"x")
        assert (answer.status, answer.data, answer.retried) == (408, b"late", False)
        assert (agent.status().stale_socket_count, agent.status().retry_count) == (1, 0)


@each_agent
@pytest.mark.parametrize(
    "raw", [IDLE_408.replace(b"Connection: close\r\n", b""), IDLE_408.replace(b"408 Request Timeout", b"503 No")]
)
def test_ak_55_another_status_or_one_that_closes_nothing_is_delivered(kind: str, raw: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.answer(raw)

    with serving(handler) as server, any_agent(kind) as agent:
        agent.ask("GET", server.url)
        assert agent.ask("GET", server.url).data == b"late"
        assert agent.status().stale_socket_count == 0


@each_agent
def test_ak_55_a_408_on_a_fresh_socket_is_the_answer(kind: str) -> None:
    with serving(first(IDLE_408, closes=True)) as server, any_agent(kind) as agent:
        assert agent.ask("GET", server.url).status == 408
        assert agent.status().stale_socket_count == 0


# -- AK-57 and AK-32 ---------------------------------------------------------------------------------------------------


@each_agent
def test_ak_57_a_head_in_small_letters_waits_for_no_body(kind: str) -> None:
    with (
        serving(first(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")) as server,
        any_agent(kind, timeout=5) as agent,
    ):
        began_at = time.monotonic()
        assert agent.ask("head", server.url).data == b""
        assert time.monotonic() - began_at < 4
        assert server.peers[0].requests[0].startswith(b"HEAD / ")


@each_agent
@pytest.mark.parametrize(("how", "reason", "errors"), [("FIN", "server_closed", 0), ("RST", "error", 1)])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_ak_32_a_stale_socket_counts_alike_whoever_meets_it(
    kind: str, how: str, reason: str, errors: int, method: str
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 0:
            await peer.request()
            if how == "RST":
                peer.reset()
            return
        await peer.answer()

    with serving(handler) as server, any_agent(kind) as agent:
        agent.ask("GET", server.url)
        if method == "GET":
            assert agent.ask("GET", server.url).retried
        else:
            with pytest.raises(StaleSocketError):
                agent.ask("POST", server.url, body=b"x")
        status = agent.status()
        assert (status.stale_socket_count, status.retry_count) == (1, method == "GET")
        assert (status.closed_by, status.error_socket_count) == ({reason: 1}, errors)


@each_agent
def test_ak_32_a_stale_socket_s_error_has_the_system_s_as_its_cause(kind: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        peer.reset()

    with serving(handler) as server, any_agent(kind) as agent:
        agent.ask("GET", server.url)
        with pytest.raises(StaleSocketError) as caught:
            agent.ask("POST", server.url, body=b"x")
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@each_agent
def test_ak_54_two_lengths_are_an_error_of_their_own(kind: str) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"
    with serving(first(raw)) as server, any_agent(kind) as agent:
        with pytest.raises(ConflictingLengthsError, match="2 and 3"):
            agent.ask("GET", server.url)
        assert agent.status().closed_by == {"error": 1}


def test_the_helper_sees_a_difference() -> None:
    with serving(first(OK)) as server, any_agent("threads") as agent:
        assert agent.ask("GET", server.url).data == b"ok"
        wait_until(lambda: server.requests == 1)


# -- AK-56 -------------------------------------------------------------------------------------------------------------

UNTRUSTED = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "no response": b"hello\r\n\r\n",
    "a bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a length and a coding": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@each_agent
@pytest.mark.parametrize("name", UNTRUSTED)
def test_ak_56_what_cannot_be_trusted_is_asked_for_once(kind: str, name: str) -> None:
    with serving(first(UNTRUSTED[name])) as server, any_agent(kind) as agent:
        options = {"retries": 3} if kind == "threads" else {}
        with pytest.raises(ResponseParseError):
            agent.ask("GET", server.url, **options)
        assert server.requests == 1
        assert agent.status().free_sockets == {}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_ak_56_urllib3_s_callers_catch_what_they_caught(name: str) -> None:
    with serving(first(UNTRUSTED[name])) as server, KeepAliveAgent(retries=3) as agent:
        for sender, url in ((agent, server.url), (agent.connection_from_url(server.url), "/")):
            before = server.requests
            with pytest.raises(ProtocolError) as caught:
                sender.request("GET", url)
            assert isinstance(caught.value, InvalidHeader) is (name == "two lengths")
            assert server.requests == before + 1
        streamed = first(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n")
        with serving(streamed) as other, pytest.raises(ProtocolError):
            agent.request("GET", other.url, preload_content=False).read()


def test_ak_56_requests_says_of_two_lengths_what_it_says_by_itself() -> None:
    requests = pytest.importorskip("requests")
    from kabench.agent import KeepAliveAdapter

    found = []
    with serving(first(UNTRUSTED["two lengths"])) as server:
        for adapter in (requests.adapters.HTTPAdapter(max_retries=2), KeepAliveAdapter(max_retries=2)):
            with requests.Session() as session:
                session.mount("http://", adapter)
                with pytest.raises(requests.RequestException) as caught:
                    session.get(server.url)
            found.append(type(caught.value))
    assert found == [requests.exceptions.InvalidHeader] * 2


# -- what a review found -----------------------------------------------------------------------------------------------


@each_agent
@pytest.mark.parametrize("body", ["bytes", "file", "generator"])
def test_ak_50_a_body_cut_off_by_a_reset_while_the_request_is_sent_is_not_whole(kind: str, body: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart of the bo")
        await asyncio.sleep(0.05)
        peer.reset()

    with serving(handler) as server, any_agent(kind) as agent:
        for _ in range(3):
            with pytest.raises(SocketClosedError, match="middle of its response"):
                agent.ask("POST", server.url, body=bodies(30_000_000)[body]())
        assert agent.status().closed_by == {"error": 3}


@each_agent
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_ak_50_an_early_answer_without_a_length_is_one_over_https_too(kind: str, how: str, keys: Keys) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too large\r\nConnection: close\r\n\r\nbig")
        await asyncio.sleep(0.02)
        if how == "RST":
            peer.reset()

    with serving(handler, tls=keys.server_context()) as server, any_agent(kind, ca_data=keys.ca_data) as agent:
        for _ in range(3):
            answer = agent.ask("POST", server.url, body=b"x" * 3_000_000)
            assert (answer.status, answer.data) == (413, b"big")


@pytest.mark.parametrize("kind", sorted(LOOPS))
def test_ak_50_a_refusal_that_comes_before_a_small_request_is_written_is_read(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(peer: Peer) -> None:
        await asyncio.sleep(0.02)
        await peer.send(b"HTTP/1.1 503 Full\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfull")
        peer.reset()

    # the loop is held between connecting and writing
    monkeypatch.setattr(Connection, "_set_socket_options", lambda *_: time.sleep(0.06))
    with serving(handler) as server, any_agent(kind) as agent:
        for _ in range(5):
            answer = agent.ask("POST", server.url, body=b"x")
            assert (answer.status, answer.data) == (503, b"full")
        assert agent.status().free_sockets == {}


@pytest.mark.parametrize("kind", sorted(LOOPS))  # urllib3's own frames hold its errors
@pytest.mark.parametrize("how", ["no response", "FIN", "RST"])
def test_a_request_that_fails_leaves_nothing_for_the_garbage_collector(kind: str, how: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        if how == "no response":
            await peer.send(b"hello\r\n\r\n")
        elif how == "RST":
            peer.reset()

    def fail(times: int) -> None:
        for _ in range(times):
            with contextlib.suppress(Exception):
                agent.ask("GET", server.url)

    with serving(handler) as server, any_agent(kind) as agent:
        fail(5)
        gc.collect()
        gc.disable()
        try:
            fail(40)
            left = [found for found in gc.get_objects() if isinstance(found, Connection)]
        finally:
            gc.enable()
        assert len(left) < 10
