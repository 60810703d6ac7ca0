"""The asyncio agents over https, on both loops: AK-40 to AK-43."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AgentError,
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    CertificateError,
    ConnectError,
    InsecureTlsWarning,
    SocketTimeoutError,
    StaleSocketError,
    TlsError,
    TlsOptions,
)
from kabench.agent.aio import resolver
from tests.sockets import (
    OK,
    Peer,
    ScriptedServer,
    answering_after,
    echo_forever,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

from tests.certificates import (
    PASSWORD,
    Keys,
    Noting,
    TlsEnd,
    answering_through,
    asking_on_free_sockets,
    cut_off,
    failing_the_second_handshake,
    hashed_folder,
    in_both_versions,
    in_each_case,
    rejected,
    tls_of,
)

# -- asyncio: AK-40 ----------------------------------------------------------------------------------------------------


def test_ak_40_https_goes_through_the_same_agent_as_http(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as plain,
            ScriptedServer(echo_forever, tls=keys.server_context()) as secured,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            for expected in (False, True):
                for server in (plain, secured):
                    response = await agent.request("GET", server.url)
                    assert (response.status, response.data, response.reused_socket) == (200, b"ok", expected)
            assert agent.get_current_status().free_sockets == {plain.origin: 1, secured.origin: 1}
            assert secured.peers[0].requests[0].startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:")

    run(main())


def apart_options(keys: Keys, what: str) -> TlsOptions:
    options: dict[str, dict[str, Any]] = {
        "verification": {"verify": False},
        "authorities": {"ca_data": keys.ca_data},
        "client certificate": {"ca_file": keys.ca_file, "cert_file": keys.client_file},
        "server name": {"ca_file": keys.ca_file, "server_name": "service.test"},
        "version": {"ca_file": keys.ca_file, "maximum_version": "1.2"},
        "context": {"context": keys.client_context()},
    }
    return TlsOptions(**options[what])


@pytest.mark.parametrize(
    "what", ["verification", "authorities", "client certificate", "server name", "version", "context"]
)
def test_ak_40_sockets_are_pooled_apart_by_what_affects_tls(run: Run, keys: Keys, what: str) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            options = apart_options(keys, what)
            insecure = pytest.warns(InsecureTlsWarning) if not options.verify else contextlib.nullcontext()
            reused = [(await agent.request("GET", server.url)).reused_socket]
            with insecure:
                reused += [(await agent.request("GET", server.url, tls=options)).reused_socket for _ in range(2)]
            reused.append((await agent.request("GET", server.url)).reused_socket)
            assert reused == [False, False, True, True]
            assert server.sockets == 2
            own, others = sorted(agent.get_current_status().free_sockets)
            assert own == server.origin
            assert re.fullmatch(re.escape(server.origin) + "#[0-9a-f]{8}", others)

    run(main())


def test_ak_40_options_that_are_the_agent_s_own_are_not_set_apart(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            await agent.request("GET", server.url)
            prepared = agent.prepare("GET", server.url, tls=keys.trusted())
            assert (await agent.send(prepared)).reused_socket
            async with agent.stream("GET", server.url, tls=keys.trusted()) as response:
                assert (await response.aread(), response.reused_socket) == (b"ok", True)
            assert agent.get_current_status().free_sockets == {server.origin: 1}

    run(main())


def test_ak_40_each_of_several_options_keeps_to_its_own_socket_limit(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(answering_after(0.02), tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), max_sockets=2) as agent,
        ):
            named = keys.trusted(server_name="service.test")
            await asyncio.gather(
                *(agent.request("GET", server.url) for _ in range(6)),
                *(agent.request("GET", server.url, tls=named) for _ in range(6)),
            )
            assert server.sockets == 4
            assert sorted(agent.get_current_status().free_sockets.values()) == [2, 2]

    run(main())


def test_tls_options_of_an_http_request_are_refused(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with AsyncKeepAliveAgent() as agent:
            with pytest.raises(ValueError, match=r"^tls: "):
                await agent.request("GET", "http://127.0.0.1:9/", tls=keys.trusted())

    run(main())


def test_the_server_name_is_what_is_asked_for_and_looked_for_in_the_certificate(run: Run, keys: Keys) -> None:
    asked: list[str | None] = []
    context = keys.server_context()
    context.sni_callback = lambda _, name, __: asked.append(name)

    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=context) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(server_name="service.test")) as agent,
        ):
            await agent.request("GET", server.url)
            assert asked == ["service.test"]
            assert b"\r\nHost: 127.0.0.1:" in server.peers[0].requests[0]
            await agent.request("GET", f"https://localhost:{server.port}/", tls=keys.trusted())
            assert asked == ["service.test", "localhost"]
            with pytest.raises(CertificateError, match=r"nobody\.test"):
                await agent.request("GET", server.url, tls=keys.trusted(server_name="nobody.test"))

    run(main())


def test_alpn_offers_http_1_1(run: Run, keys: Keys) -> None:
    context = keys.server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=context) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            await agent.request("GET", server.url)
            assert tls_of(server.peers[0]).selected_alpn_protocol() == "http/1.1"

    run(main())


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_versions_are_held_to(run: Run, keys: Keys, version: Any) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(minimum_version=version, maximum_version=version)) as agent,
        ):
            await agent.request("GET", server.url)
            assert tls_of(server.peers[0]).version() == f"TLSv{version}"

    run(main())


def test_a_server_without_a_common_version_is_refused(run: Run, keys: Keys) -> None:
    async def main() -> None:
        context = keys.server_context(version=ssl.TLSVersion.TLSv1_2)
        async with (
            ScriptedServer(answering_through(context)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(minimum_version="1.3")) as agent,
        ):
            with pytest.raises(TlsError, match="version"):
                await agent.request("GET", f"https://127.0.0.1:{server.port}/")
            assert server.requests == 0

    run(main())


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_ak_44_an_address_is_looked_for_in_the_certificate(run: Run, keys: Keys, host: str) -> None:
    asked: list[str | None] = []
    context = keys.server_context()
    context.sni_callback = lambda _, name, __: asked.append(name)

    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, host=host, tls=context) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            assert (await agent.request("GET", server.url)).status == 200
            assert agent.get_current_status().free_sockets == {server.origin: 1}
            assert f"\r\nHost: {server.origin.removeprefix('https://')}\r\n".encode() in server.peers[0].requests[0]
            assert asked == [None]  # an address is no server name (RFC 6066 section 3)

    run(main())


# -- asyncio: AK-41 ----------------------------------------------------------------------------------------------------


@in_both_versions
@in_each_case
def test_ak_41_a_bad_certificate_fails_with_the_reason_and_nothing_is_sent(
    run: Run, keys: Keys, case: str, version: ssl.TLSVersion
) -> None:
    context, is_trusted, reason = rejected(keys, case)
    context.minimum_version = context.maximum_version = version

    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=context) as server,
            AsyncKeepAliveAgent(tls=keys.trusted() if is_trusted else None, max_sockets=1) as agent,
        ):
            outcomes = await asyncio.gather(
                *(agent.request("POST", server.url, body=b"secret") for _ in range(3)), return_exceptions=True
            )
            for error in outcomes:  # each pending one tries for itself (AK-23)
                assert isinstance(error, CertificateError)
                assert reason in str(error)
                assert server.origin in str(error)
            assert (server.sockets, server.requests) == (0, 0)
            status = agent.get_current_status()
            assert (status.create_socket_error_count, status.create_socket_count, status.close_socket_count) == (
                3,
                0,
                0,
            )
            assert status.sockets == status.free_sockets == status.requests == {}
            assert agent.tls_handshake_count == 0

    run(main())


def test_ak_41_a_certificate_error_is_a_connect_error_and_has_a_name(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever, tls=keys.server_context()) as server, AsyncKeepAliveAgent() as agent:
            with pytest.raises(ConnectError) as caught:
                await agent.request("GET", server.url)
            assert isinstance(caught.value, AgentError | TlsError | OSError)
            assert caught.value.kind == "certificate_rejected"

    run(main())


@in_each_case
def test_ak_41_without_verification_it_works_and_warns(run: Run, keys: Keys, case: str) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever, tls=rejected(keys, case)[0]) as server:
            with pytest.warns(InsecureTlsWarning, match="not verified"):
                agent = AsyncKeepAliveAgent(tls=TlsOptions(verify=False))
            async with agent:
                assert (await agent.request("GET", server.url)).data == b"ok"

    run(main())


def test_ak_41_a_server_is_not_trusted_because_an_unverified_request_went_before(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever, tls=keys.server_context()) as server, AsyncKeepAliveAgent() as agent:
            with pytest.warns(InsecureTlsWarning):
                await agent.request("GET", server.url, tls=TlsOptions(verify=False))
            with pytest.raises(CertificateError):
                await agent.request("GET", server.url)
            assert server.requests == 1

    run(main())


@pytest.mark.parametrize("source", ["ca_file", "ca_folder", "ca_data"])
def test_authorities_come_from_a_file_a_folder_or_text(run: Run, keys: Keys, source: str, tmp_path: Path) -> None:
    value = {"ca_file": keys.ca_file, "ca_data": keys.ca_data}.get(source) or hashed_folder(keys, tmp_path)
    given: dict[str, Any] = {source: value}

    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=TlsOptions(**given)) as agent,
        ):
            assert (await agent.request("GET", server.url)).status == 200

    run(main())


def test_an_empty_folder_of_authorities_trusts_nobody(run: Run, keys: Keys, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=TlsOptions(ca_folder=str(tmp_path))) as agent,
        ):
            with pytest.raises(CertificateError, match="issuer"):
                await agent.request("GET", server.url)

    run(main())


@in_both_versions
@pytest.mark.parametrize("files", ["one file", "two files", "a locked key"])
def test_a_client_certificate_is_shown_to_a_server_that_asks(
    run: Run, keys: Keys, files: str, version: ssl.TLSVersion
) -> None:
    given = {
        "one file": {"cert_file": keys.client_file},
        "two files": {"cert_file": keys.client_certificate_file, "key_file": keys.client_key_file},
        "a locked key": {
            "cert_file": keys.client_certificate_file,
            "key_file": keys.locked_key_file,
            "key_password": PASSWORD,
        },
    }[files]

    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context(version=version, wants_client=True)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(**given)) as agent,
        ):
            assert (await agent.request("GET", server.url)).status == 200
            shown = tls_of(server.peers[0]).getpeercert()
            assert shown is not None
            assert shown["subjectAltName"] == (("email", "client@kabench.test"),)

    run(main())


@in_both_versions
def test_without_the_client_certificate_a_server_asks_for_the_reason_is_told(
    run: Run, keys: Keys, version: ssl.TLSVersion
) -> None:
    # In TLS 1.3 the client's handshake is over before the server says no, so that it is no failed connect there.
    is_early = version is ssl.TLSVersion.TLSv1_2

    async def main() -> None:
        context = keys.server_context(version=version, wants_client=True)
        async with (
            ScriptedServer(answering_through(context)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            with pytest.raises(TlsError if is_early else AgentError) as caught:
                await agent.request("GET", f"https://127.0.0.1:{server.port}/")
            reason = str(caught.value).lower().replace("_", " ")
            assert ("handshake failure" if is_early else "certificate required") in reason
            assert server.requests == 0
            await until(lambda: agent.get_current_status().sockets == {})

    run(main())


# -- asyncio: AK-42 ----------------------------------------------------------------------------------------------------


@in_both_versions
@pytest.mark.parametrize("has_tickets", [True, False])
def test_ak_42_sessions_are_resumed(run: Run, keys: Keys, version: ssl.TLSVersion, has_tickets: bool) -> None:
    context = keys.server_context(version=version)
    if not has_tickets:
        context.options |= ssl.OP_NO_TICKET  # the server keeps the sessions itself
    handler = Noting()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=context) as server,
            AsyncPlainAgent(tls=keys.trusted()) as agent,
        ):
            for _ in range(4):
                assert (await agent.request("GET", server.url)).data == b"ok"
            assert handler.resumed == [False, True, True, True]
            assert (agent.tls_handshake_count, agent.tls_resumed_count) == (4, 3)

    run(main())


@in_both_versions
def test_ak_42_a_keep_alive_agent_resumes_when_it_opens_another_socket(
    run: Run, keys: Keys, version: ssl.TLSVersion
) -> None:
    handler = Noting()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), max_requests_per_socket=2) as agent,
        ):
            for _ in range(4):
                await agent.request("GET", server.url)
            assert handler.resumed == [False, True]
            assert (agent.tls_handshake_count, agent.tls_resumed_count) == (2, 1)

    run(main())


def test_ak_42_a_session_is_resumed_only_with_the_options_it_was_made_with(run: Run, keys: Keys) -> None:
    handler = Noting()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncPlainAgent(tls=keys.trusted()) as agent,
        ):
            named = keys.trusted(server_name="service.test")
            for tls in (None, named, named, None):
                await agent.request("GET", server.url, tls=tls)
            assert handler.resumed == [False, False, True, True]

    run(main())


@in_both_versions
@pytest.mark.parametrize(
    ("max_cached_sessions", "resumed"),
    [(0, [False, False, False, False]), (1, [False, False, False, True]), (2, [False, False, True, True])],
)
def test_ak_42_at_most_max_cached_sessions_are_kept_the_last_ones(
    run: Run, keys: Keys, version: ssl.TLSVersion, max_cached_sessions: int, resumed: list[bool]
) -> None:
    of_one, of_other = Noting(), Noting()

    async def main() -> None:
        async with (
            ScriptedServer(of_one, tls=keys.server_context(version=version)) as one,
            ScriptedServer(of_other, tls=keys.server_context(version=version)) as other,
            AsyncPlainAgent(tls=keys.trusted(), max_cached_sessions=max_cached_sessions) as agent,
        ):
            for server in (one, other, one, one):
                await agent.request("GET", server.url)
            by_one, by_other = of_one.resumed, of_other.resumed
            assert [by_one[0], by_other[0], *by_one[1:]] == resumed
            assert agent.tls_resumed_count == sum(resumed)

    run(main())


@in_both_versions
def test_ak_42_a_failed_handshake_drops_the_session(run: Run, keys: Keys, version: ssl.TLSVersion) -> None:
    resumed: list[bool | None] = []
    handler = failing_the_second_handshake(keys.server_context(version=version), resumed)

    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncPlainAgent(tls=keys.trusted()) as agent:
            url = f"https://127.0.0.1:{server.port}/"
            await agent.request("GET", url)
            with pytest.raises(TlsError):
                await agent.request("GET", url)
            await agent.request("GET", url)
            await agent.request("GET", url)
            assert resumed == [False, False, True]
            assert (agent.tls_handshake_count, agent.tls_resumed_count) == (3, 1)

    run(main())


def test_ak_42_a_failed_connect_drops_the_session(run: Run, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["127.0.0.1"]

    async def look_up(_: str) -> list[str]:
        return addresses

    monkeypatch.setattr(resolver, "_look_up", look_up)
    handler = Noting()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncPlainAgent(tls=keys.trusted()) as agent,
        ):
            url = f"https://service.test:{server.port}/"
            await agent.request("GET", url)
            addresses[:] = ["127.0.0.2"]  # where nobody listens
            with pytest.raises(ConnectError):
                await agent.request("GET", url)
            addresses[:] = ["127.0.0.1"]
            await agent.request("GET", url)
            assert handler.resumed == [False, False]

    run(main())


# -- asyncio: AK-43 ----------------------------------------------------------------------------------------------------


@in_both_versions
def test_ak_43_a_free_socket_is_closed_after_its_time_with_a_goodbye(
    run: Run, keys: Keys, version: ssl.TLSVersion
) -> None:
    ends: list[bytes] = []
    context = keys.server_context(version=version)

    async def handler(peer: Peer) -> None:
        end = TlsEnd(peer, context)
        await end.shake_hands()
        await end.answer()
        ends.append(await end.read())

    async def main() -> None:
        async with (
            ScriptedServer(handler) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), free_socket_timeout=0.05) as agent,
        ):
            url = f"https://127.0.0.1:{server.port}/"
            await agent.request("GET", url)
            await until(lambda: server.open_now == 0)
            assert ends == [b""]  # a close_notify (RFC 8446 section 6.1); without one there is no end to be read
            status = agent.get_current_status()
            assert (status.timeout_socket_count, status.close_socket_count, status.error_socket_count) == (1, 1, 0)
            assert not (await agent.request("GET", url)).reused_socket

    run(main())


@pytest.mark.parametrize("answered_before", [0, 1])
def test_ak_43_an_active_socket_without_activity_times_out(run: Run, keys: Keys, answered_before: int) -> None:
    async def handler(peer: Peer) -> None:
        for _ in range(answered_before):
            await peer.answer()
        await peer.request()
        await peer.closed_by_client()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), timeout=0.1, connect_timeout=5) as agent,
        ):
            for _ in range(answered_before):
                await agent.request("GET", server.url)
            with pytest.raises(SocketTimeoutError) as caught:
                await agent.request("GET", server.url)
            assert (caught.value.timeout, caught.value.reused_socket) == (0.1, bool(answered_before))
            await until(lambda: server.open_now == 0)

    run(main())


def test_ak_43_activity_starts_the_timeout_anew(run: Run, keys: Keys) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.12)
            await peer.send(b"x")

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), timeout=0.35) as agent,
        ):
            assert (await agent.request("GET", server.url)).data == b"xxxx"

    run(main())


@in_both_versions
@pytest.mark.parametrize("ending", ["goodbye", "cut off", "reset"])
def test_ak_43_a_socket_that_the_server_closes_leaves_the_pool_at_once(
    run: Run, keys: Keys, version: ssl.TLSVersion, ending: str
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if ending == "cut off":
            await cut_off(peer)
        elif ending == "reset":
            peer.reset()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            for number in range(2):
                assert not (await agent.request("GET", server.url)).reused_socket
                await until(lambda: agent.get_current_status().free_sockets == {})
                assert agent.get_current_status().close_socket_count == number + 1

    run(main())


@pytest.mark.parametrize("ending", ["goodbye", "cut off", "reset"])
def test_ak_43_a_request_on_a_stale_socket_is_sent_again_if_that_is_safe(run: Run, keys: Keys, ending: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 1:
            await echo_forever(peer)
        await peer.request()  # and the socket is closed instead of an answer
        if ending == "cut off":
            await cut_off(peer)
        elif ending == "reset":
            peer.reset()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            await agent.request("GET", server.url)
            response = await agent.request("GET", server.url)
            assert (response.data, response.retried, response.reused_socket) == (b"ok", True, False)
            status = agent.get_current_status()
            assert (status.retry_count, status.create_socket_count) == (1, 2)

    run(main())


def test_ak_43_a_request_on_a_stale_socket_that_is_not_safe_to_repeat_fails(run: Run, keys: Keys) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            await agent.request("GET", server.url)
            with pytest.raises(StaleSocketError) as caught:
                await agent.request("POST", server.url, body=b"x")
            assert caught.value.reused_socket
            assert server.sockets == 1

    run(main())


def test_ak_43_messages_of_the_tls_layer_on_a_free_socket_are_no_stray_bytes(run: Run, keys: Keys) -> None:
    is_asked: list[bool] = []
    context = keys.client_context()
    context.post_handshake_auth = True

    async def main() -> None:
        async with (
            ScriptedServer(asking_on_free_sockets(keys, is_asked)) as server,
            AsyncKeepAliveAgent(tls=TlsOptions(context=context)) as agent,
        ):
            url = f"https://127.0.0.1:{server.port}/"
            await agent.request("GET", url)
            await until(lambda: bool(is_asked))
            await asyncio.sleep(0.05)  # time for what was sent to come, and to be taken for what it is not
            response = await agent.request("GET", url)
            assert (response.data, response.reused_socket) == (b"ok", True)
            assert (await agent.request("GET", url)).reused_socket
            assert agent.get_current_status().close_socket_count == 0

    run(main())


@in_both_versions
def test_ak_43_bytes_nobody_asked_for_on_a_free_socket_close_it(run: Run, keys: Keys, version: ssl.TLSVersion) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await asyncio.sleep(0.02)  # the client has its answer
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await peer.closed_by_client()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            await agent.request("GET", server.url)
            await until(lambda: agent.get_current_status().free_sockets == {})
            response = await agent.request("GET", server.url)
            assert (response.status, response.reused_socket) == (200, False)
            assert server.sockets == 2

    run(main())


def test_ak_43_bytes_behind_the_end_of_a_response_close_the_socket(run: Run, keys: Keys) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await peer.closed_by_client()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            for _ in range(2):
                response = await agent.request("GET", server.url)
                assert (response.data, response.reused_socket) == (b"ok", False)

    run(main())
