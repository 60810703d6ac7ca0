"""Small loads for the tests on real sockets, and what must hold of any run."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from kabench.agent import AgentOptions
from kabench.histogram import decoded_cells
from kabench.load import LoadPlan, run
from kabench.load.clients.specs import is_own
from kabench.load.figures.messages import NO_SOCKETS, Second, SocketCounts, Task
from kabench.load.figures.recorder import recorder_for
from kabench.load.figures.tally import Tally
from kabench.load.plan.share import Share
from kabench.load.schedules.factory import schedule_for
from kabench.result import WorkerRecord
from tests.sockets import PATIENCE_S

if TYPE_CHECKING:
    from kabench.result import AgentRun


def plan_of(**given: Any) -> LoadPlan:
    """A plan with few users and sockets; `options` are the agent's."""
    options = {"max_sockets": 6, "free_socket_timeout": 30} | given.pop("options", {})
    users = {} if "rate" in given else {"concurrency": 6}
    fields: dict[str, Any] = {"delay_s": 0.0, **users, **given}
    return LoadPlan(agent_options=AgentOptions(**options), **fields)


def run_once(agent: str = "keepalive", **given: Any) -> AgentRun:
    """One agent's part of a run, which must fit together."""
    (measured,) = run(plan_of(**given), [agent]).runs
    fits_together(measured)
    return measured


def run_here(agent: str = "keepalive", *, late_s: float = 0.0, **given: Any) -> AgentRun:
    """As `run_once`, but by a load in this process, which saves the start of another; it ends by itself.

    It begins `late_s` after its first request was due.
    """
    plan = plan_of(**given)
    assert plan.ends_after_s is None
    assert not plan.warmup_s
    names = plan.target_names("").all if plan.targets or plan.url else ["own"]
    made = Tally(agent, [WorkerRecord(name="here", host="here", transactions=0)], target=names[0])

    async def carry_out() -> None:
        over: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        recorder = recorder_for(plan, names)
        load = schedule_for(Task(plan, agent, ""), Share(), recorder, over.set_result)
        began_at = perf_counter()
        load.begin(began_at - late_s)
        ended_at = await asyncio.wait_for(over, PATIENCE_S)
        for counts in recorder.take_counts():
            made.add_counts(0, counts)
        totals, of_targets = recorder.totals(), recorder.totals_of_targets()
        made.end_second(0, Second(ended_at - began_at, totals, load.socket_counts(), 0.0, 1.0, of_targets))
        await load.close()

    asyncio.run(carry_out())
    made.end_worker(0, lost=False)
    measured = made.agent_run(interrupted=False)
    fits_together(measured)
    return measured


def sockets_with(**counts: Any) -> SocketCounts:
    """Counts of an agent's sockets; what is not given is 0."""
    return msgspec.structs.replace(NO_SOCKETS, **counts)


def told(*counts: int | None) -> int:
    """The sum of counts that a client must tell."""
    return sum(count for count in counts if count is not None) if None not in counts else pytest.fail("not told")


def in_histogram(measured: AgentRun, phase: str) -> int:
    """How many values a histogram holds."""
    return sum(count for _, count in decoded_cells(measured.hdr[phase])) if phase in measured.hdr else 0


def fits_together(measured: AgentRun) -> None:
    """The figures of a run agree with one another, however many workers made it."""
    assert measured.transactions == sum(measured.status_codes.values())
    assert measured.transactions == sum(point.transactions for point in measured.series)
    assert measured.transactions == sum(measured.buckets.values())
    assert measured.transactions == sum(worker.transactions for worker in measured.client.workers)
    assert in_histogram(measured, "total") == measured.transactions
    if is_own(measured.agent):  # others' clients do not say when they send
        assert in_histogram(measured, "service") == measured.transactions
    assert measured.socket_errors == sum(point.socket_errors for point in measured.series)
    assert measured.failed_transactions == sum(point.failed_transactions or 0 for point in measured.series)
    interrupted = measured.unanswered["interrupted"].count if "interrupted" in measured.unanswered else 0
    assert measured.socket_errors + interrupted == sum(each.count for each in measured.unanswered.values())
    if measured.targets:  # a made-up worker names none
        assert measured.transactions == sum(target.transactions for target in measured.targets)
        assert measured.failed_transactions == sum(target.failed_transactions for target in measured.targets)
    assert measured.transaction_rate == pytest.approx(measured.transactions / measured.elapsed_s, rel=1e-3)
