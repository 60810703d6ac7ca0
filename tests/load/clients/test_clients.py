"""Peers as agents: the same load through somebody else's client, and through one that a user brings along."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import AgentOptions, TlsOptions
from kabench.agent.aio.request import prepare
from kabench.load import AGENT_SPECS, AgentSpecError, LoadPlan, PlanError, TargetUnreachableError, run
from kabench.load.clients.contract import ClientSettings, checked_answer, load_factory, socket_counts
from kabench.load.clients.errors import kind_of
from kabench.load.clients.specs import PEERS, check_spec
from kabench.load.figures.messages import Task
from kabench.load.figures.recorder import Recorder
from kabench.load.plan.share import Share
from kabench.load.plan.source import Request, RequestSource
from kabench.load.schedules.factory import schedule_for
from kabench.published import PUBLISHED_BODY
from kabench.server import EmbeddedServer, ServerOptions
from tests.load.loads import in_histogram, plan_of, run_once
from tests.responses import answer
from tests.sockets import PATIENCE_S, Peer, answering_after, echo_forever, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from kabench.load.clients.contract import Client
    from kabench.result import AgentRun

PEER_SPECS = ("urllib3-keepalive", "urllib3-plain", "urllib3", "requests", "httpx", "aiohttp")
POOLING = tuple(spec for spec in PEER_SPECS if spec != "urllib3-plain")


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> str:
    """The spec of a peer that is installed."""
    return installed(request.param)


@pytest.fixture(params=POOLING)
def pooling_peer(request: pytest.FixtureRequest) -> str:
    """The spec of an installed peer that keeps sockets."""
    return installed(request.param)


def installed(spec: str) -> str:
    pytest.importorskip(spec.partition("-")[0])
    return spec


# -- one request, in this process


def settings_of(*, tls: TlsOptions | None = None, timeout_s: float = PATIENCE_S) -> ClientSettings:
    return ClientSettings(
        max_sockets=2,
        max_free_sockets=2,
        free_socket_timeout_s=30,
        timeout_s=timeout_s,
        connect_timeout_s=PATIENCE_S,
        ssl_context=(tls or TlsOptions()).make_context(),
        agent_options=AgentOptions(max_sockets=2, timeout=timeout_s, connect_timeout=PATIENCE_S),
    )


@contextlib.asynccontextmanager
async def client_of(spec: str, settings: ClientSettings) -> AsyncIterator[Callable[[Request], Awaitable[Any]]]:
    """A way to send requests through a peer."""
    client: Client = PEERS[spec].make(settings)

    async def send(request: Request) -> Any:
        if inspect.iscoroutinefunction(client.send):
            return await client.send(request)
        return await asyncio.to_thread(client.send, request)

    try:
        yield send
    finally:
        closing = client.close()
        if closing is not None:
            await closing


def sent_through(spec: str, *requests: Request, **settings: Any) -> list[tuple[int, bytes] | BaseException]:
    """What becomes of requests, one after the other, through one client."""

    async def main() -> list[tuple[int, bytes] | BaseException]:
        outcomes: list[tuple[int, bytes] | BaseException] = []
        async with client_of(spec, settings_of(**settings)) as send:
            for request in requests:
                try:
                    outcomes.append(checked_answer(await send(request))[:2])
                except Exception as error:  # it is the outcome
                    outcomes.append(error)
        return outcomes

    return asyncio.run(main())


def get(url: str, *headers: tuple[str, str], body: bytes = b"", method: str = "GET") -> Request:
    return Request(method, url, headers, body)


def names_in(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_client_sends_what_it_is_given_and_returns_what_it_gets(peer: str) -> None:
    with serving(answering_after(0, answer(b"the answer", status=b"404 Not Found"))) as server:
        request = get(f"{server.url}a/b?c=d", ("X-Mine", "seen"), body=b"the body", method="PUT")
        assert sent_through(peer, request) == [(404, b"the answer")]
        (seen,) = server.peers[0].requests
        assert seen.startswith(b"PUT /a/b?c=d HTTP/1.1\r\n")
        assert seen.endswith(b"\r\n\r\nthe body")
        assert names_in(seen)["x-mine"] == "seen"
        assert names_in(seen)["content-length"] == "8"


def test_a_client_asks_for_bodies_as_they_are_unless_told_otherwise(peer: str) -> None:
    with serving(echo_forever) as server:
        own = (("X-First", "1"), ("Accept-Encoding", "gzip"), ("X-Last", "2"))
        sent_through(peer, get(server.url), get(server.url, *own))
        plain, told = (names_in(request) for each in server.peers for request in each.requests)
        assert plain["accept-encoding"] == "identity"
        assert (told["accept-encoding"], told["x-last"]) == ("gzip", "2")
        assert told.get("x-first") == "1"


def test_a_client_does_not_follow_redirects(peer: str) -> None:
    with serving(answering_after(0, answer(b"", b"Location: /elsewhere", status=b"302 Found"))) as server:
        assert sent_through(peer, get(server.url)) == [(302, b"")]
        assert server.requests == 1


def test_a_client_does_not_keep_cookies(peer: str) -> None:
    with serving(answering_after(0, answer(b"ok", b"Set-Cookie: a=b; Path=/"))) as server:
        url = server.url.replace("127.0.0.1", "localhost")  # some keep none of an address
        sent_through(peer, get(url), get(url))
        assert server.requests == 2
        assert not [request for each in server.peers for request in each.requests if "cookie" in names_in(request)]


def test_the_credentials_of_a_url_are_sent_as_kabench_s_agents_do(peer: str) -> None:
    with serving(echo_forever) as server:
        url = server.url.replace("://", "://me:s@cret%2B@")
        request, _ = next(iter(RequestSource(LoadPlan(url=url, method="GET", data=b""), "", Share())))
        assert sent_through(peer, request) == [(200, b"ok")]
        (seen,) = server.peers[0].requests
        own = prepare("GET", url, None, None, keep_alive=True).wire
        assert names_in(seen)["authorization"] == names_in(own)["authorization"] == "Basic bWU6c0BjcmV0Kw=="
        assert names_in(seen)["host"] == names_in(own)["host"] == f"127.0.0.1:{server.port}"


def test_a_client_keeps_its_socket(pooling_peer: str) -> None:
    with serving(echo_forever) as server:
        assert sent_through(pooling_peer, *[get(server.url)] * 5) == [(200, b"ok")] * 5
        assert server.sockets == 1


def test_the_plain_one_has_a_socket_for_each_request() -> None:
    with serving(echo_forever) as server:
        assert sent_through("urllib3-plain", *[get(server.url)] * 3) == [(200, b"ok")] * 3
        assert {names_in(request)["connection"] for each in server.peers for request in each.requests} == {"close"}
        assert server.sockets == 3


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_client_verifies_certificates_by_the_authority_it_is_given_and_no_other(peer: str) -> None:
    with EmbeddedServer(ServerOptions(delay_s=0, tls=True)) as server:
        request = get(f"{server.url}?size=3")
        assert sent_through(peer, request, tls=TlsOptions(ca_data=server.ca_data)) == [(200, b"xxx")]
        assert sent_through(peer, request, tls=TlsOptions(verify=False)) == [(200, b"xxx")]
        (refused,) = sent_through(peer, request)
        assert isinstance(refused, Exception)
        assert "certificate" in f"{refused} {refused.__cause__} {refused.__context__}".lower()


def test_a_client_gives_up_when_nothing_comes_and_says_so(peer: str) -> None:
    with serving(answering_after(3600)) as server:
        (failed,) = sent_through(peer, get(server.url), timeout_s=0.1)
        assert isinstance(failed, Exception)
        assert "timeout" in kind_of(failed)


def test_a_refused_connection_has_one_name_for_all(peer: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        (failed,) = sent_through(peer, get(f"http://127.0.0.1:{nobody.getsockname()[1]}/"))
    assert isinstance(failed, Exception)
    assert kind_of(failed) == "connect_failed"


SENT_AGAIN = {"urllib3": 3, "urllib3-plain": 3, "urllib3-keepalive": 3, "aiohttp": 1}
"""How often each library sends a request again by its own defaults, if its socket is reset."""


def test_a_request_that_failed_is_sent_again_as_often_as_its_library_does_by_itself(peer: str) -> None:
    async def resets(each: Peer) -> None:
        await each.request()
        each.reset()

    with serving(resets) as server:
        (failed,) = sent_through(peer, get(server.url))
        assert isinstance(failed, Exception)
        assert server.requests == 1 + SENT_AGAIN.get(peer, 0)


def test_what_a_library_sends_again_is_counted_where_it_can_be(peer: str) -> None:
    async def drops_the_first(each: Peer) -> None:
        await each.request()
        if server.requests == 1:
            each.reset()
        else:
            await each.send(answer(b"ok"))
            await echo_forever(each)

    with serving(drops_the_first) as server:
        measured = run_once(peer, url=server.url, method="GET", data=b"", total=2, concurrency=1)
    has_sent_again = SENT_AGAIN.get(peer, 0) > 0
    assert measured.retries == (None if peer == "aiohttp" else int(has_sent_again))
    assert measured.transactions == 1 + has_sent_again


# -- whole runs


def agrees_with(measured: AgentRun, server: EmbeddedServer, spec: str) -> None:
    counts = server.counts()
    assert measured.transactions == counts.requests == 120
    assert measured.data_transferred_bytes == counts.response_body_bytes
    assert measured.sockets.created == counts.sockets
    assert counts.sockets == 120 if spec == "urllib3-plain" else 1 <= counts.sockets <= 6
    assert counts.request_body_bytes == 120 * 128
    assert in_histogram(measured, "service") == 0  # nobody knows when it was sent


def test_users_send_through_a_peer(echo_server: EmbeddedServer, peer: str) -> None:
    measured = run_once(peer, url=echo_server.url, data=PUBLISHED_BODY, total=120, workers=2)
    agrees_with(measured, echo_server, peer)
    assert measured.errors == {}
    assert "lag" not in measured.hdr


def test_a_rate_is_sent_through_a_peer(echo_server: EmbeddedServer, peer: str) -> None:
    measured = run_once(peer, url=echo_server.url, data=PUBLISHED_BODY, rate=400.0, total=120)
    agrees_with(measured, echo_server, peer)
    assert in_histogram(measured, "lag") == 120


@pytest.mark.parametrize("spec", ["urllib3", "httpx"])
def test_over_the_cap_a_peer_is_given_nothing_more(spec: str) -> None:
    installed(spec)
    with serving(answering_after(0.2)) as server:
        measured = run_once(spec, url=server.url, rate=50.0, duration_s=0.6, max_in_flight=2)
        assert measured.transactions == server.requests
        assert measured.transactions + measured.not_started == 30
        assert measured.not_started > 0
        assert server.open_most <= 2


@pytest.mark.parametrize(
    ("spec", "given"),
    [("urllib3", {"total": 50}), ("urllib3", {"rate": 100.0, "total": 50}), ("httpx", {"total": 50})],
)
def test_a_warm_up_through_a_peer_is_left_out(spec: str, given: dict[str, Any]) -> None:
    installed(spec)
    with serving(answering_after(0.002)) as server:
        measured = run_once(spec, url=server.url, warmup_s=0.4, **given)
        assert measured.transactions == 50
        assert server.requests == 90 if "rate" in given else server.requests > 50


@pytest.mark.parametrize(
    ("spec", "given"), [("urllib3", {"requests": 10**6}), ("aiohttp", {"rate": 50.0, "duration_s": 60.0})]
)
def test_a_target_that_is_not_there_is_unreachable_through_a_peer(spec: str, given: dict[str, Any]) -> None:
    installed(spec)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        with pytest.raises(TargetUnreachableError, match=r"(?i)refused|connect"):
            run(plan_of(url=url, **given), [spec])


def test_figures_are_of_what_came_although_all_three_kinds_of_agents_differ(echo_server: EmbeddedServer) -> None:
    installed("httpx")
    agents = ["keepalive", "urllib3", "httpx"]
    result = run(plan_of(url=echo_server.url, total=30), agents)
    assert [measured.agent for measured in result.runs] == agents
    assert [measured.transactions for measured in result.runs] == [30, 30, 30]
    assert {"httpx", "urllib3"} <= set(result.environment.versions)


# -- a client of one's own

THREADED = """
import urllib.request
class Client:
    def __init__(self, settings):
        self.settings = settings
    def send(self, request):
        made = urllib.request.Request(request.url, request.body or None, dict(request.headers), method=request.method)
        with urllib.request.urlopen(made) as response:
            return response.status, response.read()
    def close(self):
        pass
"""

ASYNC = """
import asyncio
class Client:
    created = 0
    def __init__(self, settings):
        asyncio.get_running_loop()
    async def send(self, request):
        authority = request.url.split("/")[2]
        host, port = authority.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self.created += 1
        head = f"{request.method} / HTTP/1.1\\r\\nHost: {authority}\\r\\n"
        writer.write(f"{head}Content-Length: {len(request.body)}\\r\\n\\r\\n".encode() + request.body)
        status = int((await reader.readuntil(b"\\r\\n\\r\\n")).split()[1])
        writer.close()
        return status, b""
    async def close(self):
        pass
    def sockets_created(self):
        return self.created
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's modules, in which kabench is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return f"{name}:Client"


@pytest.mark.parametrize(
    ("name", "text", "given"),
    [
        ("threaded_one", THREADED, {"total": 30}),
        ("threaded_one", THREADED, {"rate": 200.0, "total": 30}),
        ("async_one", ASYNC, {"total": 30}),
    ],
)
def test_a_user_s_own_client_is_driven(
    echo_server: EmbeddedServer, folder: Path, given: dict[str, Any], name: str, text: str
) -> None:
    spec = write(folder, name, text)
    measured = run_once(spec, url=echo_server.url, workers=2, **given)
    assert measured.transactions == echo_server.counts().requests == 30
    assert measured.agent == spec
    assert measured.sockets.created == (30 if name == "async_one" else None)


def test_what_a_user_s_client_prints_does_no_harm(echo_server: EmbeddedServer, folder: Path) -> None:
    text = 'print("made")\n' + ASYNC.replace("self.created += 1", 'self.created += 1; print("sent", request.url)')
    measured = run_once(write(folder, "talkative", text), url=echo_server.url, total=30)
    assert measured.transactions == 30


def test_what_a_user_s_client_raises_is_counted_by_its_name(echo_server: EmbeddedServer, folder: Path) -> None:
    text = ASYNC.replace(
        "self.created += 1",
        "self.created += 1\n        if self.created % 3 == 0: raise TooManyCatsError\n"
        "        if self.created % 3 == 1: raise Kind",
    )
    errors = "class TooManyCatsError(Exception): pass\nclass Kind(Exception): kind = 'of_its_own'\n"
    measured = run_once(write(folder, "raising", errors + text), url=echo_server.url, total=30, concurrency=1)
    assert measured.errors == {"of_its_own": 10, "too_many_cats": 10}
    assert measured.transactions == 10


@pytest.mark.parametrize(
    ("text", "spec", "says"),
    [
        (None, "not_there_at_all:Client", "not_there_at_all cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "mine:Client", "mine cannot be imported: ZeroDivisionError: division by zero"),
        ("this is no Python", "mine:Client", "mine cannot be imported: SyntaxError"),
        ("x = 1", "mine:Client", "there is no Client in mine"),
        ("Client = 5", "mine:Client", "Client cannot be called"),
        ("def Client(settings): raise OSError('no luck')", "mine:Client", "no luck"),
        ("class Client:\n def __init__(self, settings): pass", "mine:Client", "has no send and close"),
        ("Client = str", "mine:Client", "has no send and close"),
    ],
)
def test_a_factory_that_makes_no_client_is_refused_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, spec: str, says: str
) -> None:
    if text is not None:
        (folder / "mine.py").write_text(text)
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    async def make() -> None:
        schedule_for(Task(plan_of(total=10), spec, "http://h/"), Share(), Recorder(), lambda _: None)

    with pytest.raises((ValueError, OSError), match=says):
        asyncio.run(make())


def test_a_factory_that_makes_no_client_ends_a_run_before_it_begins(folder: Path) -> None:
    (folder / "broken_one.py").write_text("def Client(settings): raise OSError('no luck')")
    with pytest.raises(PlanError, match="OSError: no luck"):
        run(plan_of(total=10, workers=2), ["broken_one:Client"])


def test_a_factory_may_stand_inside_of_something(folder: Path) -> None:
    (folder / "nested_one.py").write_text("class A:\n class B:\n  @staticmethod\n  def make(settings): return settings")
    assert load_factory("nested_one:A.B.make")("x") == "x"  # type: ignore[arg-type, comparison-overlap]


# -- specs


@pytest.mark.parametrize("spec", [*AGENT_SPECS, "package.module:factory", "m:a.b"])
def test_these_are_agents(spec: str) -> None:
    if spec in PEERS:
        installed(spec)
    check_spec(spec)


@pytest.mark.parametrize("spec", ["", "keep-alive", "a:", ":b", "a b:c", "os", "a:b:c", "a;import os:b", "1:2"])
def test_these_are_none(spec: str) -> None:
    with pytest.raises(AgentSpecError, match="there is no agent"):
        check_spec(spec)


@pytest.mark.parametrize(
    "given", [{"unix_socket": "/tmp/x"}, {"connect_to": "h:1"}, {"cookies": True}], ids=lambda given: next(iter(given))
)
def test_a_peer_that_cannot_do_what_is_asked_is_refused(peer: str, given: dict[str, Any]) -> None:
    with pytest.raises(AgentSpecError, match=r"does not support .*; keepalive, plain"):
        check_spec(peer, LoadPlan(url="http://h/", **given))


# -- names of errors, and counts


def test_an_error_is_named_after_its_class_or_its_kind() -> None:
    class HTTPProxyError(Exception):
        pass

    class ReadTimeoutException(Exception):
        pass

    class WithKind(Exception):
        kind = "my_kind"

    assert kind_of(HTTPProxyError()) == "http_proxy"
    assert kind_of(ReadTimeoutException()) == "read_timeout"
    assert kind_of(WithKind()) == "my_kind"
    assert kind_of(Exception()) == "error"
    assert kind_of(ValueError()) == "value"


def test_a_refusal_is_found_wherever_in_the_chain_it_is_and_circles_end() -> None:
    outer, inner = RuntimeError("x"), ConnectionRefusedError("y")
    outer.__cause__ = inner
    assert kind_of(outer) == "connect_failed"
    inner.__context__ = outer
    assert kind_of(outer) == "connect_failed"
    one, other = RuntimeError(), RuntimeError()
    one.__context__, other.__context__ = other, one
    assert kind_of(one) == "runtime"


def test_what_a_client_does_not_tell_of_its_sockets_is_not_known() -> None:
    class Silent:
        def send(self, request: Request) -> tuple[int, bytes]:
            return 200, b""

        def close(self) -> None:
            pass

    counts = socket_counts(Silent(), 12)
    assert (counts.created, counts.retries, counts.requests) == (None, None, 12)
