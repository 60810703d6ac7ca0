"""Whole runs: real agents, real sockets, real processes; small numbers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from kabench import LoadPlan, run
from kabench.agent import AgentOptions
from kabench.load import AgentProgress, AgentSpecError, MeasurementError, RunControl, TargetUnreachableError
from kabench.load.workers.local import LocalWorkers
from kabench.published import PUBLISHED_BODY
from kabench.server import EmbeddedServer, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.result import AgentRun


def plan(**given: Any) -> LoadPlan:
    options = given.pop("options", {})
    fields = {"delay_s": 0.0, "concurrency": 12} | given
    return LoadPlan(agent_options=AgentOptions(**({"max_sockets": 5, "free_socket_timeout": 30} | options)), **fields)


def agrees_with_itself(run: AgentRun) -> None:
    """The numbers of a run fit one another."""
    assert run.transactions == sum(run.status_codes.values()) == sum(point.transactions for point in run.series)
    assert run.socket_errors == sum(run.errors.values())
    assert run.failed_transactions == run.transactions - run.successful_transactions + run.socket_errors
    assert sum(run.buckets.values()) == run.transactions
    assert run.transaction_rate == pytest.approx(run.transactions / run.elapsed_s, rel=1e-4)
    assert run.response_time_s.mean is not None
    assert run.concurrency == pytest.approx(run.response_time_s.mean * run.transactions / run.elapsed_s, rel=1e-3)
    assert run.response_time_s == run.phases.total
    sockets = run.sockets
    assert sockets.created == (sockets.closed or 0) + (sockets.free or 0) + (sockets.active or 0)
    assert sockets.req_per_socket == pytest.approx((sockets.requests or 0) / (sockets.created or 1))
    assert run.client.workers[0].transactions == run.transactions


@pytest.mark.parametrize(
    ("agent", "sockets"),
    [("keepalive", (5, 5)), ("plain", (600, 600)), ("plain-handoff", (5, 16))],
)
def test_the_numbers_agree_with_the_server_s_own(
    echo_server: EmbeddedServer, agent: str, sockets: tuple[int, int]
) -> None:
    result = run(plan(url=echo_server.url, data=PUBLISHED_BODY, requests=50), [agent])
    (measured,) = result.runs
    counts = echo_server.counts()
    agrees_with_itself(measured)
    assert measured.transactions == counts.requests == counts.responses == 600
    assert measured.sockets.created == counts.sockets
    assert sockets[0] <= counts.sockets <= sockets[1]
    assert measured.data_transferred_bytes == counts.response_body_bytes
    assert counts.request_body_bytes == 600 * 128
    assert measured.availability_pct == 100.0
    assert measured.sockets.requests == 600


def test_both_agents_run_in_turn_against_kabench_s_own_server() -> None:
    result = run(plan(requests=20, delay_s=0.002), name="both")
    assert [measured.agent for measured in result.runs] == ["keepalive", "plain"]
    keepalive, plain = result.runs
    assert (keepalive.sockets.created, keepalive.sockets.req_per_socket) == (5, 48.0)
    assert (plain.sockets.created, plain.sockets.req_per_socket) == (240, 1.0)
    for measured in result.runs:
        agrees_with_itself(measured)
        assert measured.response_time_s.min is not None
        assert measured.response_time_s.min >= 0.002
    assert keepalive.phases.queue.max is not None
    assert keepalive.phases.queue.max > 0.001  # 12 users share 5 sockets
    assert result.environment.event_loop == "uvloop"
    assert result.plan["url"] is None
    assert result.name == "both"


def test_a_total_is_sent_exactly(echo_server: EmbeddedServer) -> None:
    (measured,) = run(plan(url=echo_server.url, total=101), ["keepalive"]).runs
    assert measured.transactions == echo_server.counts().requests == 101


def test_a_duration_ends_the_load(echo_server: EmbeddedServer) -> None:
    (measured,) = run(plan(url=f"{echo_server.url}5", duration_s=1.3), ["keepalive"]).runs
    assert 1.25 <= measured.elapsed_s <= 3
    assert measured.transactions == echo_server.counts().requests
    assert len(measured.series) >= 2
    assert not measured.interrupted
    agrees_with_itself(measured)


def test_answers_that_are_errors_are_failed_transactions(echo_server: EmbeddedServer) -> None:
    with pytest.raises(MeasurementError, match="keepalive: not one successful transaction") as caught:
        run(plan(url=f"{echo_server.url}?status=503", total=20), ["keepalive"])
    (measured,) = caught.value.result.runs
    assert (measured.transactions, measured.failed_transactions, measured.availability_pct) == (20, 20, 100.0)
    assert measured.status_codes == {"503": 20}


def test_sockets_that_die_are_counted_by_kind() -> None:
    with EmbeddedServer(ServerOptions(delay_s=0.0)) as server:
        slow = f"{server.url}2000"
        with pytest.raises(MeasurementError) as caught:
            run(plan(url=slow, total=10, options={"timeout": 0.1}), ["keepalive"])
    (measured,) = caught.value.result.runs
    assert measured.errors == {"socket_timeout": 10}
    assert (measured.transactions, measured.failed_transactions, measured.availability_pct) == (0, 10, 0.0)
    assert measured.sockets.timeouts == 10


def test_a_target_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(TargetUnreachableError, match="Connection refused"):
            run(plan(url=f"http://127.0.0.1:{nobody.getsockname()[1]}/"))


def test_an_unknown_agent_is_refused_before_anything_starts() -> None:
    with pytest.raises(AgentSpecError, match="there is no agent 'nothing'"):
        run(plan(), ["keepalive", "nothing"])


def test_stopping_keeps_what_was_measured(echo_server: EmbeddedServer) -> None:
    control = RunControl()

    def stop_soon(progress: AgentProgress) -> None:
        if progress.transactions > 100:
            control.stop()

    result = run(plan(url=f"{echo_server.url}1", requests=10**6), control=control, on_progress=stop_soon)
    (measured,) = result.runs
    assert measured.interrupted
    assert measured.transactions > 100
    agrees_with_itself(measured)


def after_some_transactions(act: Callable[[], None]) -> Callable[[AgentProgress], None]:
    acted = threading.Event()

    def on_progress(progress: AgentProgress) -> None:
        if progress.transactions > 100 and not acted.is_set():
            acted.set()
            act()

    return on_progress


def test_a_server_that_dies_ends_the_run_with_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    servers: list[EmbeddedServer] = []

    def started(options: ServerOptions) -> EmbeddedServer:
        servers.append(EmbeddedServer(options))
        return servers[0]

    monkeypatch.setattr(
        sys.modules["kabench.load.runner"], "EmbeddedServer", started
    )  # the package has a function of that name
    kill = after_some_transactions(lambda: servers[0].process.kill())
    with pytest.raises(MeasurementError, match=r"the echo server died \(SIGKILL\) while keepalive") as caught:
        run(plan(delay_s=0.001, requests=10**6), on_progress=kill)
    (measured,) = caught.value.result.runs
    assert measured.transactions > 100
    assert measured.interrupted
    agrees_with_itself(measured)


def test_a_worker_that_dies_ends_the_run_with_what_it_had_said(echo_server: EmbeddedServer) -> None:
    started_workers: list[LocalWorkers] = []

    def started(tasks: Any) -> LocalWorkers:
        started_workers.append(LocalWorkers(tasks))
        return started_workers[0]

    def kill_late(progress: AgentProgress) -> None:
        if progress.elapsed_s > 1.15:
            os.kill(started_workers[0].processes[0].pid, signal.SIGKILL)

    with pytest.raises(MeasurementError, match=r"worker-1 died \(SIGKILL\) while keepalive") as caught:
        run(plan(url=f"{echo_server.url}1", requests=10**6), on_progress=kill_late, workers_for=started)
    (measured,) = caught.value.result.runs
    assert measured.transactions > 100
    assert measured.client.workers[0].lost_at_s is not None
    assert measured.client.workers[0].lost_at_s >= 1.0
    agrees_with_itself(measured)


def test_load_goes_on_when_a_server_comes_back() -> None:
    with EmbeddedServer(ServerOptions(delay_s=0.001)) as first:
        port = first.port
        second: list[EmbeddedServer] = []

        def restart() -> None:
            first.process.kill()
            first.process.wait()
            second.append(EmbeddedServer(ServerOptions(delay_s=0.001, port=port)))

        try:
            result = run(
                plan(url=first.url, duration_s=2.0),
                ["keepalive"],
                on_progress=after_some_transactions(lambda: threading.Thread(target=restart).start()),
            )
            (measured,) = result.runs
            assert measured.availability_pct < 100
            assert measured.transactions > second[0].counts().requests > 0
            agrees_with_itself(measured)
        finally:
            for server in second:
                server.stop()


def test_a_duration_ends_what_waits_and_what_hangs(
    echo_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MeasurementError) as caught:
        run(plan(url=f"{echo_server.url}60000", duration_s=0.3, grace_s=0.3), ["keepalive"])
    (measured,) = caught.value.result.runs
    assert measured.errors == {"cut_off": 12}  # those on a socket, and those who waited for one
    assert 0.3 <= measured.elapsed_s < 0.55  # what was waited for in vain adds nothing
    assert echo_server.counts().requests == 5


def test_a_large_body_reaches_the_worker_and_kabench_s_own_server() -> None:
    body = b"x" * 70_000_000  # more than a client of `kabench serve` may send
    (measured,) = run(plan(data=body, total=1), ["keepalive"]).runs
    assert measured.status_codes == {"200": 1}
    assert measured.data_transferred_bytes > len(body)  # it is echoed


@pytest.mark.parametrize("given", [{"total": 3}, {"requests": 1}])
def test_a_short_run_finds_a_target_unreachable_too(given: dict[str, int]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(TargetUnreachableError, match="Connection refused"):
            run(plan(url=f"http://127.0.0.1:{nobody.getsockname()[1]}/", **given))
