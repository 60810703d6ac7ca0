"""The threaded agents' limits of what a server may send."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import pytest
import urllib3

from kabench.agent import KeepAliveAgent, ResponseTooLargeError
from tests.sockets import answering_after, echo_forever, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.sockets import Peer, ScriptedServer

LIMIT_BYTES = 100_000


def coded(body: bytes, coding: bytes = b"gzip") -> Callable[[Peer], Awaitable[None]]:
    """Answers with a body in a content coding."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(body))
    return answering_after(0, head + body)


def refuses(agent: KeepAliveAgent, server: ScriptedServer) -> None:
    with pytest.raises(urllib3.exceptions.DecodeError) as caught:
        agent.request("GET", server.url)
    assert isinstance(caught.value.__cause__, ResponseTooLargeError)


def test_a_body_over_the_limit_is_one_of_urllib3_s_errors_and_is_not_asked_for_again() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(max_response_bytes=1) as agent:
        refuses(agent, server)
        assert server.requests == 1


BOMB = gzip.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    ("bomb", "coding"),
    [
        (BOMB, b"gzip"),
        (zlib.compress(bytes(50_000_000)), b"deflate"),
        (gzip.compress(BOMB), b"gzip, gzip"),
    ],
)
def test_a_small_body_that_decodes_to_a_large_one_is_over_the_limit(bomb: bytes, coding: bytes) -> None:
    assert len(bomb) < LIMIT_BYTES
    with serving(coded(bomb, coding)) as server, KeepAliveAgent(max_response_bytes=LIMIT_BYTES) as agent:
        refuses(agent, server)
        refuses(agent, server)  # the agent stays usable
        assert server.requests == 2


def test_a_coded_body_at_the_limit_passes() -> None:
    body = bytes(LIMIT_BYTES)
    with serving(coded(gzip.compress(body))) as server, KeepAliveAgent(max_response_bytes=LIMIT_BYTES) as agent:
        response = agent.request("GET", server.url)
        assert response.data == body
        assert response.data == body  # it is kept
        agent.request("GET", server.url)
        assert server.sockets == 1


def test_a_streamed_body_has_no_limit() -> None:
    with serving(coded(BOMB)) as server, KeepAliveAgent(max_response_bytes=LIMIT_BYTES) as agent:
        response = agent.request("GET", server.url, preload_content=False)
        assert sum(map(len, response.stream(65_536))) == 50_000_000
