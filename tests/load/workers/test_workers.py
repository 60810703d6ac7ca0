"""Workers that die, and what the others make of it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from kabench.load import AgentProgress, MeasurementError, run
from kabench.load.workers.local import LocalWorkers
from tests.load.loads import fits_together, plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.load.figures.messages import Task
    from kabench.server import EmbeddedServer


class StartedWorkers:
    """Makes the workers of a run, and keeps them for the test."""

    def __init__(self) -> None:
        self.made: list[LocalWorkers] = []

    def make(self, tasks: Sequence[Task]) -> LocalWorkers:
        self.made.append(LocalWorkers(tasks))
        return self.made[-1]


@pytest.mark.parametrize("given", [{"requests": 10**6}, {"rate": 200.0, "duration_s": 600.0}], ids=["users", "rate"])
def test_a_worker_that_is_killed_is_named_and_the_others_figures_are_kept(
    echo_server: EmbeddedServer, given: dict[str, Any]
) -> None:
    started = StartedWorkers()
    killed: list[int] = []

    def kill_late(progress: AgentProgress) -> None:
        if progress.second is not None and progress.elapsed_s > 1.15 and not killed:
            killed.append(started.made[0].processes[1].pid)
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(MeasurementError, match=r"worker-2 died \(SIGKILL\) while keepalive was under way") as caught:
        run(plan_of(url=f"{echo_server.url}1", workers=3, **given), on_progress=kill_late, workers_for=started.make)
    (measured,) = caught.value.result.runs
    fits_together(measured)
    assert measured.interrupted
    first, second, third = measured.client.workers
    assert (first.lost_at_s, third.lost_at_s) == (None, None)
    assert second.lost_at_s is not None
    assert second.lost_at_s >= 0.9  # it had said its first second
    assert min(first.transactions, second.transactions, third.transactions) > 10
    assert all(process.poll() is not None for process in started.made[0].processes)


def test_a_worker_that_is_killed_before_the_load_begins_ends_it_too(echo_server: EmbeddedServer) -> None:
    def start(tasks: Sequence[Task]) -> LocalWorkers:
        workers = LocalWorkers(tasks)
        workers.processes[2].kill()
        return workers

    with pytest.raises(MeasurementError, match=r"worker-3 died \(SIGKILL\)") as caught:
        run(plan_of(url=echo_server.url, workers=3), ["keepalive"], workers_for=start)
    assert caught.value.result.runs[0].transactions == 0


def test_no_worker_outlives_its_run(echo_server: EmbeddedServer) -> None:
    started = StartedWorkers()
    run(plan_of(url=echo_server.url, total=30, workers=3), ["keepalive"], workers_for=started.make)
    assert [process.poll() for process in started.made[0].processes] == [0, 0, 0]
