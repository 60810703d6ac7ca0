"""The agents over https, on real sockets: AK-40 to AK-44. First the asyncio agents, on both loops, then the others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trustme
import urllib3
from cryptography.hazmat.primitives import serialization

from kabench.agent import (
    AgentClosedError,
    AgentError,
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    CertificateError,
    ConnectError,
    ConnectTimeoutError,
    IncompleteResponseError,
    InsecureTlsWarning,
    KeepAliveAgent,
    PlainAgent,
    SocketTimeoutError,
    StaleSocketError,
    TlsError,
    TlsOptions,
)
from kabench.agent.aio import resolver
from kabench.agent.sync.response import AgentResponse
from tests.sockets import (
    OK,
    Peer,
    ScriptedServer,
    answering_after,
    echo_forever,
    in_threads,
    serving,
    until,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

T = TypeVar("T")
Error = TypeVar("Error", bound=BaseException)

PASSWORD = "open sesame"  # of a key made here
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
in_both_versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)


# -- certificates and servers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """The certificates of this module, in memory and in files."""

    folder: Path
    ca: trustme.CA
    server: trustme.LeafCert
    other_name: trustme.LeafCert
    expired: trustme.LeafCert
    ca_file: str
    client_file: str
    client_certificate_file: str
    client_key_file: str
    locked_key_file: str
    other_key_file: str
    garbage_file: str

    @property
    def ca_data(self) -> str:
        return self.ca.cert_pem.bytes().decode()

    def server_context(
        self,
        leaf: trustme.LeafCert | None = None,
        *,
        version: ssl.TLSVersion | None = None,
        wants_client: bool = False,
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (leaf or self.server).configure_cert(context)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self.ca.configure_trust(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)

    def trusted(self, **more: Any) -> TlsOptions:
        return TlsOptions(ca_file=self.ca_file, **more)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    ca = trustme.CA()
    client, other = ca.issue_cert("client@kabench.test"), ca.issue_cert("other@kabench.test")
    locked = serialization.load_pem_private_key(client.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSWORD.encode()),
    )
    files = {
        "ca": ca.cert_pem.bytes(),
        "client": client.private_key_and_cert_chain_pem.bytes(),
        "client_certificate": client.cert_chain_pems[0].bytes(),
        "client_key": client.private_key_pem.bytes(),
        "locked_key": locked,
        "other_key": other.private_key_pem.bytes(),
        "garbage": b"this is no certificate\n",
    }
    for name, content in files.items():
        (folder / f"{name}.pem").write_bytes(content)
    return Keys(
        folder=folder,
        ca=ca,
        server=ca.issue_cert("127.0.0.1", "::1", "localhost", "service.test"),
        other_name=ca.issue_cert("another.test"),
        expired=ca.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)),
        **{f"{name}_file": str(folder / f"{name}.pem") for name in files},
    )


def tls_of(peer: Peer) -> ssl.SSLObject:
    tls: ssl.SSLObject = peer.writer.get_extra_info("ssl_object")
    return tls


class Noting:
    """Answers every request at once. `resumed` says of each socket whether the server saw a session resumed."""

    def __init__(self) -> None:
        self.resumed: list[bool | None] = []

    async def __call__(self, peer: Peer) -> None:
        self.resumed.append(tls_of(peer).session_reused)
        await echo_forever(peer)


async def cut_off(peer: Peer) -> None:
    """End the TCP connection without a close_notify, as one does who is killed or in the way."""
    await asyncio.sleep(0.02)  # what was written is handed to the system in the loop's next rounds
    raw: socket.socket = peer.writer.get_extra_info("socket")
    with socket.socket(fileno=os.dup(raw.fileno())) as own:
        own.shutdown(socket.SHUT_WR)


async def read_all(peer: Peer) -> None:
    """Take what comes and say nothing, until the client closes."""
    while await peer.reader.read(65_536):
        pass


async def reads_and_closes(peer: Peer) -> None:
    """Close as soon as the client has said something."""
    await peer.reader.read(65_536)


async def reads_and_resets(peer: Peer) -> None:
    await peer.reader.read(65_536)
    peer.reset()


async def speaks_plain_http(peer: Peer) -> None:
    await peer.reader.read(65_536)
    await peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


async def drips(peer: Peer) -> None:
    """Begin a record of the handshake, and send it byte by byte, so that the socket is never silent."""
    await peer.reader.read(65_536)
    await peer.send(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03")
    while True:
        await peer.send(b"\0")
        await asyncio.sleep(0.02)


async def echo_bodies(peer: Peer) -> None:
    while True:
        body = (await peer.request()).partition(b"\r\n\r\n")[2]
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


class TlsEnd:
    """The server's end of TLS on a plain socket, step by step, for what asyncio's own does not offer."""

    def __init__(self, peer: Peer, context: ssl.SSLContext) -> None:
        self._peer = peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def _do(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._peer.reader.read(65_536)
                if not data:
                    raise EOFError from None
                self._incoming.write(data)
            except ssl.SSLError:
                await self._flush()  # the alert that says why
                await read_all(self._peer)
                raise EOFError from None
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._peer.send(self._outgoing.read())

    async def shake_hands(self) -> None:
        await self._do(self.tls.do_handshake)

    async def read(self) -> bytes:
        """What comes next; empty for the client's close_notify. Raises `EOFError` where it just ends."""
        return await self._do(lambda: self.tls.read(65_536))

    async def answer(self) -> None:
        whole = b""
        while not whole.endswith(b"\r\n\r\n"):
            piece = await self.read()
            if not piece:
                raise EOFError
            whole += piece
        self._peer.requests.append(whole)
        await self._do(lambda: self.tls.write(OK))

    async def ask_for_a_certificate(self) -> None:
        """Send a message of the handshake, and nothing of an application (RFC 8446 section 4.6.2)."""
        self.tls.verify_client_post_handshake()
        await self._do(self.tls.do_handshake)


def answering_through(context: ssl.SSLContext) -> Handler:
    """Answers every request; unlike asyncio's own server, it says why it refuses a handshake."""

    async def handler(peer: Peer) -> None:
        end = TlsEnd(peer, context)
        await end.shake_hands()
        while True:
            await end.answer()

    return handler


def asking_on_free_sockets(keys: Keys, is_asked: list[bool]) -> Handler:
    """Answers once, then sends a message of the TLS layer on the free socket, then goes on answering."""
    context = keys.server_context(version=ssl.TLSVersion.TLSv1_3)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.post_handshake_auth = True
    keys.ca.configure_trust(context)

    async def handler(peer: Peer) -> None:
        end = TlsEnd(peer, context)
        await end.shake_hands()
        await end.answer()
        await asyncio.sleep(0.02)  # the client has its answer, and the socket is free
        await end.ask_for_a_certificate()
        is_asked.append(True)
        while True:
            await end.answer()

    return handler


def failing_the_second_handshake(context: ssl.SSLContext, resumed: list[bool | None]) -> Handler:
    """Answers once a socket, but closes the second socket in its handshake."""

    async def handler(peer: Peer) -> None:
        if peer.number == 1:
            await reads_and_closes(peer)
            return
        end = TlsEnd(peer, context)
        await end.shake_hands()
        resumed.append(end.tls.session_reused)
        await end.answer()

    return handler


def hashed_folder(keys: Keys, folder: Path) -> str:
    """A folder of authorities as OpenSSL looks for them, by a hash of their names."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command to hash a name with")
    command = [openssl, "x509", "-noout", "-hash", "-in", keys.ca_file]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    shutil.copy(keys.ca_file, folder / f"{name}.0")
    return str(folder)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "option"),
    [
        ({"verify": "ca.pem"}, TypeError, "verify"),
        ({"verify": 0}, TypeError, "verify"),
        ({"ca_file": b"ca.pem"}, TypeError, "ca_file"),
        ({"key_password": 1}, TypeError, "key_password"),
        ({"minimum_version": "1.1"}, ValueError, "minimum_version"),
        ({"maximum_version": 1.3}, ValueError, "maximum_version"),
        ({"minimum_version": "1.3", "maximum_version": "1.2"}, ValueError, "imum_version"),
        ({"key_file": "key.pem"}, ValueError, "key_file"),
        ({"context": True}, TypeError, "context"),
        ({"context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "ca_file": "ca.pem"}, ValueError, "ca_file"),
    ],
)
def test_options_that_are_none_are_refused_by_name(given: dict[str, Any], error: type[Exception], option: str) -> None:
    with pytest.raises(error, match=option):
        TlsOptions(**given)


def test_options_show_no_secrets(keys: Keys) -> None:
    options = TlsOptions(
        ca_data=keys.ca_data,
        cert_file=keys.client_certificate_file,
        key_file=keys.locked_key_file,
        key_password=PASSWORD,
    )
    for text in (repr(options), str(options)):
        assert PASSWORD not in text
        assert "BEGIN CERTIFICATE" not in text
        assert keys.locked_key_file in text


def test_equal_options_have_equal_digests_and_others_have_not() -> None:
    some = [
        TlsOptions(),
        TlsOptions(verify=False),
        TlsOptions(ca_file="a"),
        TlsOptions(ca_folder="a"),
        TlsOptions(ca_data="a"),
        TlsOptions(cert_file="a"),
        TlsOptions(cert_file="a", key_file="a"),
        TlsOptions(cert_file="a", key_password="a"),
        TlsOptions(server_name="a"),
        TlsOptions(minimum_version="1.3"),
        TlsOptions(maximum_version="1.3"),
        TlsOptions(context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
    ]
    assert len({options.digest for options in some}) == len(some)
    assert all(re.fullmatch(r"[0-9a-f]{8}", options.digest) for options in some)
    assert TlsOptions(ca_file="a").digest == TlsOptions(ca_file="a").digest


def bad_files(keys: Keys) -> dict[str, tuple[dict[str, Any], str]]:
    """Options that cannot be used, with the one that is to be named."""
    missing = str(keys.folder / "missing")
    certificate = {"cert_file": keys.client_certificate_file}
    return {
        "no authorities file": ({"ca_file": missing}, "ca_file"),
        "an authorities file of garbage": ({"ca_file": keys.garbage_file}, "ca_file"),
        "no authorities folder": ({"ca_folder": missing}, "ca_folder"),
        "a file for a folder": ({"ca_folder": keys.ca_file}, "ca_folder"),
        "authorities of garbage": ({"ca_data": "garbage"}, "ca_data"),
        "no certificate file": ({"cert_file": missing}, "cert_file"),
        "a certificate file of garbage": ({"cert_file": keys.garbage_file}, "cert_file"),
        "a certificate without its key": (certificate, "cert_file"),
        "no key file": ({**certificate, "key_file": missing}, "key_file"),
        "a key file of garbage": ({**certificate, "key_file": keys.garbage_file}, "key_file|cert_file"),
        "another certificate's key": ({**certificate, "key_file": keys.other_key_file}, "key_file|cert_file"),
        "a locked key without a password": ({**certificate, "key_file": keys.locked_key_file}, "key_|cert_file"),
        "a locked key with another's password": (
            {**certificate, "key_file": keys.locked_key_file, "key_password": "not it"},
            "key_|cert_file",
        ),
    }


BAD_FILES = [
    "no authorities file",
    "an authorities file of garbage",
    "no authorities folder",
    "a file for a folder",
    "authorities of garbage",
    "no certificate file",
    "a certificate file of garbage",
    "a certificate without its key",
    "no key file",
    "a key file of garbage",
    "another certificate's key",
    "a locked key without a password",
    "a locked key with another's password",
]


@pytest.mark.parametrize("case", BAD_FILES)
def test_an_agent_refuses_files_it_cannot_use_and_names_the_option(keys: Keys, case: str) -> None:
    given, option = bad_files(keys)[case]
    with pytest.raises(ValueError, match=f"^({option})") as caught:
        AsyncKeepAliveAgent(tls=TlsOptions(**given))
    assert "not it" not in str(caught.value)


def test_a_request_with_files_that_cannot_be_used_is_refused_before_anything_is_sent(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with ScriptedServer(read_all) as server, AsyncKeepAliveAgent(tls=keys.trusted()) as agent:
            with pytest.raises(ValueError, match=r"^ca_file"):
                await agent.request("GET", f"https://127.0.0.1:{server.port}/", tls=TlsOptions(ca_file="missing"))
            assert server.sockets == 0
            assert agent.get_current_status().sockets == {}

    run(main())


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


def rejected(keys: Keys, case: str) -> tuple[ssl.SSLContext, bool, str]:
    """A server's context, whether its authority is trusted, and the reason why its certificate is not accepted."""
    return {
        "unknown authority": (keys.server_context(), False, "unable to get local issuer certificate"),
        "another name": (keys.server_context(keys.other_name), True, "IP address mismatch"),
        "expired": (keys.server_context(keys.expired), True, "certificate has expired"),
    }[case]


in_each_case = pytest.mark.parametrize("case", ["unknown authority", "another name", "expired"])


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


# -- asyncio: handshakes that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [read_all, drips])
def test_the_connect_timeout_covers_a_handshake_that_never_ends(run: Run, keys: Keys, handler: Handler) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(handler) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), connect_timeout=0.15, max_sockets=1) as agent,
        ):
            begun = time.monotonic()
            url = f"https://127.0.0.1:{server.port}/"
            both = await asyncio.gather(*(agent.request("GET", url) for _ in range(2)), return_exceptions=True)
            for error in both:
                assert isinstance(error, ConnectTimeoutError)
                assert error.timeout == 0.15
            assert 0.3 <= time.monotonic() - begun < 3
            await until(lambda: server.open_now == 0)
            status = agent.get_current_status()
            assert (status.create_socket_error_count, status.create_socket_count, status.sockets) == (2, 0, {})

    run(main())


@pytest.mark.parametrize("handler", [reads_and_closes, reads_and_resets, speaks_plain_http])
def test_ak_23_a_server_that_does_not_finish_the_handshake_is_a_tls_error(
    run: Run, keys: Keys, handler: Handler
) -> None:
    async def main() -> None:
        async with ScriptedServer(handler) as server, AsyncKeepAliveAgent(tls=keys.trusted(), max_sockets=1) as agent:
            url = f"https://127.0.0.1:{server.port}/"
            outcomes = await asyncio.gather(*(agent.request("GET", url) for _ in range(3)), return_exceptions=True)
            for error in outcomes:
                assert isinstance(error, TlsError)
                assert not isinstance(error, CertificateError)
                assert f"https://127.0.0.1:{server.port}" in str(error)
            status = agent.get_current_status()
            assert (status.create_socket_error_count, status.create_socket_count, status.close_socket_count) == (
                3,
                0,
                0,
            )
            assert (status.error_socket_count, status.sockets, status.requests) == (0, {}, {})

    run(main())


def test_a_plain_http_request_to_a_tls_port_fails_and_the_agent_lives_on(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            with pytest.raises(AgentError):
                await agent.request("GET", server.url.replace("https", "http"))
            assert server.requests == 0
            assert (await agent.request("GET", server.url)).status == 200

    run(main())


def test_ak_19_a_request_that_is_cancelled_in_the_handshake_closes_its_socket(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with ScriptedServer(read_all) as server, AsyncKeepAliveAgent(tls=keys.trusted()) as agent:
            task = asyncio.ensure_future(agent.request("GET", f"https://127.0.0.1:{server.port}/"))
            await until(lambda: server.open_now == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.open_now == 0)
            assert agent.get_current_status().sockets == {}

    run(main())


def test_ak_24_closing_the_agent_ends_a_handshake(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with ScriptedServer(read_all) as server, AsyncKeepAliveAgent(tls=keys.trusted()) as agent:
            task = asyncio.ensure_future(agent.request("GET", f"https://127.0.0.1:{server.port}/"))
            await until(lambda: server.open_now == 1)
            await agent.close()
            with pytest.raises(AgentClosedError):
                await task
            await until(lambda: server.open_now == 0)

    run(main())


# -- asyncio: bodies ---------------------------------------------------------------------------------------------------


@in_both_versions
def test_large_bodies_go_both_ways(run: Run, keys: Keys, version: ssl.TLSVersion) -> None:
    body = os.urandom(4_000_003)

    async def main() -> None:
        async with (
            ScriptedServer(echo_bodies, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            for size in (len(body), 16_384, 16_385, 65_537):
                assert (await agent.request("PUT", server.url, body=body[:size])).data == body[:size]
            assert server.sockets == 1

    run(main())


def test_large_bodies_go_both_ways_in_pieces(run: Run, keys: Keys) -> None:
    pieces = [os.urandom(size) for size in (1, 16_384, 100_000, 1_500_000)]
    whole = b"".join(pieces)

    async def main() -> None:
        async with (
            ScriptedServer(echo_bodies, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            headers = {"Content-Length": str(len(whole))}
            for _ in range(2):
                async with agent.stream("PUT", server.url, headers=headers, body=pieces) as response:
                    assert b"".join([piece async for piece in response.aiter_bytes()]) == whole
            assert server.sockets == 1

    run(main())


def test_a_server_is_held_while_nobody_reads(run: Run, keys: Keys) -> None:
    size, sent = 50_000_000, [0]

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent[0] < size:
            await peer.send(bytes(50_000))
            sent[0] += 50_000
        await peer.closed_by_client()

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted(), timeout=0.2) as agent,
            agent.stream("GET", server.url) as response,
        ):
            before = -1
            while sent[0] != before:
                before = sent[0]
                await asyncio.sleep(0.25)
            assert before < size / 2  # what the system's buffers hold, and ours
            assert sum([len(piece) async for piece in response.aiter_bytes()]) == size
            assert agent.get_current_status().free_sockets == {server.origin: 1}

    run(main())


@in_both_versions
@pytest.mark.parametrize("size", [2, 300_000])
def test_a_body_that_ends_with_a_goodbye_is_whole(run: Run, keys: Keys, version: ssl.TLSVersion, size: int) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(UNTIL_CLOSE + bytes(size))

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            assert (await agent.request("GET", server.url)).data == bytes(size)
            async with agent.stream("GET", server.url) as response:
                assert await response.aread() == bytes(size)
            assert server.sockets == 2

    run(main())


@in_both_versions
@pytest.mark.parametrize("size", [2, 300_000])
def test_a_body_that_ends_without_a_goodbye_may_have_been_cut_off(
    run: Run, keys: Keys, version: ssl.TLSVersion, size: int
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(UNTIL_CLOSE + bytes(size))
        await cut_off(peer)

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context(version=version)) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            with pytest.raises(IncompleteResponseError):
                await agent.request("GET", server.url)
            async with agent.stream("GET", server.url) as response:
                with pytest.raises(IncompleteResponseError):
                    await response.aread()

    run(main())


@pytest.mark.parametrize("ending", ["goodbye", "cut off"])
def test_ak_18_a_body_that_is_too_short_is_incomplete_however_it_ends(run: Run, keys: Keys, ending: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell")
        if ending == "cut off":
            await cut_off(peer)

    async def main() -> None:
        async with (
            ScriptedServer(handler, tls=keys.server_context()) as server,
            AsyncKeepAliveAgent(tls=keys.trusted()) as agent,
        ):
            with pytest.raises(IncompleteResponseError):
                await agent.request("GET", server.url)

    run(main())


@dataclass
class Rush:
    """Answers one request a socket, or as many as come, and notes how many were under way at once."""

    now: int = 0
    most: int = 0

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.005)
            self.now -= 1
            await peer.send(OK)


@in_both_versions
def test_ak_21_plain_agents_open_a_socket_a_request_and_never_too_many(
    run: Run, keys: Keys, version: ssl.TLSVersion
) -> None:
    rush = Rush()

    async def main() -> None:
        async with (
            ScriptedServer(rush, tls=keys.server_context(version=version)) as server,
            AsyncPlainAgent(tls=keys.trusted(), max_sockets=5) as agent,
        ):
            responses = await asyncio.gather(*(agent.request("GET", server.url) for _ in range(40)))
            assert [response.data for response in responses] == [b"ok"] * 40
            assert (server.sockets, agent.tls_handshake_count) == (40, 40)
            assert rush.most <= 5
            assert agent.tls_resumed_count > 20
            assert all(b"\r\nConnection: close\r\n" in peer.requests[0] for peer in server.peers)
            await until(lambda: server.open_now == 0)

    run(main())


def test_ak_22_a_plain_agent_hands_secured_sockets_on(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever, tls=keys.server_context()) as server,
            AsyncPlainAgent(tls=keys.trusted(), max_sockets=3, hand_off=True) as agent,
        ):
            await asyncio.gather(*(agent.request("GET", server.url) for _ in range(30)))
            assert server.sockets == agent.tls_handshake_count == 3
            await until(lambda: server.open_now == 0)

    run(main())


# -- threads -----------------------------------------------------------------------------------------------------------


def get(agent: KeepAliveAgent, url: str, **options: Any) -> AgentResponse:
    """GET without urllib3's own retries, so that what is tested here is not hidden by them."""
    response = agent.request("GET", url, **{"retries": False, **options})
    assert isinstance(response, AgentResponse)
    return response


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
                response = get(agent, server.url)
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
        reused = [get(agent, server.url).reused_socket]
        with insecure if what == "verification" else contextlib.nullcontext():
            for _ in range(2):
                pool = agent.connection_from_host("127.0.0.1", server.port, "https", pool_kwargs=by_what[what])
                response = pool.urlopen("GET", "/", retries=False)
                assert isinstance(response, AgentResponse)
                assert response.data == b"ok"
                reused.append(response.reused_socket)
        reused.append(get(agent, server.url).reused_socket)
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
        get(agent, server.url)
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
        get(agent, server.url)
        assert asked == ["service.test"]
        with pytest.raises(urllib3.exceptions.SSLError, match=r"nobody\.test") as caught:
            get(refusing, server.url)
        found_in(caught.value, CertificateError)


def test_threads_alpn_offers_http_1_1(keys: Keys) -> None:
    context = keys.server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with serving(echo_forever, tls=context) as server, KeepAliveAgent(ca_certs=keys.ca_file) as agent:
        get(agent, server.url)
        assert tls_of(server.peers[0]).selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_ak_44_threads_an_address_is_looked_for_in_the_certificate(keys: Keys, host: str) -> None:
    with (
        serving(echo_forever, host=host, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file) as agent,
    ):
        assert get(agent, server.url).status == 200
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
        assert get(agent, server.url).data == b"ok"


def test_ak_41_threads_a_fingerprint_is_held_to(keys: Keys) -> None:
    with serving(echo_forever, tls=keys.server_context()) as server:
        with KeepAliveAgent(ca_certs=keys.ca_file, assert_fingerprint="00" * 32) as agent:
            with pytest.raises(urllib3.exceptions.SSLError, match="Fingerprints did not match"):
                get(agent, server.url)
            assert server.requests == 0
            assert agent.get_current_status().create_socket_error_count == 1
        der = ssl.PEM_cert_to_DER_cert(keys.server.cert_chain_pems[0].bytes().decode())
        with KeepAliveAgent(ca_certs=keys.ca_file, assert_fingerprint=hashlib.sha256(der).hexdigest()) as agent:
            assert get(agent, server.url).status == 200


@pytest.mark.parametrize("source", ["ca_certs", "ca_cert_dir", "ca_cert_data"])
def test_threads_authorities_come_from_a_file_a_folder_or_text(keys: Keys, source: str, tmp_path: Path) -> None:
    value = {"ca_certs": keys.ca_file, "ca_cert_data": keys.ca_data}.get(source) or hashed_folder(keys, tmp_path)
    options: dict[str, Any] = {source: value}
    with serving(echo_forever, tls=keys.server_context()) as server, KeepAliveAgent(**options) as agent:
        assert get(agent, server.url).status == 200


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
        assert get(agent, server.url).status == 200
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
            get(agent, f"https://127.0.0.1:{server.port}/")
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
            get(agent, f"https://127.0.0.1:{server.port}/")
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
            assert get(agent, server.url).data == b"ok"
        assert handler.resumed == [False, True, True, True]
        assert (agent.tls_handshake_count, agent.tls_resumed_count) == (4, 3)


def test_ak_42_threads_a_session_is_resumed_in_a_context_of_the_caller_s(keys: Keys) -> None:
    handler = Noting()
    with (
        serving(handler, tls=keys.server_context()) as server,
        PlainAgent(ssl_context=keys.client_context()) as agent,
    ):
        for _ in range(3):
            get(agent, server.url)
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
            get(agent, server.url)
        by_one, by_other = of_one.resumed, of_other.resumed
        assert [by_one[0], by_other[0], *by_one[1:]] == resumed
        assert agent.tls_resumed_count == sum(resumed)


@in_both_versions
def test_ak_42_threads_a_failed_handshake_drops_the_session(keys: Keys, version: ssl.TLSVersion) -> None:
    resumed: list[bool | None] = []
    handler = failing_the_second_handshake(keys.server_context(version=version), resumed)
    with serving(handler) as server, PlainAgent(ca_certs=keys.ca_file) as agent:
        url = f"https://127.0.0.1:{server.port}/"
        get(agent, url)
        with pytest.raises(urllib3.exceptions.HTTPError):
            get(agent, url)
        get(agent, url)
        get(agent, url)
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
            get(agent, url)
            address = "127.0.0.2"  # where nobody listens
            with pytest.raises(urllib3.exceptions.NewConnectionError):
                get(agent, url)
            address = "127.0.0.1"
            get(agent, url)
        assert handler.resumed == [False, False]


def test_ak_43_threads_a_free_socket_is_closed_after_its_time(keys: Keys) -> None:
    with (
        serving(echo_forever, tls=keys.server_context()) as server,
        KeepAliveAgent(ca_certs=keys.ca_file, free_socket_timeout=0.05) as agent,
    ):
        get(agent, server.url)
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.timeout_socket_count, status.close_socket_count, status.error_socket_count) == (1, 1, 0)
        assert not get(agent, server.url).reused_socket


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
            get(agent, server.url)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError) as caught:
            get(agent, server.url)
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
        get(agent, server.url)
        wait_until(lambda: server.open_now == 0)
        time.sleep(0.05)  # what the server has sent last is on its way
        response = get(agent, server.url)
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
        get(agent, server.url)
        response = get(agent, server.url)
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
        get(agent, server.url)
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
        get(agent, url)
        wait_until(lambda: bool(is_asked))
        time.sleep(0.02)  # what was sent is on its way
        response = get(agent, url)
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
        get(agent, server.url)
        wait_until(lambda: bool(sent))
        time.sleep(0.02)
        response = get(agent, server.url)
        assert (response.status, response.reused_socket, response.retried) == (200, False, False)
        assert server.sockets == 2


@pytest.mark.parametrize("handler", [read_all, drips])
def test_threads_the_connect_timeout_covers_a_handshake_that_never_ends(keys: Keys, handler: Handler) -> None:
    with serving(handler) as server, KeepAliveAgent(ca_certs=keys.ca_file, connect_timeout=0.15) as agent:
        begun = time.monotonic()
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            get(agent, f"https://127.0.0.1:{server.port}/")
        assert 0.15 <= time.monotonic() - begun < 3
        assert found_in(caught.value, ConnectTimeoutError).timeout == 0.15
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.create_socket_error_count, status.create_socket_count, status.sockets) == (1, 0, {})


@pytest.mark.parametrize("handler", [reads_and_closes, reads_and_resets, speaks_plain_http])
def test_ak_23_threads_a_server_that_does_not_finish_the_handshake_is_a_tls_error(keys: Keys, handler: Handler) -> None:
    with serving(handler) as server, KeepAliveAgent(ca_certs=keys.ca_file) as agent:
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            get(agent, f"https://127.0.0.1:{server.port}/")
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
        assert get(agent, server.url, preload_content=preload_content).data == bytes(size)
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
            get(agent, server.url, preload_content=preload_content).read()
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
        outcomes = in_threads(10, lambda _: [get(agent, server.url).data for _ in range(3)])
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
        outcomes = in_threads(8, lambda _: [get(agent, server.url).data for _ in range(10)])
        assert outcomes == [[b"ok"] * 10] * 8
        assert server.sockets == agent.tls_handshake_count <= 3
