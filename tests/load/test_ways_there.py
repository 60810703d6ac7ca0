"""Targets of all kinds: IPv6, Unix sockets, other addresses than the URL's, https, several URLs, answers that fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from kabench.load import TargetUnreachableError, run
from kabench.load.plan.targets import LoadTarget
from tests.certificates import Keys
from tests.load.clients.test_clients import get, sent_through
from tests.load.loads import plan_of, run_here, run_once
from tests.responses import answer, path_of
from tests.sockets import PATIENCE_S, Peer, ScriptedServer, echo_forever, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """An authority, what it has signed, and files of it."""
    folder = tmp_path_factory.mktemp("keys")
    ca = trustme.CA()
    client, other = ca.issue_cert("client@kabench.test"), ca.issue_cert("other@kabench.test")
    files = {
        "ca": ca.cert_pem.bytes(),
        "client": client.private_key_and_cert_chain_pem.bytes(),
        "client_certificate": client.cert_chain_pems[0].bytes(),
        "client_key": client.private_key_pem.bytes(),
        "locked_key": b"",
        "other_key": other.private_key_pem.bytes(),
        "garbage": b"",
    }
    for name, content in files.items():
        (folder / f"{name}.pem").write_bytes(content)
    return Keys(
        folder=folder,
        ca=ca,
        server=ca.issue_cert("127.0.0.1"),
        other_name=ca.issue_cert("another.test"),
        expired=ca.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)),
        **{f"{name}_file": str(folder / f"{name}.pem") for name in files},
    )


@contextlib.contextmanager
def serving_unix(path: Path) -> Iterator[ScriptedServer]:
    """An echo server on a Unix socket, in a thread of its own."""
    server = ScriptedServer(echo_forever)
    ready, done = threading.Event(), threading.Event()

    async def main() -> None:
        listening = await asyncio.start_unix_server(server._serve, str(path))
        async with listening:
            ready.set()
            await asyncio.to_thread(done.wait)
        for task in list(server._tasks):
            task.cancel()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(PATIENCE_S)
    try:
        yield server
    finally:
        done.set()
        thread.join()


def lines_of(server: ScriptedServer, name: bytes) -> set[bytes]:
    """What the server's requests have in a header."""
    return {
        line.partition(b":")[2].strip()
        for peer in server.peers
        for request in peer.requests
        for line in request.split(b"\r\n")
        if line.lower().startswith(name + b":")
    }


# -- where to


@pytest.mark.parametrize("given", [{"total": 20}, {"rate": 200.0, "total": 20}])
def test_ipv6(given: dict[str, Any]) -> None:
    with serving(echo_forever, host="::1") as server:
        assert run_here(url=server.url, **given).transactions == server.requests == 20
        assert lines_of(server, b"host") == {b"[::1]:%d" % server.port}


def test_a_unix_socket(tmp_path: Path) -> None:
    with serving_unix(tmp_path / "s") as server:
        measured = run_once(url="http://service.test/x?y=z", total=20, unix_socket=str(tmp_path / "s"), workers=2)
        assert measured.transactions == server.requests == 20
        assert lines_of(server, b"host") == {b"service.test"}
        assert {path_of(request) for peer in server.peers for request in peer.requests} == {"/x?y=z"}


def test_a_unix_socket_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(TargetUnreachableError):
        run(plan_of(url="http://service.test/", total=20, unix_socket=str(tmp_path / "none")), ["keepalive"])


def test_sockets_lead_where_they_are_told_and_requests_name_whom_they_are_for() -> None:
    with serving(echo_forever) as server:
        measured = run_here(url="http://service.test:81/", total=20, connect_to=f"127.0.0.1:{server.port}")
        assert measured.transactions == server.requests == 20
        assert lines_of(server, b"host") == {b"service.test:81"}


# -- https


def test_https_with_an_own_authority(keys: Keys) -> None:
    with serving(echo_forever, tls=keys.server_context()) as server:
        measured = run_once(url=server.url, total=20, cacert=keys.ca_file, workers=2)
        assert measured.transactions == server.requests == 20
        assert measured.sockets.tls_handshakes == measured.sockets.created == server.sockets


def test_https_with_an_unknown_authority_is_unreachable_unless_it_is_to_be_accepted(keys: Keys) -> None:
    with serving(echo_forever, tls=keys.server_context()) as server:
        with pytest.raises(TargetUnreachableError, match="certificate was not accepted"):
            run(plan_of(url=server.url, total=20), ["keepalive"])
        assert server.requests == 0
        assert run_once(url=server.url, total=20, insecure=True).transactions == 20


@pytest.mark.parametrize("has_key_file", [True, False])
def test_a_client_s_own_certificate(keys: Keys, has_key_file: bool) -> None:
    own: dict[str, Any] = {"cert": keys.client_certificate_file, "key": keys.client_key_file}
    with serving(echo_forever, tls=keys.server_context(wants_client=True)) as server:
        given = own if has_key_file else {"cert": keys.client_file}
        assert run_here(url=server.url, total=20, cacert=keys.ca_file, **given).transactions == 20


@pytest.mark.parametrize("spec", ["urllib3", "requests", "httpx", "aiohttp"])
def test_a_client_s_own_certificate_goes_through_a_peer(keys: Keys, spec: str) -> None:
    pytest.importorskip(spec)
    with serving(echo_forever, tls=keys.server_context(wants_client=True)) as server:
        tls = plan_of(url=server.url, cacert=keys.ca_file, cert=keys.client_file).tls_options()
        assert sent_through(spec, get(server.url), tls=tls) == [(200, b"ok")]


# -- several


def paths_seen(server: ScriptedServer) -> Counter[str]:
    return Counter(path_of(request) for peer in server.peers for request in peer.requests)


@pytest.mark.parametrize("agent", ["keepalive", "urllib3"])
@pytest.mark.parametrize("workers", [1, 2])
def test_several_urls_in_turn_over_all_workers(agent: str, workers: int) -> None:
    with serving(echo_forever) as server:
        targets = tuple(LoadTarget(url=f"{server.url}{name}") for name in "abc")
        assert run_once(agent, targets=targets, total=60, workers=workers).transactions == 60
        assert paths_seen(server) == {"/a": 20, "/b": 20, "/c": 20}


def test_urls_of_several_origins() -> None:
    with serving(echo_forever) as one, serving(echo_forever) as other:
        targets = (LoadTarget(url=one.url), LoadTarget(url=other.url))
        assert run_once(targets=targets, total=40, workers=2).transactions == 40
        assert (one.requests, other.requests) == (20, 20)


def test_targets_have_methods_headers_and_bodies_of_their_own() -> None:
    with serving(echo_forever) as server:
        targets = (
            LoadTarget(url=f"{server.url}a"),
            LoadTarget(url=f"{server.url}b", method="DELETE", headers=(("X-Own", "1"),), body=b"gone"),
        )
        run_here(targets=targets, total=4, method="PUT", data=b"all", headers=(("X-All", "1"),))
        requests = [request for peer in server.peers for request in peer.requests]
        puts = [request for request in requests if request.startswith(b"PUT /a")]
        deletes = [request for request in requests if request.startswith(b"DELETE /b")]
        assert (len(puts), len(deletes)) == (2, 2)
        assert all(request.endswith(b"\r\n\r\nall") and b"X-Own" not in request for request in puts)
        assert all(request.endswith(b"\r\n\r\ngone") and b"X-Own: 1" in request for request in deletes)
        assert all(b"X-All: 1" in request for request in requests)


@pytest.mark.parametrize(("agent", "given"), [("keepalive", {}), ("keepalive", {"rate": 400.0}), ("urllib3", {})])
def test_templates_are_filled_in_anew_for_each_request_of_all_workers(agent: str, given: dict[str, Any]) -> None:
    with serving(echo_forever) as server:
        url, data = server.url + "{{counter}}?r={{random:5-6}}", b'{"n": {{counter}}, "id": "{{uuid}}"}'
        run_once(agent, url=url, data=data, templates=True, total=60, workers=3, **given)
        requests = [request for peer in server.peers for request in peer.requests]
        numbers = sorted(int(path_of(request)[1:].split("?")[0]) for request in requests)
        bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in requests]
        assert numbers == sorted(body["n"] for body in bodies) == list(range(60))
        assert len({body["id"] for body in bodies}) == 60
        assert {path_of(request).split("=")[1] for request in requests} == {"5", "6"}


def test_each_line_of_a_file_is_a_body_in_turn() -> None:
    with serving(echo_forever) as server:
        run_once(url=server.url, data_lines=(b"one", b"two", b"three"), total=30, workers=2)
        bodies = Counter(request.partition(b"\r\n\r\n")[2] for peer in server.peers for request in peer.requests)
        assert bodies == {b"one": 10, b"two": 10, b"three": 10}


def test_each_line_goes_to_each_target() -> None:
    with serving(echo_forever) as server:
        targets = (LoadTarget(url=f"{server.url}a"), LoadTarget(url=f"{server.url}b"))
        run_here(targets=targets, data_lines=(b"one", b"two"), total=40)
        seen = {
            (path_of(request), request.partition(b"\r\n\r\n")[2]) for peer in server.peers for request in peer.requests
        }
        assert seen == {("/a", b"one"), ("/a", b"two"), ("/b", b"one"), ("/b", b"two")}


# -- what is a failure


async def _answers_by_turns(peer: Peer) -> None:
    responses = (answer(b"all is well"), answer(b"sorry"), answer(b"all is well", status=b"404 Not Found"))
    while True:
        for response in responses:
            await peer.answer(response)


@pytest.mark.parametrize(
    ("given", "successful", "errors"),
    [
        ({}, 20, {}),
        ({"expect_status": (200, 404)}, 30, {}),
        ({"expect_status": (404,)}, 10, {"unexpected_status": 20}),
        ({"expect_body": b"well"}, 10, {"unexpected_body": 10}),
        ({"expect_status": (200, 404), "expect_body": b"well"}, 20, {"unexpected_body": 10}),
        ({"expect_status": (404,), "expect_body": b"sorry"}, 0, {"unexpected_body": 10, "unexpected_status": 20}),
    ],
)
def test_what_is_not_expected_is_a_failure_and_no_socket_error(
    given: dict[str, Any], successful: int, errors: dict[str, int]
) -> None:
    # either model and either kind of agent, by turns
    agent, model = ("keepalive", {}) if len(given) != 1 else ("urllib3", {"rate": 400.0})
    with serving(_answers_by_turns) as server:
        measured = run_here(agent, url=server.url, total=30, options={"max_sockets": 1}, **model, **given)
    assert measured.transactions == 30
    assert measured.errors == errors
    assert measured.successful_transactions == successful
    assert measured.failed_transactions == 30 - successful
    assert measured.socket_errors == 0
    assert measured.availability_pct == 100.0
    assert measured.status_codes == {"200": 20, "404": 10}


def test_of_the_warm_up_nothing_is_looked_at_as_a_failure() -> None:
    async def better_later(peer: Peer) -> None:
        began_at = time.monotonic()
        while True:
            await peer.request()
            await asyncio.sleep(0.001)
            await peer.send(answer(b"sorry" if time.monotonic() - began_at < 0.1 else b"all is well"))

    with serving(better_later) as server:
        measured = run_once(url=server.url, warmup_s=0.6, total=20, expect_body=b"well")
        assert measured.errors == {}
        assert measured.successful_transactions == 20
        assert server.requests > 20
