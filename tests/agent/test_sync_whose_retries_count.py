"""AK-34 below other people's code: whose `retries` count. A write is never sent twice below who was told not to repeat.

Each library is used as its users do, on top of an agent whose reused socket is reset when the next request comes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from urllib3 import Retry

from kabench.agent import KeepAliveAdapter, KeepAliveAgent, KeepAliveTransport
from tests.sockets import Peer, ScriptedServer, serving

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Elastic-Product: Elasticsearch\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)


async def reset_the_second(peer: Peer) -> None:
    """Answer once a socket, and reset when the next request comes; sockets from the second on answer all."""
    await peer.answer(JSON)
    if peer.number == 0:
        await peer.request()
        peer.reset()
        return
    while True:
        await peer.answer(JSON)


def times_seen(server: ScriptedServer, method: str) -> int:
    return sum(request.startswith(method.encode() + b" ") for peer in server.peers for request in peer.requests)


def sent_twice(send: Callable[[str, str], object], server: ScriptedServer, method: str) -> bool:
    """Whether a request that met the stale socket reached the server a second time."""
    send("GET", server.url)
    before = times_seen(server, method)
    with contextlib.suppress(Exception):  # whatever the library makes of it
        send(method, server.url)
    return times_seen(server, method) - before == 2


@pytest.mark.parametrize(
    ("options", "with_request", "method", "twice"),
    [
        ({"retries": False}, {}, "GET", True),
        ({"retries": False}, {"retries": False}, "GET", False),
        ({"retries": False}, {"retries": Retry(False)}, "GET", False),
        ({"retries": Retry(False)}, {}, "GET", True),
        ({"retries": False}, {}, "PUT", False),
        ({"retries": False}, {}, "DELETE", False),
        ({"retries": False}, {}, "POST", False),
        ({"retries": False, "retry_stale": "idempotent"}, {}, "PUT", True),
        ({"retries": False, "retry_stale": "idempotent"}, {"retries": False}, "PUT", False),
        ({"retries": False}, {"headers": {"Idempotency-Key": "1"}}, "POST", True),
        ({"retries": False, "retry_stale": False}, {}, "GET", False),
    ],
)
def test_ak_34_what_came_with_the_request_counts_and_a_constructor_s_does_not(
    options: dict[str, Any], with_request: dict[str, Any], method: str, twice: bool
) -> None:
    with serving(reset_the_second) as server, KeepAliveAgent(**options) as agent:
        assert sent_twice(lambda m, url: agent.request(m, url, body=b"", **with_request), server, method) is twice


@pytest.mark.parametrize("max_retries", [0, Retry(False)])
@pytest.mark.parametrize(("method", "twice"), [("GET", True), ("PUT", False), ("POST", False)])
def test_ak_34_what_the_requests_adapter_passes_by_itself_does_not_count(
    max_retries: Any, method: str, twice: bool
) -> None:
    requests = pytest.importorskip("requests")
    with serving(reset_the_second) as server, requests.Session() as session:
        session.mount("http://", KeepAliveAdapter(max_retries=max_retries))
        assert sent_twice(lambda m, url: session.request(m, url).content, server, method) is twice


@pytest.mark.parametrize(("method", "twice"), [("GET", True), ("PUT", False), ("POST", False)])
def test_ak_34_nor_does_what_the_httpx_transport_passes(method: str, twice: bool) -> None:
    httpx = pytest.importorskip("httpx")
    with serving(reset_the_second) as server, httpx.Client(transport=KeepAliveTransport()) as client:
        assert sent_twice(client.request, server, method) is twice


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
@pytest.mark.parametrize("retry_stale", ["safe", "idempotent"])
def test_ak_34_botocore_s_own_retries_are_the_only_ones(method: str, retry_stale: Any) -> None:
    httpsession = pytest.importorskip("botocore.httpsession")
    awsrequest = pytest.importorskip("botocore.awsrequest")
    with serving(reset_the_second) as server, KeepAliveAgent(retry_stale=retry_stale) as agent:
        session = httpsession.URLLib3Session()
        session._manager = agent

        def send(asked: str, url: str) -> None:
            session.send(awsrequest.AWSRequest(asked, url, data=b"").prepare())

        assert not sent_twice(send, server, method)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_ak_34_elasticsearch_s_own_retries_are_the_only_ones(method: str) -> None:
    elastic = pytest.importorskip("elastic_transport")
    with serving(reset_the_second) as server:
        node = elastic.Urllib3HttpNode(elastic.NodeConfig("http", "127.0.0.1", server.port))
        agent = KeepAliveAgent(retry_stale="idempotent")
        node.pool = agent.connection_from_url(server.url)
        assert not sent_twice(lambda asked, _: node.perform_request(asked, "/"), server, method)
        agent.close()
