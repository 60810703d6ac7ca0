"""Certificates and servers for the tests over https."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from kabench.agent import (
    TlsOptions,
)
from tests.sockets import (
    OK,
    Peer,
    echo_forever,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    import trustme

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]


T = TypeVar("T")
Error = TypeVar("Error", bound=BaseException)

PASSWORD = "open sesame"  # of a key made here
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
in_both_versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)


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


def rejected(keys: Keys, case: str) -> tuple[ssl.SSLContext, bool, str]:
    """A server's context, whether its authority is trusted, and the reason why its certificate is not accepted."""
    return {
        "unknown authority": (keys.server_context(), False, "unable to get local issuer certificate"),
        "another name": (keys.server_context(keys.other_name), True, "IP address mismatch"),
        "expired": (keys.server_context(keys.expired), True, "certificate has expired"),
    }[case]


in_each_case = pytest.mark.parametrize("case", ["unknown authority", "another name", "expired"])


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
