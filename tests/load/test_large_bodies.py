"""Bodies that are large, or have no end: they are counted, and cost no memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kabench import LoadPlan, run
from kabench.load import MeasurementError
from kabench.server import EmbeddedServer, ServerOptions
from tests.sockets import Peer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kabench.result import AgentRun

BODY_BYTES = 100_000_000
MB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(ServerOptions(delay_s=0)) as started:
        yield started


def measured(server: EmbeddedServer, **given: Any) -> AgentRun:
    (run_,) = run(LoadPlan(url=f"{server.url}?size={BODY_BYTES}", method="GET", data=b"", **given), ["keepalive"]).runs
    return run_


@pytest.mark.parametrize("given", [{"total": 2, "concurrency": 1}, {"rate": 2, "duration_s": 1}, {"templates": True}])
def test_a_large_body_is_counted_to_its_last_byte_and_not_kept(server: EmbeddedServer, given: dict[str, Any]) -> None:
    stop = {} if given.keys() & {"total", "rate"} else {"total": 2, "concurrency": 1}
    seen = measured(server, **given, **stop)
    assert seen.data_transferred_bytes == 2 * BODY_BYTES
    assert seen.transactions == 2
    assert seen.client.max_rss_mb < BODY_BYTES / MB


def test_a_body_that_somebody_looks_at_is_whole(server: EmbeddedServer) -> None:
    seen = measured(server, total=1, concurrency=1, expect_body=b"x" * 1_000_000)
    assert seen.errors == {}
    assert seen.data_transferred_bytes == BODY_BYTES


async def never_end(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await peer.send(b"100000\r\n" + bytes(MB) + b"\r\n")


def test_a_body_without_an_end_is_cut_off_when_time_is_over_and_costs_no_memory() -> None:
    with serving(never_end) as endless, pytest.raises(MeasurementError, match="not one successful") as caught:
        run(LoadPlan(url=endless.url, concurrency=2, duration_s=1, grace_s=0.2), ["keepalive"])
    (seen,) = caught.value.result.runs
    assert seen.errors == {"cut_off": 2}
    assert seen.client.max_rss_mb < 100
