"""The threaded agents as what they claim to be: a `urllib3.PoolManager`, in every respect."""

from __future__ import annotations

import array
import asyncio
import io
import re
import ssl
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
import urllib3
from urllib3 import Retry, Timeout
from urllib3.exceptions import (
    ClosedPoolError,
    HTTPError,
    MaxRetryError,
    ReadTimeoutError,
)

from kabench.agent import (
    AgentEvent,
    AgentStatus,
    KeepAliveAgent,
    KeepAliveProxyAgent,
    PlainAgent,
    SocketTimeoutError,
    reused_socket,
)
from tests.agent.threads import get
from tests.responses import always, answer, path_of
from tests.sockets import (
    OK,
    PATIENCE_S,
    Peer,
    answering_after,
    echo_forever,
    in_threads,
    serving,
    start,
    until,
    wait_until,
)

if TYPE_CHECKING:
    from kabench.agent.sync.pool import AgentPool
    from kabench.agent.sync.response import AgentResponse


# -- a manager like any other ------------------------------------------------------------------------------------------


def test_the_agents_are_urllib3_s_managers_and_their_responses_urllib3_s() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent, PlainAgent() as plain:
        assert isinstance(agent, urllib3.PoolManager)
        assert isinstance(plain, urllib3.PoolManager)
        for manager in (agent, plain):
            response = manager.request("GET", server.url)
            assert isinstance(response, urllib3.HTTPResponse)
            assert isinstance(manager.connection_from_url(server.url), urllib3.HTTPConnectionPool)
    with KeepAliveProxyAgent("http://127.0.0.1:9") as proxied:
        assert isinstance(proxied, urllib3.ProxyManager)


def test_a_response_has_what_urllib3_s_has() -> None:
    whole = answer(b'{"a": [1]}', b"Content-Type: application/json", b"Set-Cookie: a=1", b"Set-Cookie: b=2")
    with serving(always(whole)) as server, KeepAliveAgent() as agent:
        response = get(agent, f"{server.url}path?x=1")
        assert (response.status, response.reason, response.version, response.version_string) == (
            200,
            "OK",
            11,
            "HTTP/1.1",
        )
        assert response.json() == {"a": [1]}
        assert response.headers["content-type"] == "application/json"
        assert response.headers.getlist("set-cookie") == ["a=1", "b=2"]
        assert response.geturl() == "/path?x=1"
        assert (response.reused_socket, response.retried) == (False, False)
        assert get(agent, server.url).reused_socket


def test_requests_are_encoded_as_urllib3_does() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(headers={"X-Own": "1"}) as agent:
        agent.request("POST", server.url, json={"a": 1})
        agent.request("POST", server.url, fields={"a": "1"}, encode_multipart=False)
        agent.request("GET", server.url, fields={"a": "ü"}, headers={"X-Other": "2"})
        as_json, as_form, as_query = server.peers[0].requests
        assert as_json.endswith(b'\r\n\r\n{"a":1}')
        assert b"\r\nX-Own: 1\r\n" in as_json
        assert as_form.endswith(b"\r\n\r\na=1")
        assert path_of(as_query) == "/?a=%C3%BC"
        assert b"X-Own" not in as_query


def test_a_head_request_and_one_without_content_leave_the_socket_free() -> None:
    with serving(always(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")) as server, KeepAliveAgent() as agent:
        for _ in range(3):
            assert agent.request("HEAD", server.url).data == b""
        assert agent.get_current_status().free_sockets == {server.origin: 1}
        assert server.sockets == 1


@pytest.mark.parametrize("kind", ["bytes", "text", "array", "memoryview", "file", "iterator", "chunked"])
@pytest.mark.parametrize("size", [1_000, 1_000_000])
def test_bodies_of_every_kind_arrive_whole(kind: str, size: int) -> None:
    content = bytes(range(256)) * (size // 256)
    if kind == "text":
        content = content.decode("latin-1").encode()
    body: dict[str, Any] = {
        "bytes": content,
        "text": content.decode("utf-8", "ignore"),
        "array": array.array("I", content),
        "memoryview": memoryview(content),
        "file": io.BytesIO(content),
        "iterator": iter([content[:100], content[100:]]),
        "chunked": content,
    }
    arrived: list[bytes] = []

    async def handler(peer: Peer) -> None:
        head = (await peer.reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            pieces = []
            while length := int(await peer.reader.readline(), 16):
                pieces.append(await peer.reader.readexactly(length))
                await peer.reader.readline()
            arrived.append(b"".join(pieces))
        else:
            found = re.search(rb"content-length: (\d+)", head)
            assert found is not None
            arrived.append(await peer.reader.readexactly(int(found[1])))
        await peer.send(OK)

    with serving(handler) as server, KeepAliveAgent(timeout=2) as agent:
        options: dict[str, Any] = {"chunked": True} if kind == "chunked" else {}
        assert agent.request("POST", server.url, body=body[kind], retries=False, **options).status == 200
        assert arrived == [content]


# -- timeouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patient", [5, None, Timeout(read=5), Timeout(connect=0.1, read=None), Timeout(total=5)])
def test_a_timeout_that_is_passed_wins(patient: Any) -> None:
    with serving(answering_after(0.2)) as server, KeepAliveAgent(timeout=0.05) as agent:
        assert get(agent, server.url, timeout=patient, retries=False).status == 200
        assert agent.connection_from_url(server.url).urlopen("GET", "/", timeout=patient, retries=False).status == 200


@pytest.mark.parametrize("impatient", [0.05, Timeout(read=0.05), Timeout(total=0.05)])
def test_so_does_a_shorter_one(impatient: Any) -> None:
    with serving(answering_after(1)) as server, KeepAliveAgent(timeout=60) as agent:
        with pytest.raises(ReadTimeoutError) as caught:
            get(agent, server.url, timeout=impatient, retries=False)
        assert isinstance(caught.value.__cause__, SocketTimeoutError)


@pytest.mark.parametrize("own", ["100ms", 0.1, Timeout(read=0.1)])
def test_the_agent_s_own_timeout_holds_where_none_is_passed(own: Any) -> None:
    with serving(answering_after(1)) as server, KeepAliveAgent(timeout=own) as agent:
        for way in (agent.request, agent.urlopen, agent.connection_from_url(server.url).urlopen):
            with pytest.raises(ReadTimeoutError):
                way("GET", server.url, retries=False)


def test_ak_10_the_timeouts_that_urllib3_is_given() -> None:
    def of(agent: KeepAliveAgent) -> tuple[object, object]:
        agent.close()
        return agent.default_timeout.connect_timeout, agent.default_timeout.read_timeout

    assert of(KeepAliveAgent()) == (None, None)  # as PoolManager()
    assert of(KeepAliveAgent(free_socket_timeout=30)) == (None, None)
    assert of(KeepAliveAgent(connect_timeout=2)) == (2, None)
    assert of(KeepAliveAgent(timeout=0)) == (None, None)
    assert of(KeepAliveAgent(timeout=3, connect_timeout="500ms")) == (0.5, 3)
    assert of(KeepAliveAgent(timeout=3, connect_timeout=0)) == (None, 3)
    assert of(KeepAliveAgent(timeout=Timeout(connect=1, read=2))) == (1, 2)


def test_options_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="max_sockets"):
        KeepAliveAgent(max_sockets=0)
    with pytest.raises(TypeError, match="keep_alive"):
        KeepAliveAgent(keep_alive="no")
    with pytest.raises(ValueError, match="keep_alive"):
        PlainAgent(keep_alive=True)
    with pytest.raises(TypeError, match="no_such_option=1: there is no such option"):
        KeepAliveAgent(no_such_option=1)
    with pytest.raises(TypeError, match="proxy_header="):
        KeepAliveProxyAgent("http://127.0.0.1:1", proxy_header={})


def test_urllib3_s_own_options_are_taken() -> None:
    KeepAliveAgent(retries=3, ca_certs=None, source_address=("127.0.0.1", 0)).close()
    KeepAliveProxyAgent("http://127.0.0.1:1", proxy_headers={"A": "b"}, use_forwarding_for_https=True).close()


# -- Retry -------------------------------------------------------------------------------------------------------------


def test_redirects_are_followed_over_one_socket_and_over_origins() -> None:
    async def handler(peer: Peer) -> None:
        while True:
            path = path_of(await peer.request())
            if path == "/first":
                await peer.send(answer(b"", b"Location: /second", status=b"302 Found"))
            elif path == "/second":
                await peer.send(answer(b"gone", b"Location: %b" % other.url.encode(), status=b"301 Moved"))
            else:
                await peer.send(OK)

    with serving(echo_forever) as other, serving(handler) as server, KeepAliveAgent() as agent:
        response = get(agent, f"{server.url}first")
        assert (response.status, response.geturl()) == (200, other.url)
        assert [path_of(request) for request in server.peers[0].requests] == ["/first", "/second"]
        assert agent.get_current_status().free_sockets == {server.origin: 1, other.origin: 1}
        assert get(agent, f"{server.url}first", redirect=False).status == 302
        assert get(agent, f"{server.url}first", retries=False).status == 302
        with pytest.raises(MaxRetryError):
            get(agent, f"{server.url}first", retries=Retry(redirect=1))
        streamed = get(agent, f"{server.url}first", preload_content=False)
        assert streamed.read() == b"ok"
        assert server.sockets == other.sockets == 1


def test_retry_with_a_status_forcelist_goes_over_the_same_socket() -> None:
    busy = answer(b"busy", b"Retry-After: 0", status=b"503 Busy")

    async def handler(peer: Peer) -> None:
        for _ in range(2):
            await peer.answer(busy)
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent(max_sockets=1, queue_timeout=2) as agent:
        retries = Retry(3, status_forcelist=[503], backoff_factor=0)
        response = get(agent, server.url, retries=retries, preload_content=False)
        assert (response.status, response.read(), response.reused_socket) == (200, b"ok", True)
        assert response.retries is not None
        assert len(response.retries.history) == 2
        assert server.sockets == 1
        assert agent.get_current_status().retry_count == 0


def test_retry_for_read_errors_opens_another_socket_and_ends_with_max_retry_error() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()

    with serving(handler) as server, KeepAliveAgent() as agent:
        with pytest.raises(MaxRetryError) as caught:
            get(agent, server.url, retries=Retry(2, backoff_factor=0))
        assert server.sockets == 3
        assert reused_socket(caught.value) is False
        assert agent.get_current_status().retry_count == 0


# -- pools -------------------------------------------------------------------------------------------------------------


def test_ak_60_an_evicted_pool_that_somebody_holds_goes_on_keeping_its_sockets_alive() -> None:
    events: list[AgentEvent] = []
    with (
        serving(echo_forever) as one,
        serving(echo_forever) as two,
        KeepAliveAgent(num_pools=1, on_event=events.append) as agent,
    ):
        held: Any = agent.connection_from_url(one.url)
        get(agent, one.url)
        get(agent, two.url)
        assert [held.urlopen("GET", "/").reused_socket for _ in range(10)] == [True] * 10
        assert (one.sockets, agent.get_current_status().free_sockets) == (1, {one.origin: 1, two.origin: 1})
        again: Any = agent.connection_from_url(one.url)
        assert again is not held
        assert again.urlopen("GET", "/").reused_socket  # an origin's sockets are its own, whichever pool asks
        del held
        assert again.urlopen("GET", "/").reused_socket
        get(agent, two.url)
        assert one.open_now == 1
        del again
        wait_until(lambda: one.open_now == 0)
        assert [event.reason for event in events if event.kind == "closed"] == ["cleared"]
        assert agent.get_current_status().free_sockets == {two.origin: 1}


def test_ak_60_one_that_nobody_holds_closes_its_free_sockets_at_once_and_its_active_ones_when_they_come_back() -> None:
    with (
        serving(echo_forever) as one,
        serving(echo_forever) as two,
        KeepAliveAgent(num_pools=1) as agent,
    ):
        active = get(agent, one.url, preload_content=False)
        get(agent, one.url)
        assert one.open_now == 2
        get(agent, two.url)
        assert active.read() == b"ok"  # it holds its pool until then
        del active
        wait_until(lambda: one.open_now == 0)
        assert agent.get_current_status().free_sockets == {two.origin: 1}


def test_a_request_that_waits_in_an_evicted_pool_gets_its_socket() -> None:
    with (
        serving(answering_after(0.1)) as one,
        serving(echo_forever) as two,
        KeepAliveAgent(num_pools=1, max_sockets=1) as agent,
    ):
        both = [start(lambda: get(agent, one.url)) for _ in range(2)]
        wait_until(lambda: one.requests == 1 and agent.get_current_status().requests == {one.origin: 1})
        get(agent, two.url)
        assert [future.result(PATIENCE_S).status for future in both] == [200, 200]
        wait_until(lambda: one.open_now == 0)


def test_clear_closes_what_is_free_and_leaves_the_agent_usable() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        active = get(agent, server.url, preload_content=False)
        get(agent, server.url)
        agent.clear()
        wait_until(lambda: server.open_now == 1)
        assert active.read() == b"ok"
        wait_until(lambda: server.open_now == 0)
        assert [get(agent, server.url).reused_socket for _ in range(2)] == [False, True]


def test_a_pool_can_be_closed_by_itself() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        get(agent, server.url)
        agent.connection_from_url(server.url).close()
        wait_until(lambda: server.open_now == 0)
        assert get(agent, server.url).status == 200


def test_leaving_with_is_final() -> None:
    with serving(echo_forever) as server:
        with KeepAliveAgent() as agent:
            get(agent, server.url)
        with pytest.raises(ClosedPoolError):
            get(agent, server.url)


def test_maxsize_is_how_many_sockets_stay_free() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await until(lambda: server.sockets >= 4)
        await peer.send(OK)
        await echo_forever(peer)

    with serving(handler) as server, KeepAliveAgent(maxsize=2) as agent:
        assert in_threads(4, lambda _: get(agent, server.url).status) == [200] * 4
        wait_until(lambda: server.open_now == 2)
        assert agent.get_current_status().free_sockets == {server.origin: 2}
    with KeepAliveAgent(maxsize=2, max_free_sockets=3) as agent:
        assert (agent.options.max_free_sockets, agent.options.max_sockets) == (3, None)


def test_with_block_maxsize_is_how_many_there_are_at_all() -> None:
    with serving(answering_after(0.02)) as server, KeepAliveAgent(maxsize=2, block=True) as agent:
        assert in_threads(8, lambda _: get(agent, server.url).status) == [200] * 8
        assert server.sockets == 2
    with KeepAliveAgent(maxsize=2, block=True, max_sockets=3) as agent:
        assert (agent.options.max_free_sockets, agent.options.max_sockets) == (2, 3)


def pool_for(agent: KeepAliveAgent, scheme: str, port: int = 443, **made_by: Any) -> AgentPool:
    pool = agent.connection_from_host("127.0.0.1", port, scheme, pool_kwargs=made_by)
    return cast("AgentPool", pool)


def test_pools_that_differ_in_how_sockets_are_made_are_keyed_apart() -> None:
    contexts = [ssl.create_default_context(), ssl.create_default_context()]
    with KeepAliveAgent() as agent:
        usual = pool_for(agent, "https").origin
        assert usual == "https://127.0.0.1:443"
        others = [
            pool_for(agent, "https", cert_reqs="CERT_NONE").origin,
            pool_for(agent, "https", ca_certs="one.pem").origin,
            pool_for(agent, "https", ca_certs="two.pem").origin,
            pool_for(agent, "https", cert_file="me.pem").origin,
            pool_for(agent, "https", assert_hostname="other").origin,
            pool_for(agent, "https", server_hostname="other").origin,
            pool_for(agent, "https", ssl_minimum_version=ssl.TLSVersion.TLSv1_3).origin,
            *(pool_for(agent, "https", ssl_context=context).origin for context in contexts),
            pool_for(agent, "https", source_address=("127.0.0.2", 0)).origin,
        ]
        assert len(set(others)) == len(others)
        assert all(re.fullmatch(r"https://127\.0\.0\.1:443#[0-9a-f]{8}", origin) for origin in others)
        assert pool_for(agent, "https", cert_reqs="CERT_REQUIRED").origin == usual
        assert pool_for(agent, "https", retries=3, timeout=3, headers={"X": "1"}).origin == usual
    with KeepAliveAgent(cert_reqs="CERT_NONE") as agent:
        assert pool_for(agent, "https").origin == "https://127.0.0.1:443"


def test_sockets_from_another_source_address_are_not_exchanged() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        usual = pool_for(agent, "http", server.port)
        other = pool_for(agent, "http", server.port, source_address=("127.0.0.1", 0))
        for pool in (usual, other, usual, other):
            assert pool.urlopen("GET", "/").status == 200
        assert server.sockets == 2
        assert agent.get_current_status().free_sockets == {usual.origin: 1, other.origin: 1}


def test_pools_that_differ_in_nothing_of_that_kind_share_their_sockets() -> None:
    with serving(echo_forever) as server, KeepAliveAgent() as agent:
        usual, other = pool_for(agent, "http", server.port), pool_for(agent, "http", server.port, retries=5)
        assert usual is not other
        for pool in (usual, other, usual):
            assert pool.urlopen("GET", "/").status == 200
        assert server.sockets == 1


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_say_what_happens_and_why() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 1:
            await peer.answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await echo_forever(peer)

    events: list[AgentEvent] = []
    with serving(handler) as server, KeepAliveAgent(on_event=events.append, free_socket_timeout=0.1) as agent:
        get(agent, server.url)
        get(agent, server.url)
        wait_until(lambda: server.open_now == 0)
        get(agent, server.url)
        get(agent, server.url)
        get(agent, server.url)
    told = [(event.kind.value, event.reason, event.request_count) for event in events]
    assert told == [
        ("created", "", 1),
        ("reused", "", 2),
        ("timed_out", "free_timeout", 2),
        ("closed", "free_timeout", 2),
        ("created", "", 1),
        ("reused", "", 2),
        ("closed", "not_reusable", 2),
        ("created", "", 1),
        ("closed", "agent_closed", 1),
    ]
    assert {event.origin for event in events} == {server.origin}
    assert all(event.age_s >= 0 for event in events)


def test_a_listener_may_ask_and_use_the_agent() -> None:
    heard: list[AgentStatus] = []

    def listen(event: AgentEvent) -> None:
        heard.append(agent.get_current_status())
        if event.kind == "created" and len(heard) == 1:
            get(agent, server.url)

    with serving(echo_forever) as server:
        agent = KeepAliveAgent(on_event=listen, max_sockets=2, free_socket_timeout=0.1)
        with agent:
            assert start(lambda: get(agent, server.url).status).result(PATIENCE_S) == 200
            wait_until(lambda: server.open_now == 0)
            wait_until(lambda: len(heard) >= 6)
            assert max(status.timeout_socket_count for status in heard) == 2


def test_a_listener_may_close_the_agent() -> None:
    def listen(event: AgentEvent) -> None:
        if event.kind == "reused":
            agent.close()

    with serving(echo_forever) as server:
        agent = KeepAliveAgent(on_event=listen)
        get(agent, server.url)
        failed = start(lambda: get(agent, server.url)).exception(PATIENCE_S)
        assert failed is None or isinstance(failed, HTTPError)
        wait_until(lambda: server.open_now == 0)


def test_a_listener_that_raises_costs_no_request(caplog: pytest.LogCaptureFixture) -> None:
    def listen(_: AgentEvent) -> None:
        raise LookupError("a fault of the listener")

    heard: list[AgentEvent] = []
    with serving(echo_forever) as server, KeepAliveAgent(on_event=listen) as agent:
        agent.add_event_listener(heard.append)
        assert [get(agent, server.url).status for _ in range(2)] == [200, 200]
        assert [event.kind.value for event in heard] == ["created", "reused"]
    assert "a fault of the listener" in caplog.text


# -- answers before the request was sent -------------------------------------------------------------------------------


def large(kind: str) -> Any:
    whole = bytes(30_000_000)
    if kind == "bytes":
        return whole
    if kind == "file":
        return io.BytesIO(whole)
    return (whole[:8_192] for _ in range(4_000))


@pytest.mark.parametrize("kind", ["bytes", "file", "iterator"])
def test_an_answer_before_all_was_sent_is_the_response_and_ends_the_socket(kind: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer(b"too large", status=b"413 Content Too Large"))
        await until(lambda: len(responses) > peer.number)  # reads no more

    responses: list[AgentResponse] = []
    with serving(handler) as server, KeepAliveAgent() as agent:
        for _ in range(2):
            began_at = time.monotonic()
            response = agent.request("PUT", server.url, body=large(kind), retries=False)
            assert time.monotonic() - began_at < 5
            responses.append(cast("AgentResponse", response))
        assert [(response.status, response.data) for response in responses] == [(413, b"too large")] * 2
        assert [response.reused_socket for response in responses] == [False, False]
        status = agent.get_current_status()
        assert (status.free_sockets, status.sockets, status.close_socket_count) == ({}, {}, 2)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_100_while_the_body_is_sent_is_not_the_response(size: int) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            head = await peer.reader.readuntil(b"\r\n\r\n")
            assert b"expect: 100-continue" in head.lower()
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await asyncio.sleep(0.02)
            body = await peer.reader.readexactly(size)
            await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(b"%d" % len(body)))

    with serving(handler) as server, KeepAliveAgent() as agent:
        for _ in range(2):
            response = agent.request("PUT", server.url, body=bytes(size), headers={"Expect": "100-continue"})
            assert (response.status, response.data) == (200, b"%d" % size)
        assert server.sockets == 1


def test_who_waits_gets_a_socket_after_an_early_answer() -> None:
    async def handler(peer: Peer) -> None:
        if peer.number:
            await echo_forever(peer)
        await peer.reader.readuntil(b"\r\n\r\n")
        await until(lambda: agent.get_current_status().requests != {})
        await peer.send(answer(b"", status=b"413 Content Too Large"))
        await until(lambda: agent.get_current_status().request_count == 2)

    with serving(handler) as server, KeepAliveAgent(max_sockets=1) as agent:
        first = start(lambda: agent.request("PUT", server.url, body=large("bytes"), retries=False))
        wait_until(lambda: server.sockets == 1)
        second = start(lambda: get(agent, server.url, retries=False))
        assert (first.result(PATIENCE_S).status, second.result(PATIENCE_S).status) == (413, 200)
