"""Ends of runs: what is counted when time is over, over which time, and that every run ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from kabench.load import AgentProgress, MeasurementError, RunControl, Stage, run
from kabench.load.workers import workers as workers_module
from kabench.load.workers.local import LocalWorkers
from tests.load.loads import plan_of, run_once
from tests.responses import answer
from tests.sockets import Peer, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.load.figures.messages import Task
    from kabench.server import EmbeddedServer


@pytest.mark.parametrize(("rate", "duration_s", "due"), [(2.0, 1.3, 3), (0.5, 1.1, 1), (10.0, 1.0, 10)])
def test_a_low_rate_is_over_when_its_time_is(
    echo_server: EmbeddedServer, rate: float, duration_s: float, due: int
) -> None:
    measured = run_once(url=echo_server.url, rate=rate, duration_s=duration_s)
    assert measured.transactions == due
    assert duration_s <= measured.elapsed_s < duration_s + 1.0
    assert measured.transaction_rate == pytest.approx(due / measured.elapsed_s, rel=1e-4)


async def hangs_at_times(peer: Peer) -> None:
    """The first socket never answers."""
    while True:
        await peer.request()
        if peer.number == 0:
            await peer.reader.read()
            return
        await peer.send(answer(b"ok"))


def test_a_request_that_hangs_does_not_change_the_rate_of_the_others() -> None:
    with serving(hangs_at_times) as server:
        measured = run_once(url=server.url, rate=50.0, duration_s=0.6, grace_s=0.3, options={"max_sockets": 100})
    assert measured.errors == {"cut_off": 1}
    assert measured.transactions == 29
    assert 0.6 <= measured.elapsed_s < 0.8


async def answers_after_a_while(peer: Peer) -> None:
    while True:
        await peer.request()
        await asyncio.sleep(0.4)
        await peer.send(answer(b"ok"))


def test_users_who_wait_for_a_socket_when_time_is_over_get_their_answer() -> None:
    with serving(answers_after_a_while) as server:
        measured = run_once(url=server.url, concurrency=4, duration_s=0.3, options={"max_sockets": 1})
        assert measured.transactions == server.requests == 4
    assert measured.response_time_s.max is not None
    assert measured.response_time_s.max >= 1.6


def test_a_target_that_has_taken_a_socket_is_there_however_slow_it_is() -> None:
    with serving(answers_after_a_while) as server:
        measured = run_once(url=server.url, concurrency=1, total=1)
    assert measured.transactions == 1


@pytest.mark.parametrize("agent", ["keepalive", "urllib3", "httpx"])
def test_users_who_have_not_begun_when_a_run_is_stopped_are_in_nobody_s_way(
    echo_server: EmbeddedServer, agent: str
) -> None:
    if agent != "keepalive":
        pytest.importorskip(agent)
    control = RunControl()

    def stop_soon(progress: AgentProgress) -> None:
        if progress.transactions > 3:
            control.stop()

    plan = plan_of(url=f"{echo_server.url}1", concurrency=1, stages=(Stage(60.0, 6),))
    (measured,) = run(plan, [agent], control=control, on_progress=stop_soon).runs
    assert measured.interrupted
    assert measured.transactions > 3


def test_a_worker_that_does_not_answer_is_ended_and_the_others_figures_are_kept(
    echo_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_workers: list[LocalWorkers] = []

    def started(tasks: Sequence[Task]) -> LocalWorkers:
        started_workers.append(LocalWorkers(tasks))
        return started_workers[0]

    monkeypatch.setattr(workers_module, "_PATIENCE_S", 1.0)

    def stop_one(progress: AgentProgress) -> None:
        if progress.transactions > 50:
            os.kill(started_workers[0].processes[1].pid, signal.SIGSTOP)

    plan = plan_of(url=f"{echo_server.url}1", requests=10**6, workers=2)
    with pytest.raises(MeasurementError, match=r"worker-2 died \(it did not answer for") as caught:
        run(plan, ["keepalive"], on_progress=stop_one, workers_for=started)
    (measured,) = caught.value.result.runs
    assert measured.transactions > 0


def test_ctrl_c_ends_a_client_that_blocks(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "blocks.py").write_text(
        "import time\nclass Client:\n    def __init__(self, settings): pass\n    def close(self): pass\n"
        "    async def send(self, request): time.sleep(600)\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(workers_module, "_PATIENCE_AFTER_STOP_S", 0.5)
    control = RunControl()
    go = LocalWorkers.go

    def go_and_stop(workers: LocalWorkers) -> None:
        go(workers)
        threading.Timer(0.5, control.stop).start()

    monkeypatch.setattr(LocalWorkers, "go", go_and_stop)
    with pytest.raises(MeasurementError, match="worker-1 died"):
        run(plan_of(url="http://127.0.0.1:1/", duration_s=60.0), ["blocks:Client"], control=control)
