"""The threaded agents behind proxies: `KeepAliveProxyAgent`, a `ProxyManager` with the same pools."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from urllib3.exceptions import (
    ProxyError,
)

from kabench.agent import (
    KeepAliveProxyAgent,
)
from tests.agent.threads import ONCE, get
from tests.responses import answer, path_of
from tests.sockets import (
    Peer,
    ScriptedServer,
    echo_forever,
    serving,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def forwarding(peer: Peer) -> None:
    """A proxy that answers for every server itself."""
    while True:
        target = path_of(await peer.request())
        await peer.send(answer(target.encode()))


def test_one_socket_to_a_proxy_carries_requests_to_all_servers() -> None:
    with serving(forwarding) as proxy, KeepAliveProxyAgent(proxy.url, proxy_headers={"X-Proxy": "1"}) as agent:
        for number, host in enumerate(["one.test", "two.test", "one.test"]):
            response = get(agent, f"http://{host}/a")
            assert response.data == f"http://{host}/a".encode()
            assert response.reused_socket is (number > 0)
        assert proxy.sockets == 1
        assert all(b"\r\nX-Proxy: 1\r\n" in request for request in proxy.peers[0].requests)
        assert b"\r\nHost: two.test\r\n" in proxy.peers[0].requests[1]
        status = agent.get_current_status()
        assert (status.free_sockets, status.create_socket_count) == ({proxy.origin: 1}, 1)
    wait_until(lambda: proxy.open_now == 0)


def test_a_stale_socket_to_a_proxy_is_replaced_like_any_other() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 0:
            await peer.request()
            peer.reset()
        await echo_forever(peer)

    with serving(handler) as proxy, KeepAliveProxyAgent(proxy.url, max_sockets=1) as agent:
        get(agent, "http://one.test/", retries=ONCE)
        response = get(agent, "http://two.test/", retries=ONCE)
        assert (response.status, response.retried) == (200, True)
        assert agent.get_current_status().retry_count == 1


def test_a_proxy_that_is_not_there_is_urllib3_s_proxy_error() -> None:
    with serving(echo_forever) as proxy:
        url = proxy.url
    with KeepAliveProxyAgent(url) as agent:
        with pytest.raises(ProxyError):
            get(agent, "http://one.test/", retries=False)
        status = agent.get_current_status()
        assert (status.create_socket_error_count, status.sockets) == (1, {})


def tunnelling_to(target: ScriptedServer, heard: list[str]) -> Callable[[Peer], Awaitable[None]]:
    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def handler(peer: Peer) -> None:
        heard.append((await peer.request()).split(b"\r\n")[0].decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        try:
            await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer), return_exceptions=True)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    return handler


def test_https_goes_through_a_tunnel_that_is_kept() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    heard: list[str] = []

    async def losing_the_race_once(peer: Peer) -> None:
        await peer.answer()
        await peer.answer()
        if peer.number == 0:
            await peer.request()
            return
        await echo_forever(peer)

    with (
        serving(losing_the_race_once, tls=context) as target,
        serving(tunnelling_to(target, heard)) as proxy,
        KeepAliveProxyAgent(proxy.url, ca_cert_data=authority.cert_pem.bytes().decode()) as agent,
    ):
        responses = [get(agent, target.url, retries=ONCE) for _ in range(4)]
        assert [response.data for response in responses] == [b"ok"] * 4
        assert [response.reused_socket for response in responses] == [False, True, False, True]
        assert [response.retried for response in responses] == [False, False, True, False]
        assert [line.split()[:2] for line in heard] == [["CONNECT", f"127.0.0.1:{target.port}"]] * 2
        status = agent.get_current_status()
        assert status.free_sockets == {target.origin: 1}
        assert (status.create_socket_count, status.retry_count) == (2, 1)
