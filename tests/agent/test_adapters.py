"""The agents under other libraries: requests, httpx, a storage SDK that takes a PoolManager, locust."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import AgentClosedError, ConnectError, StaleSocketError, TlsOptions, reused_socket
from kabench.server import EmbeddedServer, ServerOptions
from tests.sockets import OK, Peer, ScriptedServer, answering_after, echo_forever, serving

requests = pytest.importorskip("requests")
httpx = pytest.importorskip("httpx")

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def closing_after_one(peer: Peer) -> None:
    """Answer once, and close when the next request comes."""
    await peer.answer()
    await peer.request()


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[Any]:
    from kabench.agent import KeepAliveAdapter

    with requests.Session() as session:
        session.trust_env = False
        adapter = KeepAliveAdapter(max_sockets=2, timeout=5)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        yield session


def test_requests_sends_through_the_agent(session: Any) -> None:
    with serving(echo_forever) as server:
        first = session.get(server.url)
        second = session.post(server.url, data=b"body")
        assert (first.text, second.text) == ("ok", "ok")
        assert (first.raw.reused_socket, second.raw.reused_socket) == (False, True)
        assert server.sockets == 1
        assert session.get(server.url, verify="/some/authorities.pem").raw.reused_socket  # which http has no use for
        status = session.get_adapter(server.url).agent.get_current_status()
        assert (status.create_socket_count, status.request_count) == (1, 3)
        assert status.free_sockets == {server.origin: 1}


def test_requests_streams_and_gives_the_socket_back(session: Any) -> None:
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        agent = session.get_adapter(server.url).agent
        with session.get(f"{server.url}?size=300000&chunked=1", stream=True) as response:
            assert sum(agent.get_current_status().sockets.values()) == 1
            assert sum(len(piece) for piece in response.iter_content(10_000)) == 300_000
        assert sum(agent.get_current_status().free_sockets.values()) == 1
        with session.get(f"{server.url}?size=30000000", stream=True) as response:
            next(response.iter_content(10))
        assert agent.get_current_status().free_sockets == {}


def test_the_agent_s_timeout_holds_where_a_user_of_requests_gives_none() -> None:
    from kabench.agent import KeepAliveAdapter

    with serving(answering_after(0.5)) as server, requests.Session() as session:
        session.trust_env = False
        session.mount("http://", KeepAliveAdapter(timeout=0.1))
        with pytest.raises(requests.exceptions.ReadTimeout):
            session.get(server.url)
        assert session.get(server.url, timeout=5).text == "ok"
        assert session.get(server.url, timeout=(5, None)).text == "ok"


def test_a_stale_post_through_requests_says_that_its_socket_was_reused(session: Any) -> None:
    with serving(closing_after_one) as server:
        session.post(server.url)
        with pytest.raises(requests.exceptions.ConnectionError) as caught:
            session.post(server.url)
        assert reused_socket(caught.value) is True
        assert session.get(server.url).text == "ok"


def test_requests_through_a_proxy_use_the_agent_s_proxy_pools(session: Any) -> None:
    with serving(echo_forever) as proxy:
        for reused in (False, True):
            response = session.get("http://origin.invalid/path", proxies={"http": proxy.origin})
            assert (response.text, response.raw.reused_socket) == ("ok", reused)
        assert proxy.peers[0].requests[0].startswith(b"GET http://origin.invalid/path HTTP/1.1\r\n")


def test_requests_verifies_and_resumes_over_https(tmp_path: Path) -> None:
    from kabench.agent import KeepAliveAdapter

    with EmbeddedServer(ServerOptions(delay_s=0, tls=True)) as server, requests.Session() as session:
        session.trust_env = False
        adapter = KeepAliveAdapter(keep_alive=False)
        session.mount("https://", adapter)
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url)
        authority = tmp_path / "ca.pem"
        authority.write_text(server.ca_data or "")
        for _ in range(3):
            assert session.get(server.url, verify=str(authority)).status_code == 200
        assert (adapter.agent.tls_handshake_count, adapter.agent.tls_resumed_count) == (3, 2)


def test_adapters_refuse_a_limit_that_they_could_not_hold() -> None:
    from kabench.agent import AsyncKeepAliveTransport, KeepAliveAdapter, KeepAliveTransport

    for adapter in (KeepAliveAdapter, KeepAliveTransport, AsyncKeepAliveTransport):
        with pytest.raises(ValueError, match="max_response_bytes"):
            adapter(max_response_bytes=1000)


def test_events_of_a_server_reach_an_httpx_client_one_by_one() -> None:
    from kabench.agent import KeepAliveTransport

    go_on = threading.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await asyncio.to_thread(go_on.wait, 10)
        await peer.send(b"data: 2\n\n")

    with (
        serving(handler) as server,
        httpx.Client(transport=KeepAliveTransport()) as client,
        client.stream("GET", server.url) as response,
    ):
        events = response.iter_bytes()
        assert next(events) == b"data: 1\n\n"  # before the second was sent
        go_on.set()
        assert next(events) == b"data: 2\n\n"


def test_an_adapter_can_be_pickled() -> None:
    from kabench.agent import KeepAliveAdapter

    adapter = pickle.loads(pickle.dumps(KeepAliveAdapter(max_sockets=3, free_socket_timeout="2s")))
    assert (adapter.agent.options.max_sockets, adapter.agent.options.free_socket_timeout) == (3, 2.0)


# -- httpx -------------------------------------------------------------------------------------------------------------


def test_httpx_sends_through_the_asyncio_agent(run: Run) -> None:
    from kabench.agent import AsyncKeepAliveTransport

    async def main() -> None:
        transport = AsyncKeepAliveTransport(max_sockets=2)
        async with ScriptedServer(echo_forever) as server, httpx.AsyncClient(transport=transport) as client:
            first = await client.get(server.url)
            second = await client.post(server.url, json={"a": 1})
            assert (first.text, second.text, second.http_version) == ("ok", "ok", "HTTP/1.1")
            assert [r.extensions["reused_socket"] for r in (first, second)] == [False, True]
            assert server.sockets == 1
            status = transport.agent.get_current_status()
            assert (status.create_socket_count, status.free_sockets) == (1, {server.origin: 1})
        with pytest.raises(RuntimeError):
            await transport.handle_async_request(httpx.Request("GET", "http://127.0.0.1/"))

    run(main())


def test_httpx_streams_both_ways_through_the_asyncio_agent(run: Run) -> None:
    from kabench.agent import AsyncKeepAliveTransport

    async def body() -> Any:
        for piece in (b"one", b"two"):
            yield piece

    async def main() -> None:
        transport = AsyncKeepAliveTransport()
        with EmbeddedServer(ServerOptions(delay_s=0)) as server:
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.put(server.url, content=body())).json()["data"] == "onetwo"
                async with client.stream("GET", f"{server.url}?size=200000&chunked=1") as response:
                    assert sum([len(piece) async for piece in response.aiter_bytes()]) == 200_000
                assert sum(transport.agent.get_current_status().free_sockets.values()) == 1
                async with client.stream("GET", f"{server.url}?size=30000000") as response:
                    pass
                assert transport.agent.get_current_status().free_sockets == {}

    run(main())


def test_httpx_errors_of_the_asyncio_agent_are_httpx_s_own(run: Run) -> None:
    from kabench.agent import AsyncKeepAliveTransport

    async def main() -> None:
        async with (
            ScriptedServer(closing_after_one) as closing,
            ScriptedServer(answering_after(0.5)) as slow,
            httpx.AsyncClient(transport=AsyncKeepAliveTransport(), timeout=0.1) as client,
        ):
            await client.post(closing.url)
            with pytest.raises(httpx.RemoteProtocolError) as stale:
                await client.post(closing.url)
            assert isinstance(stale.value.__cause__, StaleSocketError)
            assert reused_socket(stale.value) is True
            with pytest.raises(httpx.ReadTimeout):
                await client.get(slow.url)
            assert (await client.get(slow.url, timeout=None)).text == "ok"
            with pytest.raises(httpx.ConnectError) as refused:
                await client.get("http://127.0.0.1:1/")
            assert isinstance(refused.value.__cause__, ConnectError)

    run(main())


def test_httpx_over_https_takes_the_agent_s_tls_options() -> None:
    from kabench.agent import AsyncKeepAliveTransport

    with EmbeddedServer(ServerOptions(delay_s=0, tls=True)) as server:

        async def main() -> None:
            tls = TlsOptions(ca_data=server.ca_data)
            async with httpx.AsyncClient(transport=AsyncKeepAliveTransport(tls=tls)) as client:
                assert (await client.get(server.url)).status_code == 200

        asyncio.run(main())


def test_httpx_sends_through_the_threaded_agent() -> None:
    from kabench.agent import KeepAliveTransport

    transport = KeepAliveTransport(max_sockets=1)
    with EmbeddedServer(ServerOptions(delay_s=0)) as server, httpx.Client(transport=transport) as client:
        first = client.get(server.url)
        second = client.put(server.url, content=iter([b"one", b"two"]))
        assert second.json()["data"] == "onetwo"
        assert [r.extensions["reused_socket"] for r in (first, second)] == [False, True]
        with client.stream("GET", f"{server.url}?size=200000&chunked=1") as response:
            with pytest.raises(httpx.PoolTimeout):
                client.get(server.url, timeout=httpx.Timeout(5, pool=0.05))
            assert sum(len(piece) for piece in response.iter_bytes()) == 200_000
        assert sum(transport.agent.get_current_status().free_sockets.values()) == 1


def test_httpx_errors_of_the_threaded_agent_are_httpx_s_own() -> None:
    from kabench.agent import KeepAliveTransport

    transport = KeepAliveTransport()
    with (
        serving(closing_after_one) as closing,
        serving(answering_after(0.5)) as slow,
        httpx.Client(transport=transport, timeout=0.1) as client,
    ):
        client.post(closing.url)
        with pytest.raises(httpx.RemoteProtocolError) as stale:
            client.post(closing.url)
        assert reused_socket(stale.value) is True
        with pytest.raises(httpx.ReadTimeout):
            client.get(slow.url)
        with pytest.raises(httpx.ConnectError):
            client.get("http://127.0.0.1:1/")
    with pytest.raises(AgentClosedError):
        transport.handle_request(httpx.Request("GET", "http://127.0.0.1:1/"))


# -- what takes a PoolManager ------------------------------------------------------------------------------------------


def test_a_storage_sdk_takes_the_agent_as_its_http_client() -> None:
    minio = pytest.importorskip("minio")
    from kabench.agent import KeepAliveAgent

    agent = KeepAliveAgent(max_sockets=2)
    head = OK.replace(b"ok", b"")
    with serving(answering_after(0, head)) as server:
        client = minio.Minio(
            f"127.0.0.1:{server.port}",
            access_key="key",
            secret_key="secret",
            secure=False,
            region="eu-central-1",
            http_client=agent,
        )
        assert all(client.bucket_exists(bucket_name="bucket") for _ in range(3))
        assert (server.sockets, agent.get_current_status().request_count) == (1, 3)
        agent.close()


LOCUST = """
import sys
from locust import HttpUser, constant, task
from locust.env import Environment
import gevent, json
from kabench.agent import KeepAliveAgent

class Visitor(HttpUser):
    pool_manager = KeepAliveAgent(max_sockets=3)
    host = sys.argv[1]
    wait_time = constant(0)

    @task
    def visit(self):
        self.client.get("/")

environment = Environment(user_classes=[Visitor])
environment.create_local_runner().start(6, spawn_rate=100)
gevent.sleep(1)
environment.runner.quit()
status = Visitor.pool_manager.get_current_status()
print(json.dumps([environment.stats.total.num_failures, status.create_socket_count, status.request_count]))
"""


def test_locust_s_users_share_the_agent() -> None:
    if importlib.util.find_spec("locust") is None:  # importing it here would patch this process
        pytest.skip("locust is not installed")
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOCUST, server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    failures, created, finished = json.loads(done.stdout.splitlines()[-1])
    assert (failures, created) == (0, 3)
    assert finished > 50


@pytest.mark.parametrize(
    ("name", "package"),
    [("KeepAliveAdapter", "requests"), ("KeepAliveTransport", "httpx"), ("AsyncKeepAliveTransport", "httpx")],
)
def test_an_adapter_without_its_library_says_what_is_missing(name: str, package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import kabench.agent; kabench.agent.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        f"ImportError: kabench.agent.{name} needs {package}, which is not installed"
    )
