"""Framing that a client can trust: raw bytes and what becomes of them, for both kinds of agent.

Each case is what a server sends in answer to a first request. Whatever it is, a second request must get its own answer.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kabench.agent import (
    AgentError,
    AsyncKeepAliveAgent,
    IncompleteResponseError,
    KeepAliveAgent,
    ResponseParseError,
    SocketClosedError,
)
from kabench.agent.errors import ConflictingLengthsError
from tests.sockets import LOOPS, Peer, ScriptedServer, serving, until, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

OK = b"HTTP/1.1 200 OK\r\n"
NEXT = OK + b"Content-Length: 4\r\n\r\nnext"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
UPGRADE = (("Connection", "upgrade"), ("Upgrade", "x"))
BAD = ResponseParseError


@dataclass(frozen=True)
class Case:
    """`raw` is sent, then the server closes if it `closes`. `body` is what the request gets, or else `error`.

    `reused` says whether the second request may go out on the same socket.
    """

    raw: bytes
    body: bytes | None = None
    error: type[AgentError] | None = None
    reused: bool = False
    closes: bool = False
    method: str = "GET"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


CASES = {
    "a length": Case(OK + b"Content-Length: 2\r\n\r\nok", b"ok", reused=True),
    "a length of 0": Case(OK + b"Content-Length: 0\r\n\r\n", b"", reused=True),
    "two equal lengths": Case(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", b"ok", reused=True),
    "two equal lengths and another": Case(
        OK + b"Content-Length: 2\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\nok", error=ConflictingLengthsError
    ),
    "two lengths": Case(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok", error=ConflictingLengthsError),
    "a list of lengths": Case(OK + b"Content-Length: 2, 2\r\n\r\nok", error=BAD),
    "a negative length": Case(OK + b"Content-Length: -2\r\n\r\nok", error=BAD),
    "a length with a sign": Case(OK + b"Content-Length: +2\r\n\r\nok", error=BAD),
    "a hexadecimal length": Case(OK + b"Content-Length: 0x2\r\n\r\nok", error=BAD),
    "a length with an underscore": Case(OK + b"Content-Length: 1_0\r\n\r\n0123456789", error=BAD),
    "a length in two parts": Case(OK + b"Content-Length: 1 0\r\n\r\n0123456789", error=BAD),
    "no length at all": Case(OK + b"Content-Length:\r\n\r\nok", error=BAD),
    "a length beyond counting": Case(OK + b"Content-Length: 99999999999999999999999\r\n\r\nok", error=BAD),
    "a folded length": Case(OK + b"Content-Length: 2\r\n 0\r\n\r\nok", error=BAD),
    "a space before the colon": Case(OK + b"Content-Length : 2\r\n\r\nok", error=BAD),
    "fewer bytes than the length": Case(
        OK + b"Content-Length: 9\r\n\r\nok", error=IncompleteResponseError, closes=True
    ),
    "more bytes than the length": Case(OK + b"Content-Length: 2\r\n\r\nokmore", b"ok"),
    "a second response": Case(OK + b"Content-Length: 2\r\n\r\nok" + NEXT.replace(b"next", b"evil"), b"ok"),
    "a line end behind the end": Case(OK + b"Content-Length: 2\r\n\r\nok\r\n", b"ok"),
    "a line end behind the end, apart": Case(OK + b"Content-Length: 0\r\n\r\n\r\n", b""),
    "a line end behind the last chunk": Case(CHUNKED + b"2\r\nok\r\n0\r\n\r\n\r\n", b"ok"),
    "a line end in front": Case(b"\r\n" + OK + b"Content-Length: 2\r\n\r\nok", error=BAD),
    "a body of line ends": Case(OK + b"Content-Length: 6\r\n\r\n\r\n\r\n\r\n", b"\r\n" * 3, reused=True),
    "chunks": Case(CHUNKED + b"2\r\nok\r\n3\r\nand\r\n0\r\n\r\n", b"okand", reused=True),
    "chunks with extensions": Case(CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n", b"ok", reused=True),
    "chunks with trailers": Case(CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", b"ok", reused=True),
    **{
        f"chunks with {trailer.decode()!r} behind them": Case(
            CHUNKED + b"2\r\nok\r\n0\r\n" + trailer + b"\r\n\r\n", b"ok", reused=True
        )
        for trailer in (
            b"Connection: close",
            b"Transfer-Encoding: gzip",
            b"Transfer-Encoding: chunked",
            b"Content-Length: 7",
            b"Content-Length: 7\r\nContent-Length: 8",
            b"Keep-Alive: timeout=0",
            b"X: a\r\n b",
            b"Upgrade: x",
        )
    },
    "a trailer that is none": Case(CHUNKED + b"2\r\nok\r\n0\r\nnothing\r\n\r\n", error=BAD),
    "a trailer that goes on from nothing": Case(CHUNKED + b"2\r\nok\r\n0\r\n b\r\n\r\n", error=BAD),
    "a NUL in a trailer": Case(CHUNKED + b"2\r\nok\r\n0\r\nX: \0\r\n\r\n", error=BAD),
    "chunks and a length": Case(
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", error=BAD
    ),
    "a length and chunks": Case(
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", error=BAD
    ),
    "a chunk size that is none": Case(CHUNKED + b"zz\r\nok\r\n0\r\n\r\n", error=BAD),
    "a negative chunk size": Case(CHUNKED + b"-2\r\nok\r\n0\r\n\r\n", error=BAD),
    "a chunk size beyond counting": Case(CHUNKED + b"fffffffffffffffff\r\nok\r\n0\r\n\r\n", error=BAD),
    "a chunk size with a space": Case(CHUNKED + b"2 \r\nok\r\n0\r\n\r\n", error=BAD),
    "a chunk longer than its size": Case(CHUNKED + b"2\r\nokk\r\n0\r\n\r\n", error=BAD),
    "chunks with bare line feeds": Case(CHUNKED + b"2\nok\n0\n\n", error=BAD),
    "chunks without an end": Case(CHUNKED + b"2\r\nok\r\n", error=IncompleteResponseError, closes=True),
    "bytes behind the last chunk": Case(CHUNKED + b"2\r\nok\r\n0\r\n\r\nmore", b"ok"),
    "chunks in HTTP/1.0": Case(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"
    ),
    "a coding that is not chunked": Case(OK + b"Transfer-Encoding: gzip\r\n\r\nok", error=BAD, closes=True),
    "a coding besides chunked": Case(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", error=BAD),
    "a coding in a header of its own": Case(
        OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", error=BAD
    ),
    "an end with the connection": Case(OK + b"\r\nok", b"ok", closes=True),
    "Connection: close": Case(OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "HTTP/1.0": Case(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "HTTP/1.0 that is kept": Case(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok", reused=True
    ),
    "HTTP/2.0": Case(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "HTTP/0.9": Case(b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "no status line": Case(b"hello\r\n\r\n", error=BAD),
    "another protocol": Case(b"SSH-2.0-OpenSSH_9.6\r\n", error=BAD),
    "a status of two digits": Case(b"HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "a status of four digits": Case(b"HTTP/1.1 1000 OK\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "bare line feeds": Case(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", error=BAD),
    "a folded header": Case(OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok", b"ok", reused=True),
    "a header folded with a tab, twice": Case(
        OK + b"Content-Length: 2\r\nX: a\r\n\tb\r\n  c\r\n\r\nok", b"ok", reused=True
    ),
    "a folded header that looks like a length": Case(
        OK + b"X: a\r\n Content-Length: 9\r\nContent-Length: 2\r\n\r\nok", b"ok", reused=True
    ),
    "a folded coding": Case(OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", error=BAD),
    "a folded Connection": Case(OK + b"Connection:\r\n close\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "a folded length among folded ones": Case(OK + b"X: a\r\n b\r\nContent-Length: 2\r\n 0\r\n\r\nok", error=BAD),
    "a fold of the status line": Case(OK + b" b\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "a NUL in a fold": Case(OK + b"X: a\r\n \0\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "a NUL in a header": Case(OK + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "a carriage return in a header": Case(OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "a header without a colon": Case(OK + b"nothing\r\nContent-Length: 2\r\n\r\nok", error=BAD),
    "headers over their limit": Case(
        OK + b"X-A: " + b"a" * 30_000 + b"\r\nX-B: " + b"b" * 40_000 + b"\r\nContent-Length: 2\r\n\r\nok", error=BAD
    ),
    "a status line over its limit": Case(
        b"HTTP/1.1 200 " + b"O" * 10_000 + b"\r\nContent-Length: 2\r\n\r\nok", error=BAD
    ),
    "a header without end": Case(OK + b"X: " + b"a" * 700_000, error=BAD, closes=True),
    "trailers without end": Case(CHUNKED + b"0\r\n" + b"X: y\r\n" * 120_000, error=BAD, closes=True),
    "a chunk extension without end": Case(CHUNKED + b"2;" + b"a" * 700_000, error=BAD, closes=True),
    "informational responses without end": Case(b"HTTP/1.1 102 Processing\r\n\r\n" * 30_000, error=BAD, closes=True),
    "informational responses before": Case(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\nok",
        b"ok",
        reused=True,
    ),
    "an informational response that closes": Case(
        b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok", b"ok"
    ),
    "an informational response of HTTP/1.0": Case(
        b"HTTP/1.0 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok", b"ok"
    ),
    "an informational response with a folded header": Case(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>,\r\n </b>\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok",
        b"ok",
        reused=True,
    ),
    "an informational response with a body": Case(
        b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok" + OK + b"Content-Length: 2\r\n\r\nok", error=BAD
    ),
    "101": Case(SWITCHING, b"", status=101, headers=UPGRADE),
    "101 with what follows": Case(SWITCHING + b"other", b"", status=101, headers=UPGRADE),
    "101 to a HEAD": Case(SWITCHING, b"", method="HEAD", status=101, headers=UPGRADE),
    "101 that nobody asked for": Case(SWITCHING, error=BAD),
    "101 that nobody asked for, and an answer": Case(SWITCHING + NEXT, error=BAD),
    "204": Case(b"HTTP/1.1 204 No Content\r\n\r\n", b"", reused=True, status=204),
    "204 with a length, and nothing more": Case(
        b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", b"", status=204
    ),
    "204 with a length of 0": Case(
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"", reused=True, status=204
    ),
    "204 with a coding": Case(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b"", status=204),
    "204 with a body": Case(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", b"", status=204),
    "304 with a length": Case(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", b"", reused=True, status=304),
    "HEAD": Case(OK + b"Content-Length: 4\r\n\r\n", b"", reused=True, method="HEAD"),
    "HEAD with a body": Case(OK + b"Content-Length: 4\r\n\r\nevil", b"", method="HEAD"),
    "HEAD of a chunked one": Case(CHUNKED, b"", reused=True, method="HEAD"),
    "nothing": Case(b"", error=SocketClosedError, closes=True),
    "half a head": Case(OK + b"Content-", error=IncompleteResponseError, closes=True),
}


def answering(case: Case) -> Callable[[Peer], Awaitable[None]]:
    """The first request gets the case's bytes, every other one its own answer."""

    async def handler(peer: Peer) -> None:
        if peer.number == 0:
            await peer.request()
            await peer.send(case.raw)
            if case.closes:
                return
        while True:
            await peer.answer(NEXT)

    return handler


@pytest.mark.parametrize("name", CASES)
def test_the_asyncio_agent_frames(run: Run, name: str) -> None:
    case = CASES[name]

    async def main() -> None:
        async with ScriptedServer(answering(case)) as server, AsyncKeepAliveAgent(timeout=5) as agent:
            if case.error is None:
                response = await agent.request(case.method, server.url, headers=case.headers)
                assert (response.status, response.data) == (case.status, case.body)
            else:
                with pytest.raises(AgentError) as caught:
                    await agent.request(case.method, server.url, headers=case.headers)
                assert type(caught.value) is case.error
            await asyncio.sleep(0.01)  # whatever is behind the response arrives before the next request
            second = await agent.request("GET", server.url)
            assert (second.data, second.reused_socket) == (b"next", case.reused)
            assert_that_it_adds_up(agent)

    run(main())


@pytest.mark.parametrize("name", CASES)
def test_the_threaded_agent_frames(name: str) -> None:
    case = CASES[name]
    with serving(answering(case)) as server, KeepAliveAgent(timeout=5, retries=False) as agent:
        if case.error is None:
            response = agent.request(case.method, server.url, headers=dict(case.headers))
            assert (response.status, response.data) == (case.status, case.body)
        else:
            with pytest.raises(Exception) as caught:  # noqa: PT011  # urllib3's, and its cause is looked at
                agent.request(case.method, server.url, headers=dict(case.headers))
            assert type(cause(caught.value)) is case.error
        wait_until(lambda: server.requests == 1)
        second: Any = agent.request("GET", server.url)
        assert (second.data, second.reused_socket) == (b"next", case.reused)
        assert_that_it_adds_up(agent)


def cause(error: BaseException | None) -> BaseException | None:
    """The error of ours that another one was raised from."""
    while error is not None and not isinstance(error, AgentError):
        error = error.__cause__ or error.__context__
    return error


def assert_that_it_adds_up(agent: AsyncKeepAliveAgent | KeepAliveAgent) -> None:
    status = agent.get_current_status()
    assert status.create_socket_count == status.close_socket_count + sum(status.free_sockets.values())
    assert (status.sockets, status.requests) == ({}, {})


# -- any bytes ---------------------------------------------------------------------------------------------------------

POISON = OK + b"Content-Length: 6\r\n\r\npoison"
FRAGMENTS = st.sampled_from(
    [
        OK,
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 100 Continue\r\n\r\n",
        b"X-Folded: a\r\n b\r\n",
        b" Content-Length: 6\r\n",
        b"0\r\nConnection: close\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n",
        b"Content-Length: 6\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Keep-Alive: timeout=0\r\n",
        b"\r\n",
        b"6\r\nmiddle\r\n",
        b"0\r\n\r\n",
        b"poison",
        POISON,
        NEXT,
        b"\n",
        b"\0",
    ]
)
STREAMS = st.lists(st.one_of(FRAGMENTS, st.binary(max_size=8)), max_size=8)
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Fuzzer:
    """A server that answers `/poisoned` with the stream of the moment, and all else with the request's own path.

    `is_sent` is set once the stream is out: what nobody asked for and comes later than the next request cannot be told
    from its answer by any client.
    """

    def __init__(self) -> None:
        self.stream: list[bytes] = []
        self.closes = True
        self.is_sent = threading.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            path = (await peer.request()).split(b" ")[1]
            if path != b"/poisoned":
                await peer.send(OK + b"Content-Length: %d\r\n\r\n" % len(path) + path)
                continue
            try:
                for piece in self.stream:
                    await peer.send(piece)
                    await asyncio.sleep(0)
            finally:
                self.is_sent.set()
            if self.closes:
                return


def patience_s(path: str) -> float:
    """Bytes that lead nowhere are given up soon; everything else has time, on a busy machine too."""
    return 0.05 if path == "poisoned" else 10


@pytest.mark.parametrize("loop_name", sorted(LOOPS))
def test_no_bytes_hang_the_asyncio_agent_or_reach_another_request(loop_name: str) -> None:
    fuzzer = Fuzzer()
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:

        async def send(stream: list[bytes], closes: bool, number: int) -> None:
            fuzzer.stream, fuzzer.closes = stream, closes
            async with ScriptedServer(fuzzer) as server, AsyncKeepAliveAgent(max_sockets=1) as agent:
                for path in ("first", "poisoned", f"own-{number}"):
                    try:
                        response = await agent.request("GET", f"{server.origin}/{path}", timeout=patience_s(path))
                    except AgentError:
                        assert path == "poisoned"
                        continue
                    if path != "poisoned":
                        assert response.data == f"/{path}".encode()
                    else:
                        await until(fuzzer.is_sent.is_set)
                assert_that_it_adds_up(agent)

        @SETTINGS
        @given(STREAMS, st.booleans(), st.integers(0, 10**6))
        def fuzz(stream: list[bytes], closes: bool, number: int) -> None:
            fuzzer.is_sent.clear()
            runner.run(send(stream, closes, number))

        fuzz()


def test_no_bytes_hang_the_threaded_agent_or_reach_another_request() -> None:
    fuzzer = Fuzzer()
    with serving(fuzzer) as server:

        @SETTINGS
        @given(STREAMS, st.booleans(), st.integers(0, 10**6))
        def fuzz(stream: list[bytes], closes: bool, number: int) -> None:
            fuzzer.stream, fuzzer.closes = stream, closes
            fuzzer.is_sent.clear()
            with KeepAliveAgent(max_sockets=1, retries=False) as agent:
                for path in ("first", "poisoned", f"own-{number}"):
                    try:
                        response = agent.request("GET", f"{server.origin}/{path}", timeout=patience_s(path))
                    except Exception as error:
                        assert path == "poisoned", path
                        assert isinstance(cause(error), AgentError), error  # noqa: PT017  # not which is the point
                        continue
                    if path != "poisoned":
                        assert response.data == f"/{path}".encode()
                    else:
                        assert fuzzer.is_sent.wait(5)
                assert_that_it_adds_up(agent)

        fuzz()
