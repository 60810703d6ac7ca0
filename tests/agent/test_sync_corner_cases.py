"""The threaded agents where two things happen at once: closing and reading, ends of threads, renewed files, forks."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
import trustme
import urllib3

from kabench.agent import (
    AgentClosedError,
    KeepAliveAgent,
    KeepAliveProxyAgent,
    SocketClosedError,
    reused_socket,
)
from kabench.agent.sync.connection import AgentConnection
from tests.sockets import ECHOED_BYTES, OK, Peer, echo_at_once, echo_forever, serving, wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's context, and the file of its authority."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    file = tmp_path_factory.mktemp("keys") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return context, str(file)


def test_ak_24_close_in_the_middle_of_a_download_over_tls_gives_an_error_and_no_ciphertext(
    keys: tuple[ssl.SSLContext, str],
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 80000\r\n\r\n" + b"x" * 40_000)
        await peer.closed_by_client()

    context, authority = keys
    with serving(handler, tls=context) as server:
        agent = KeepAliveAgent(ca_certs=authority)
        response = agent.request("GET", server.url, preload_content=False)
        assert response.read(100) == b"x" * 100
        agent.close()
        with pytest.raises(urllib3.exceptions.ProtocolError) as caught:
            response.read()
        assert isinstance(caught.value.__cause__, AgentClosedError)


def test_ak_24_close_does_not_end_a_body_that_ends_with_the_connection() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\npart")
        await peer.closed_by_client()

    with serving(handler) as server:
        agent = KeepAliveAgent()
        response = agent.request("GET", server.url, preload_content=False)
        assert response.read(4) == b"part"
        agent.close()
        with pytest.raises(urllib3.exceptions.ProtocolError):
            response.read()


@pytest.mark.parametrize("where", ["is_stale", "_new_conn"])
def test_ak_19_whatever_is_raised_on_the_way_to_a_socket_loses_no_place(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with serving(echo_forever) as server, KeepAliveAgent(max_sockets=1, queue_timeout=1) as agent:
        if where == "is_stale":
            agent.request("GET", server.url)
        with monkeypatch.context() as patched:
            owner = AgentConnection if where == "is_stale" else type(agent.connection_from_url(server.url))
            patched.setattr(owner, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                agent.request("GET", server.url)
        assert agent.request("GET", server.url).data == b"ok"


def test_https_through_an_https_proxy(keys: tuple[ssl.SSLContext, str]) -> None:
    context, authority = keys

    async def proxy(peer: Peer) -> None:
        target = (await peer.request()).split()[1].decode()
        host, _, port = target.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        try:
            await asyncio.gather(relay(peer.reader, writer), relay(reader, peer.writer))
        finally:
            writer.close()

    with (
        serving(echo_forever, tls=context) as server,
        serving(proxy, tls=context) as proxied,
        KeepAliveProxyAgent(proxied.origin, ca_certs=authority) as agent,
    ):
        responses: list[Any] = [agent.request("GET", server.url) for _ in range(2)]
        assert [response.data for response in responses] == [b"ok", b"ok"]
        assert [response.reused_socket for response in responses] == [False, True]


@pytest.mark.parametrize("size", [100, 40_000, 1_000_000])
def test_ak_34_a_large_body_on_a_stale_socket_over_tls_is_sent_again(
    size: int, keys: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number:
            await peer.answer()

    context, authority = keys
    with (
        serving(handler, tls=context) as server,
        KeepAliveAgent(ca_certs=authority, retry_stale="idempotent", retries=False) as agent,
    ):
        monkeypatch.setattr(AgentConnection, "is_stale", lambda _: None)  # the race: it is closed a moment later
        agent.request("GET", server.url)
        wait_until(lambda: server.open_now == 0)
        response: Any = agent.request("PUT", server.url, body=b"x" * size)
        assert (response.data, response.retried) == (b"ok", True)


def test_a_certificate_that_is_renewed_in_its_file_is_used(tmp_path: Path) -> None:
    authority = trustme.CA()
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(asking)
    authority.configure_trust(asking)
    asking.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    names: list[str] = []

    async def handler(peer: Peer) -> None:
        certificate = peer.writer.get_extra_info("peercert")
        names.append(dict(certificate["subjectAltName"])["email"])
        await peer.answer()

    def renew(name: str) -> None:
        certificate = authority.issue_cert(name)
        pems = [certificate.private_key_pem, *certificate.cert_chain_pems]
        (tmp_path / "client.pem").write_bytes(b"".join(pem.bytes() for pem in pems))

    with serving(handler, tls=asking) as server:
        files = {"ca_certs": str(tmp_path / "ca.pem"), "cert_file": str(tmp_path / "client.pem")}
        with KeepAliveAgent(**cast("dict[str, Any]", files), max_cached_sessions=1) as agent:
            for name in ("one@example.org", "two@example.org"):
                renew(name)
                assert agent.request("GET", server.url, headers={"Connection": "close"}).data == b"ok"
    assert names == ["one@example.org", "two@example.org"]


@pytest.mark.parametrize(
    "response", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
)
def test_one_empty_response_after_the_other_gives_its_socket_back(response: bytes) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.answer(response)

    with serving(handler) as server, KeepAliveAgent(max_sockets=1, queue_timeout=1) as agent:
        for _ in range(4):
            assert agent.request("GET", server.url, preload_content=False).closed
        assert server.sockets == 1


def test_an_error_is_about_its_own_socket_and_not_about_one_before() -> None:
    def fail() -> None:
        try:
            raise SocketClosedError("stale", reused_socket=True)  # noqa: TRY301
        except SocketClosedError:
            raise ConnectionRefusedError("another request, somewhere else")  # noqa: B904  # as it happens

    with pytest.raises(ConnectionRefusedError) as caught:
        fail()
    assert reused_socket(caught.value) is None


def test_a_context_of_a_caller_that_knows_no_sessions_is_used(keys: tuple[ssl.SSLContext, str]) -> None:
    class Context(ssl.SSLContext):
        def wrap_socket(self, sock: Any, server_hostname: str | None = None) -> Any:  # type: ignore[override]
            return super().wrap_socket(sock, server_hostname=server_hostname)

    context, authority = keys
    own = Context(ssl.PROTOCOL_TLS_CLIENT)
    own.load_verify_locations(authority)
    with serving(echo_forever, tls=context) as server, KeepAliveAgent(ssl_context=own) as agent:
        assert agent.request("GET", server.url).data == b"ok"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_ends_the_reaper_s_thread_ends_it_alone() -> None:
    def listen(event: Any) -> None:
        if event.kind.value == "timed_out" and threading.current_thread().name == "kabench-reaper":
            raise SystemExit

    with serving(echo_forever) as server, KeepAliveAgent(free_socket_timeout=0.05, on_event=listen) as agent:
        for count in (1, 2):
            agent.request("GET", server.url)
            wait_until(lambda: not any(t.name == "kabench-reaper" for t in threading.enumerate()))
            assert agent.get_current_status().timeout_socket_count == count


CLOSED_BEFORE_FORK = """
import os, sys
from kabench.agent import KeepAliveAgent
events = []
agent = KeepAliveAgent(on_event=events.append)
agent.request("GET", sys.argv[1])
open_agent = KeepAliveAgent(on_event=events.append)
open_agent.request("GET", sys.argv[1])
agent.close()
events.clear()
if not os.fork():
    try:
        agent.request("GET", sys.argv[1])
    except Exception as error:
        print(type(error).__name__, events, flush=True)
    os._exit(0)
os.wait()
"""


def test_ak_24_a_closed_agent_is_closed_in_a_forked_child_too() -> None:
    with serving(echo_forever) as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CLOSED_BEFORE_FORK, server.url],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=os.environ,
        )
    assert (done.stdout, done.stderr) == ("ClosedPoolError []\n", "")


def test_a_server_that_answers_while_it_reads_gets_the_whole_request_and_no_other() -> None:
    with serving(echo_at_once) as server, KeepAliveAgent(timeout=5) as agent:
        assert len(agent.request("POST", server.url, body=bytes(ECHOED_BYTES)).data) == ECHOED_BYTES
        second: Any = agent.request("GET", server.url)
        assert second.reused_socket is False


def test_read_chunked_of_nothing_reads_nothing() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        await peer.answer(OK)

    with serving(handler) as server, KeepAliveAgent() as agent:
        response = cast("urllib3.HTTPResponse", agent.request("GET", server.url, preload_content=False))
        assert list(response.read_chunked(0)) == []
        assert b"".join(response.read_chunked()) == b"ok"
