"""What is still unanswered when patience is over: an error of the run, except where it is of the warm-up."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from kabench.load.figures.messages import Task
from kabench.load.figures.recorder import Recorder
from kabench.load.plan.share import Share
from kabench.load.schedules.factory import schedule_for
from kabench.load.schedules.schedule import CUT_OFF
from kabench.result import INTERRUPTED
from tests.load.loads import plan_of
from tests.sockets import Peer, serving, until

if TYPE_CHECKING:
    from kabench.load.schedules.schedule import Schedule

SPECS = ("keepalive", "urllib3", "httpx")
REQUESTS = 6
MODELS: dict[str, dict[str, Any]] = {
    "users": {"requests": 5, "concurrency": REQUESTS},
    "rate": {"total": REQUESTS, "rate": 1000.0},
}


async def never_answers(peer: Peer) -> None:
    await peer.reader.read()


def given_up(spec: str, kind: str = CUT_OFF, **given: Any) -> Schedule:
    """A load that is given up when six requests have come, of which none is ever answered."""
    if spec != "keepalive":
        pytest.importorskip(spec)
    over: list[float] = []

    async def carry_out(url: str) -> Schedule:
        plan = plan_of(url=url, options={"max_sockets": REQUESTS}, **given)
        load = schedule_for(Task(plan, spec, url), Share(), Recorder(), over.append)
        load.begin(perf_counter() + plan.warmup_s)
        await until(lambda: server.sockets == REQUESTS)
        if kind == CUT_OFF:
            load.end(perf_counter())
        load.give_up(kind, perf_counter())
        await until(lambda: bool(over))
        await load.close()
        return load

    with serving(never_answers) as server:
        load = asyncio.run(carry_out(server.url))
    assert len(over) == 1
    return load


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_unanswered_is_cut_off_and_counted(spec: str, model: str) -> None:
    load = given_up(spec, **MODELS[model])
    assert load.recorder.errors == {"cut_off": REQUESTS}
    assert load.recorder.transactions == 0


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_unanswered_when_a_run_is_stopped_is_interrupted_and_no_error(spec: str, model: str) -> None:
    load = given_up(spec, INTERRUPTED, **MODELS[model])
    assert load.recorder.errors == {}
    assert load.recorder.interrupted == REQUESTS


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_unanswered_since_the_warm_up_is_in_no_figure(spec: str) -> None:
    load = given_up(spec, rate=1000.0, warmup_s=60.0, duration_s=1.0, max_in_flight=REQUESTS)
    assert load.recorder.errors == {}
    assert load.warmup_recorder.errors == {"cut_off": REQUESTS}
