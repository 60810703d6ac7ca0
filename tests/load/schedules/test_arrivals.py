"""The open model on real sockets: requests that are due on a schedule, whatever the server makes of them."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from kabench.load import AgentProgress, RunControl, TargetUnreachableError, run
from kabench.load.plan.pacing import Stage
from tests.load.loads import fits_together, in_histogram, plan_of, run_here, run_once
from tests.sockets import OK, Peer, answering_after, serving

if TYPE_CHECKING:
    from kabench.server import EmbeddedServer


@pytest.mark.parametrize(("agent", "workers"), [("keepalive", 1), ("keepalive", 3), ("plain", 2), ("plain-handoff", 1)])
def test_a_rate_sends_what_is_due(echo_server: EmbeddedServer, agent: str, workers: int) -> None:
    measured = run_once(agent, url=echo_server.url, rate=200.0, duration_s=0.5, workers=workers)
    assert measured.transactions == echo_server.counts().requests == 100
    assert measured.not_started == 0
    assert in_histogram(measured, "lag") == 100
    assert measured.elapsed_s >= 0.49  # it does not hurry


def test_a_total_of_random_arrivals_is_exact_over_workers(echo_server: EmbeddedServer) -> None:
    measured = run_once(url=echo_server.url, rate=500.0, arrivals="poisson", total=100, workers=3)
    assert measured.transactions == echo_server.counts().requests == 100


def test_stages_of_a_rate_send_the_area_under_them(echo_server: EmbeddedServer) -> None:
    stages = (Stage(0.4, 200), Stage(0.2, 200), Stage(0.4, 0))
    measured = run_once(url=echo_server.url, rate=0.0, stages=stages, workers=2)
    assert measured.transactions == echo_server.counts().requests == 40 + 40 + 40


def test_a_warm_up_is_sent_and_left_out(echo_server: EmbeddedServer) -> None:
    measured = run_once(url=echo_server.url, rate=100.0, warmup_s=0.5, duration_s=0.5, workers=2)
    assert measured.transactions == in_histogram(measured, "lag") == 50
    assert echo_server.counts().requests == 100


def test_what_is_over_the_cap_is_not_started_and_counted() -> None:
    with serving(answering_after(0.2)) as server:
        measured = run_once(url=server.url, rate=100.0, duration_s=0.6, max_in_flight=3, workers=3)
        assert measured.transactions == server.requests
        assert measured.not_started > 0
        assert measured.transactions + measured.not_started == 60
        assert server.open_most <= 3
        assert in_histogram(measured, "lag") == measured.transactions  # of those that were sent


def test_requests_start_while_all_others_are_unanswered() -> None:
    """Nothing is answered before all that are due have come."""
    arrived = threading.Event()

    async def answers_when_all_are_there(peer: Peer) -> None:
        await peer.request()
        if server.requests == 40:
            arrived.set()
        await asyncio.to_thread(arrived.wait)
        await peer.send(OK)

    with serving(answers_when_all_are_there) as server:
        measured = run_once(url=server.url, rate=100.0, total=40, options={"max_sockets": None})
        assert measured.transactions == server.open_most == 40


def test_response_time_counts_from_when_a_request_was_due_and_service_time_from_when_it_was_sent() -> None:
    """One socket and answers that take 100 ms, due every 20 ms: the last has waited for all before it."""
    with serving(answering_after(0.1)) as server:
        measured = run_once(url=server.url, rate=50.0, total=8, options={"max_sockets": 1})
        assert server.sockets == 1
    assert measured.response_time_s.max is not None
    assert measured.response_time_s.max >= 8 * 0.1 - 7 * 0.02
    assert measured.service_time_s.min is not None
    assert measured.service_time_s.min >= 0.1
    assert measured.service_time_s.p50 is not None
    assert measured.service_time_s.p50 < measured.response_time_s.max / 2
    assert measured.lag_s.p50 is not None
    assert measured.lag_s.p50 < 0.1  # it was sent in time; it waited for its socket
    assert measured.phases.queue.max is not None
    assert measured.phases.queue.max >= 0.5


@pytest.mark.parametrize("spec", ["keepalive", "urllib3", "httpx"])
def test_what_is_sent_late_has_a_lag_and_its_response_time_has_it_too(spec: str) -> None:
    """Ten requests were due over half an hour ago: their users have waited for as long, and answers take no time."""
    if spec != "keepalive":
        pytest.importorskip(spec)
    with serving(answering_after(0)) as server:
        measured = run_here(spec, url=server.url, rate=100.0, total=10, late_s=2000.0)
    assert in_histogram(measured, "lag") == 10
    assert measured.lag_s.min is not None
    assert measured.lag_s.min >= 1999
    assert measured.response_time_s.min is not None
    assert measured.response_time_s.min >= 1999
    if spec == "keepalive":
        assert measured.service_time_s.max is not None
        assert measured.service_time_s.max < 100


def test_errors_do_not_stop_the_schedule() -> None:
    async def resets_every_other(peer: Peer) -> None:
        await peer.request()
        if peer.number % 2:
            peer.reset()
        else:
            await peer.send(OK)

    with serving(resets_every_other) as server:
        measured = run_once("plain", url=server.url, method="POST", rate=100.0, total=40)
        assert measured.transactions + measured.socket_errors == server.requests == 40
        assert measured.socket_errors == 20


@pytest.mark.parametrize("given", [{"duration_s": 60.0}, {"total": 3}])
def test_a_target_that_is_not_there_is_unreachable_at_a_rate_too(given: dict[str, float]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(TargetUnreachableError, match="Connection refused"):
            run(plan_of(url=f"http://127.0.0.1:{nobody.getsockname()[1]}/", rate=50.0, **given), ["keepalive"])


@pytest.mark.parametrize("given", [{"rate": 50.0, "total": 2}, {"total": 2}])
def test_a_target_that_is_not_there_is_unreachable_if_only_some_workers_had_anything_to_send(
    given: dict[str, float],
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(TargetUnreachableError, match="Connection refused"):
            run(plan_of(url=f"http://127.0.0.1:{nobody.getsockname()[1]}/", workers=3, **given), ["keepalive"])


def test_stopping_keeps_what_was_measured(echo_server: EmbeddedServer) -> None:
    control = RunControl()

    def stop_soon(progress: AgentProgress) -> None:
        if progress.transactions > 20:
            control.stop()

    plan = plan_of(url=echo_server.url, rate=200.0, duration_s=600.0, workers=2)
    (measured,) = run(plan, ["keepalive"], control=control, on_progress=stop_soon).runs
    assert measured.interrupted
    assert measured.transactions > 20
    assert measured.not_started == 0  # nobody knows what would have become of the rest
    fits_together(measured)
