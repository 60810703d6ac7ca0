"""The threaded agents over https: AK-40 to AK-43."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from kabench.agent import (
    AgentError,
    CertificateError,
    ConnectTimeoutError,
    IncompleteResponseError,
    KeepAliveAgent,
    PlainAgent,
    SocketTimeoutError,
    StaleSocketError,
    TlsError,
)
from kabench.agent.sync.response import AgentResponse
from tests.agent.threads import get_once
from tests.sockets import (
    Peer,
    answering_after,
    echo_forever,
    in_threads,
    serving,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

from tests.certificates import (
    PASSWORD,
    UNTIL_CLOSE,
    Error,
    Keys,
    Noting,
    Rush,
    answering_through,
    asking_on_free_sockets,
    cut_off,
    drips,
    echo_bodies,
    failing_the_second_handshake,
    hashed_folder,
    in_both_versions,
    in_each_case,
    read_all,
    reads_and_closes,
    reads_and_resets,
    rejected,
    speaks_plain_http,
    tls_of,
)


def found_in(error: BaseException, kind: type[Error]) -> Error:
    """An error of that kind among what an error was made of and raised from."""
    seen: list[object] = []
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, kind):
            return found
        if isinstance(found, BaseException) and not any(found is other for other in seen):
            seen.append(found)
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
    raise AssertionError(f"there is no {kind.__name__} behind {error!r}")


def test_ak_40_threads_https_goes_through_the_same_agent_as_http(keys: Keys) -> None:
    with (
        serving(echo_forever) as plain,
        serving(echo_forever, tls=keys.server_context()) as secured,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        for expected in (False, True):
            for server in (plain, secured):
                response = get_once(agent, server.url)
                assert (response.status, response.data, response.reused_socket) == (200, b"ok", expected)
        assert agent.get_current_status().free_sockets == {plain.origin: 1, secured.origin: 1}


@pytest.mark.parametrize(
    "what",
    ["verification", "authorities", "client certificate", "server name", "checked name", "version", "context"],
)
def test_ak_40_threads_sockets_are_pooled_apart_by_what_affects_tls(keys: Keys, what: str) -> None:
    by_what: dict[str, dict[str, Any]] = {
        "verification": {"cert_reqs": "CERT_NONE"},
        "authorities": {"ca_certs": None, "ca_cert_data": keys.ca_data},
        "client certificate": {"cert_file": keys.client_file},
        "server name": {"server_hostname": "service.test"},
        "checked name": {"assert_hostname": "localhost"},
        "version": {"ssl_maximum_version": ssl.TLSVersion.TLSv1_2},
        "context": {"ssl_context": keys.client_context()},
    }
    insecure = pytest.warns(urllib3.exceptions.InsecureRequestWarning)
    with (
        serving(echo_forever, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        reused = [get_once(agent, server.url).reused_socket]
        with insecure if what == "verification" else contextlib.nullcontext():
            for _ in range(2):
                pool = agent.connection_from_host("127.0.0.1", server.port, "https", pool_kwargs=by_what[what])
                response = pool.urlopen("GET", "/", retries=False)
                assert isinstance(response, AgentResponse)
                assert response.data == b"ok"
                reused.append(response.reused_socket)
        reused.append(get_once(agent, server.url).reused_socket)
        assert reused == [False, False, True, True]
        assert server.sockets == 2
        own, others = sorted(agent.get_current_status().free_sockets)
        assert own == server.origin
        assert re.fullmatch(re.escape(server.origin) + "#[0-9a-f]{8}", others)


def test_ak_40_threads_options_that_are_the_agent_s_own_are_not_set_apart(keys: Keys) -> None:
    with (
        serving(echo_forever, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        get_once(agent, server.url)
        same = {"cert_reqs": "CERT_REQUIRED", "ca_certs": keys.ca_file}
        pool = agent.connection_from_host("127.0.0.1", server.port, "https", pool_kwargs=same)
        pool.urlopen("GET", "/", retries=False)
        assert agent.get_current_status().free_sockets == {server.origin: 1}


def test_threads_the_server_name_is_what_is_asked_for_and_looked_for_in_the_certificate(keys: Keys) -> None:
    asked: list[str | None] = []
    context = keys.server_context()
    context.sni_callback = lambda _, name, __: asked.append(name)
    with (
        serving(echo_forever, tls=context) as server,
        KeepAliveAgent(ca_certs=keys.ca_file, server_hostname="service.test") as agent,
        KeepAliveAgent(ca_certs=keys.ca_file, server_hostname="nobody.test") as refusing,
    ):
        get_once(agent, server.url)
        assert asked == ["service.test"]
        with pytest.raises(urllib3.exceptions.SSLError, match=r"nobody\.test") as caught:
            get_once(refusing, server.url)
        found_in(caught.value, CertificateError)


def test_threads_alpn_offers_http_1_1(keys: Keys) -> None:
    context = keys.server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with serving(echo_forever, tls=context) as server, KeepAliveAgent(ca_certs=keys.ca_file) as agent:
        get_once(agent, server.url)
        assert tls_of(server.peers[0]).selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_ak_44_threads_an_address_is_looked_for_in_the_certificate(keys: Keys, host: str) -> None:
    with (
        serving(echo_forever, host=host, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        assert get_once(agent, server.url).status == 200
        assert agent.get_current_status().free_sockets == {server.origin: 1}
        assert f"\r\nHost: {server.origin.removeprefix('https://')}\r\n".encode() in server.peers[0].requests[0]


@in_both_versions
@in_each_case
@pytest.mark.parametrize("retries", [False, 1])
def test_ak_41_threads_a_bad_certificate_fails_with_the_reason_and_nothing_is_sent(
    keys: Keys, case: str, version: ssl.TLSVersion, retries: Any
) -> None:
    context, is_trusted, reason = rejected(keys, case)
    context.minimum_version = context.maximum_version = version
    kind = urllib3.exceptions.MaxRetryError if retries else urllib3.exceptions.SSLError
    with (
        serving(echo_forever, tls=context) as server,
        KeepAliveAgent(ca_certs=keys.ca_file if is_trusted else None) as agent,
    ):
        with pytest.raises(kind, match=reason) as caught:
            agent.request("GET", server.url, retries=retries)
        assert reason in str(found_in(caught.value, CertificateError))
        found_in(caught.value, urllib3.exceptions.SSLError)
        assert (server.sockets, server.requests) == (0, 0)
        status = agent.get_current_status()
        tries = 1 + int(retries)
        assert (status.create_socket_error_count, status.create_socket_count) == (tries, 0)
        assert (status.close_socket_count, status.sockets, status.free_sockets) == (0, {}, {})
        assert agent.tls_handshake_count == 0


@in_each_case
def test_ak_41_threads_without_verification_it_works_and_warns(keys: Keys, case: str) -> None:
    with (
        serving(echo_forever, tls=rejected(keys, case)[0]) as server,
        KeepAliveAgent(cert_reqs="CERT_NONE") as agent,
        pytest.warns(urllib3.exceptions.InsecureRequestWarning),
    ):
        assert get_once(agent, server.url).data == b"ok"


def test_ak_41_threads_a_fingerprint_is_held_to(keys: Keys) -> None:
    with serving(echo_forever, tls=keys.server_context()) as server:
        with KeepAliveAgent(ca_certs=keys.ca_file, assert_fingerprint="00" * 32) as agent:
            with pytest.raises(urllib3.exceptions.SSLError, match="Fingerprints did not match"):
                get_once(agent, server.url)
            assert server.requests == 0
            assert agent.get_current_status().create_socket_error_count == 1
        der = ssl.PEM_cert_to_DER_cert(keys.server.cert_chain_pems[0].bytes().decode())
        with KeepAliveAgent(ca_certs=keys.ca_file, assert_fingerprint=hashlib.sha256(der).hexdigest()) as agent:
            assert get_once(agent, server.url).status == 200


@pytest.mark.parametrize("source", ["ca_certs", "ca_cert_dir", "ca_cert_data"])
def test_threads_authorities_come_from_a_file_a_folder_or_text(keys: Keys, source: str, tmp_path: Path) -> None:
    value = {"ca_certs": keys.ca_file, "ca_cert_data": keys.ca_data}.get(source) or hashed_folder(keys, tmp_path)
    options: dict[str, Any] = {source: value}
    with serving(echo_forever, tls=keys.server_context()) as server, KeepAliveAgent(**options) as agent:
        assert get_once(agent, server.url).status == 200


@in_both_versions
def test_threads_a_client_certificate_is_shown_to_a_server_that_asks(keys: Keys, version: ssl.TLSVersion) -> None:
    with (
        serving(echo_forever, tls=keys.server_context(version=version, wants_client=True)) as server,
        KeepAliveAgent(
            ca_certs=keys.ca_file,
            cert_file=keys.client_certificate_file,
            key_file=keys.locked_key_file,
            key_password=PASSWORD,
        ) as agent,
    ):
        assert get_once(agent, server.url).status == 200
        shown = tls_of(server.peers[0]).getpeercert()
        assert shown is not None
        assert shown["subjectAltName"] == (("email", "client@kabench.test"),)


@in_both_versions
def test_threads_without_the_client_certificate_a_server_asks_for_the_reason_is_told(
    keys: Keys, version: ssl.TLSVersion
) -> None:
    is_early = version is ssl.TLSVersion.TLSv1_2
    with (
        serving(answering_through(keys.server_context(version=version, wants_client=True))) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            get_once(agent, f"https://127.0.0.1:{server.port}/")
        ours = found_in(caught.value, TlsError if is_early else AgentError)
        reason = str(ours).lower().replace("_", " ")
        assert ("handshake failure" if is_early else "certificate required") in reason
        assert server.requests == 0
        assert agent.get_current_status().sockets == {}


@pytest.mark.parametrize("given", [{"ca_certs": "missing"}, {"cert_file": "missing"}])
def test_threads_files_that_cannot_be_used_are_an_ssl_error_before_anything_is_sent(
    keys: Keys, given: dict[str, Any]
) -> None:
    with serving(read_all) as server, KeepAliveAgent(**{"ca_certs": keys.ca_file, **given}) as agent:
        with pytest.raises((urllib3.exceptions.SSLError, OSError)):
            get_once(agent, f"https://127.0.0.1:{server.port}/")
        assert server.requests == 0
        status = agent.get_current_status()
        assert (status.sockets, status.create_socket_error_count) == ({}, 1)


@in_both_versions
@pytest.mark.parametrize("has_tickets", [True, False])
def test_ak_42_threads_sessions_are_resumed(keys: Keys, version: ssl.TLSVersion, has_tickets: bool) -> None:
    context = keys.server_context(version=version)
    if not has_tickets:
        context.options |= ssl.OP_NO_TICKET
    handler = Noting()
    with serving(handler, tls=context) as server, PlainAgent(ca_certs=keys.ca_file) as agent:
        for _ in range(4):
            assert get_once(agent, server.url).data == b"ok"
        assert handler.resumed == [False, True, True, True]
        assert (agent.tls_handshake_count, agent.tls_resumed_count) == (4, 3)


def test_ak_42_threads_a_session_is_resumed_in_a_context_of_the_caller_s(keys: Keys) -> None:
    handler = Noting()
    with (
        serving(handler, tls=keys.server_context()) as server,
        PlainAgent(ssl_context=keys.client_context()) as agent,
    ):
        for _ in range(3):
            get_once(agent, server.url)
        assert handler.resumed == [False, True, True]


@in_both_versions
@pytest.mark.parametrize(
    ("max_cached_sessions", "resumed"),
    [(0, [False, False, False, False]), (1, [False, False, False, True]), (2, [False, False, True, True])],
)
def test_ak_42_threads_at_most_max_cached_sessions_are_kept_the_last_ones(
    keys: Keys, version: ssl.TLSVersion, max_cached_sessions: int, resumed: list[bool]
) -> None:
    of_one, of_other = Noting(), Noting()
    with (
        serving(of_one, tls=keys.server_context(version=version)) as one,
        serving(of_other, tls=keys.server_context(version=version)) as other,
        PlainAgent(ca_certs=keys.ca_file, max_cached_sessions=max_cached_sessions) as agent,
    ):
        for server in (one, other, one, one):
            get_once(agent, server.url)
        by_one, by_other = of_one.resumed, of_other.resumed
        assert [by_one[0], by_other[0], *by_one[1:]] == resumed
        assert agent.tls_resumed_count == sum(resumed)


@in_both_versions
def test_ak_42_threads_a_failed_handshake_drops_the_session(keys: Keys, version: ssl.TLSVersion) -> None:
    resumed: list[bool | None] = []
    handler = failing_the_second_handshake(keys.server_context(version=version), resumed)
    with serving(handler) as server, PlainAgent(ca_certs=keys.ca_file) as agent:
        url = f"https://127.0.0.1:{server.port}/"
        get_once(agent, url)
        with pytest.raises(urllib3.exceptions.HTTPError):
            get_once(agent, url)
        get_once(agent, url)
        get_once(agent, url)
        assert resumed == [False, False, True]
        assert (agent.tls_handshake_count, agent.tls_resumed_count) == (3, 1)


def test_ak_42_threads_a_failed_connect_drops_the_session(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "127.0.0.1"

    def look_up(_: str, port: int, *__: object, **___: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    handler = Noting()
    with (
        serving(handler, tls=keys.server_context()) as server,
        PlainAgent(ca_certs=keys.ca_file) as agent,
    ):
        url = f"https://service.test:{server.port}/"
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", look_up)
            get_once(agent, url)
            address = "127.0.0.2"  # where nobody listens
            with pytest.raises(urllib3.exceptions.NewConnectionError):
                get_once(agent, url)
            address = "127.0.0.1"
            get_once(agent, url)
        assert handler.resumed == [False, False]


def test_ak_43_threads_a_free_socket_is_closed_after_its_time(keys: Keys) -> None:
    with (
        serving(echo_forever, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file, free_socket_timeout=0.05) as agent,
    ):
        get_once(agent, server.url)
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.timeout_socket_count, status.close_socket_count, status.error_socket_count) == (1, 1, 0)
        assert not get_once(agent, server.url).reused_socket


@pytest.mark.parametrize("answered_before", [0, 1])
def test_ak_43_threads_an_active_socket_without_activity_times_out(keys: Keys, answered_before: int) -> None:
    async def handler(peer: Peer) -> None:
        for _ in range(answered_before):
            await peer.answer()
        await peer.request()
        await peer.closed_by_client()

    with (
        serving(handler, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file, timeout=0.2, connect_timeout=5) as agent,
    ):
        for _ in range(answered_before):
            get_once(agent, server.url)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError) as caught:
            get_once(agent, server.url)
        ours = found_in(caught.value, SocketTimeoutError)
        assert (ours.timeout, ours.reused_socket) == (0.2, bool(answered_before))
        wait_until(lambda: server.open_now == 0)
        assert agent.get_current_status().timeout_socket_count == 1


@in_both_versions
@pytest.mark.parametrize("ending", ["goodbye", "cut off", "reset"])
def test_ak_43_threads_a_socket_that_the_server_has_closed_is_not_used(
    keys: Keys, version: ssl.TLSVersion, ending: str
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if ending == "cut off":
            await cut_off(peer)
        elif ending == "reset":
            peer.reset()

    with (
        serving(handler, tls=keys.server_context(version=version)) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        get_once(agent, server.url)
        wait_until(lambda: server.open_now == 0)
        time.sleep(0.05)  # what the server has sent last is on its way
        response = get_once(agent, server.url)
        assert (response.data, response.reused_socket, response.retried) == (b"ok", False, False)
        assert agent.get_current_status().close_socket_count == 1


@pytest.mark.parametrize("ending", ["goodbye", "cut off", "reset"])
def test_ak_43_threads_a_request_on_a_stale_socket_is_sent_again_if_that_is_safe(keys: Keys, ending: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 1:
            await echo_forever(peer)
        await peer.request()
        if ending == "cut off":
            await cut_off(peer)
        elif ending == "reset":
            peer.reset()

    with (
        serving(handler, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        get_once(agent, server.url)
        response = get_once(agent, server.url)
        assert (response.data, response.retried, response.reused_socket) == (b"ok", True, False)
        status = agent.get_current_status()
        assert (status.retry_count, status.create_socket_count) == (1, 2)
        assert agent.tls_handshake_count == 2


def test_ak_43_threads_a_request_on_a_stale_socket_that_is_not_safe_to_repeat_fails(keys: Keys) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    with (
        serving(handler, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        get_once(agent, server.url)
        with pytest.raises(urllib3.exceptions.ProtocolError) as caught:
            agent.request("POST", server.url, body=b"x", retries=False)
        assert found_in(caught.value, StaleSocketError).reused_socket
        assert server.sockets == 1


def test_ak_43_threads_messages_of_the_tls_layer_on_a_free_socket_are_no_stray_bytes(keys: Keys) -> None:
    is_asked: list[bool] = []
    with (
        serving(asking_on_free_sockets(keys, is_asked)) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        url = f"https://127.0.0.1:{server.port}/"
        get_once(agent, url)
        wait_until(lambda: bool(is_asked))
        time.sleep(0.02)  # what was sent is on its way
        response = get_once(agent, url)
        assert (response.data, response.reused_socket, response.retried) == (b"ok", True, False)
        assert agent.get_current_status().close_socket_count == 0


@in_both_versions
def test_ak_43_threads_bytes_nobody_asked_for_on_a_free_socket_close_it(keys: Keys, version: ssl.TLSVersion) -> None:
    sent: list[bool] = []

    async def handler(peer: Peer) -> None:
        await peer.answer()
        await asyncio.sleep(0.02)  # the client has its answer
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        sent.append(True)
        await peer.closed_by_client()

    with (
        serving(handler, tls=keys.server_context(version=version)) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        get_once(agent, server.url)
        wait_until(lambda: bool(sent))
        time.sleep(0.02)
        response = get_once(agent, server.url)
        assert (response.status, response.reused_socket, response.retried) == (200, False, False)
        assert server.sockets == 2


@pytest.mark.parametrize("handler", [read_all, drips])
def test_threads_the_connect_timeout_covers_a_handshake_that_never_ends(keys: Keys, handler: Handler) -> None:
    with serving(handler) as server, KeepAliveAgent(ca_certs=keys.ca_file, connect_timeout=0.15) as agent:
        begun = time.monotonic()
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            get_once(agent, f"https://127.0.0.1:{server.port}/")
        assert 0.15 <= time.monotonic() - begun < 3
        assert found_in(caught.value, ConnectTimeoutError).timeout == 0.15
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.create_socket_error_count, status.create_socket_count, status.sockets) == (1, 0, {})


@pytest.mark.parametrize("handler", [reads_and_closes, reads_and_resets, speaks_plain_http])
def test_ak_23_threads_a_server_that_does_not_finish_the_handshake_is_a_tls_error(keys: Keys, handler: Handler) -> None:
    with serving(handler) as server, KeepAliveAgent(ca_certs=keys.ca_file) as agent:
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            get_once(agent, f"https://127.0.0.1:{server.port}/")
        ours = found_in(caught.value, TlsError)
        assert not isinstance(ours, CertificateError)
        assert f"https://127.0.0.1:{server.port}" in str(ours)
        status = agent.get_current_status()
        assert (status.create_socket_error_count, status.create_socket_count, status.close_socket_count) == (1, 0, 0)
        assert (status.error_socket_count, status.sockets) == (0, {})


@in_both_versions
def test_threads_large_bodies_go_both_ways(keys: Keys, version: ssl.TLSVersion) -> None:
    body = os.urandom(4_000_003)
    with (
        serving(echo_bodies, tls=keys.server_context(version=version)) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        for size in (len(body), 16_384, 16_385, *[65_537] * 20):
            assert agent.request("PUT", server.url, body=body[:size], retries=False).data == body[:size]
        streamed = agent.request("PUT", server.url, body=body, retries=False, preload_content=False)
        assert b"".join(streamed.stream(100_000)) == body
        assert server.sockets == 1


@in_both_versions
@pytest.mark.parametrize("size", [2, 300_000])
@pytest.mark.parametrize("preload_content", [True, False])
def test_threads_a_body_that_ends_with_a_goodbye_is_whole(
    keys: Keys, version: ssl.TLSVersion, size: int, preload_content: bool
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(UNTIL_CLOSE + bytes(size))

    with (
        serving(handler, tls=keys.server_context(version=version)) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        assert get_once(agent, server.url, preload_content=preload_content).data == bytes(size)
        assert agent.get_current_status().free_sockets == {}


@in_both_versions
@pytest.mark.parametrize("size", [2, 300_000])
@pytest.mark.parametrize("preload_content", [True, False])
def test_threads_a_body_that_ends_without_a_goodbye_may_have_been_cut_off(
    keys: Keys, version: ssl.TLSVersion, size: int, preload_content: bool
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(UNTIL_CLOSE + bytes(size))
        await cut_off(peer)
        await read_all(peer)

    with (
        serving(handler, tls=keys.server_context(version=version)) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        with pytest.raises(urllib3.exceptions.ProtocolError) as caught:
            get_once(agent, server.url, preload_content=preload_content).read()
        found_in(caught.value, IncompleteResponseError)
        assert agent.get_current_status().sockets == {}


@in_both_versions
def test_ak_21_threads_plain_agents_open_a_socket_a_request_and_never_too_many(
    keys: Keys, version: ssl.TLSVersion
) -> None:
    rush = Rush()
    with (
        serving(rush, tls=keys.server_context(version=version)) as server,
        PlainAgent(ca_certs=keys.ca_file, max_sockets=4) as agent,
    ):
        outcomes = in_threads(10, lambda _: [get_once(agent, server.url).data for _ in range(3)])
        assert outcomes == [[b"ok"] * 3] * 10
        assert (server.sockets, agent.tls_handshake_count) == (30, 30)
        assert rush.most <= 4
        assert agent.tls_resumed_count > 15
        wait_until(lambda: server.open_now == 0)


def test_threads_share_secured_sockets(keys: Keys) -> None:
    with (
        serving(answering_after(0.002), tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file, max_sockets=3) as agent,
    ):
        outcomes = in_threads(8, lambda _: [get_once(agent, server.url).data for _ in range(10)])
        assert outcomes == [[b"ok"] * 10] * 8
        assert server.sockets == agent.tls_handshake_count <= 3
