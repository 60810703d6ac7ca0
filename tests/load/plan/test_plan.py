from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kabench.agent import AgentOptions
from kabench.load import LoadPlan, PlanError
from kabench.load.plan.share import Share
from kabench.load.schedules.schedule import tickets_for
from kabench.published import PUBLISHED_BODY


def test_the_default_is_the_published_benchmark() -> None:
    plan = LoadPlan()
    assert (plan.concurrency, plan.requests, plan.delay_s, plan.method) == (60, 1000, 0.005, "POST")
    assert (plan.agent_options.max_sockets, plan.agent_options.free_socket_timeout) == (50, 30.0)
    assert plan.expected_transactions == 60_000
    assert len(PUBLISHED_BODY) == 128
    assert json.loads(PUBLISHED_BODY)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"requests": 0}, "requests"),
        ({"total": -1}, "total"),
        ({"duration_s": 0.0}, "duration"),
        ({"duration_s": float("nan")}, "duration"),
        ({"delay_s": -0.1}, "delay"),
        ({"requests": 5, "total": 5}, "requests and total"),
        ({"total": 5, "duration_s": 5.0}, "total and duration"),
        ({"url": "nowhere"}, "http"),
        ({"method": "G T"}, "method"),
        ({"headers": (("X\r\n", "y"),)}, "header"),
        ({"workers": 61}, "workers: 61 of them cannot share 50 sockets"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        LoadPlan(**given)


def test_a_plan_goes_to_a_worker_and_comes_back() -> None:
    plan = LoadPlan(
        url="http://u:p@h/",
        headers=(("Authorization", "Bearer x"),),
        data=b"\xff\0",
        total=7,
        agent_options=AgentOptions(max_sockets=3, timeout=1),
    )
    assert msgspec.json.decode(msgspec.json.encode(plan), type=LoadPlan) == plan


def test_a_record_of_a_plan_holds_no_secret() -> None:
    plan = LoadPlan(
        url="http://user:hunter2@h/x",
        headers=(("authorization", "Bearer hunter2"), ("Cookie", "hunter2"), ("X-Plain", "seen")),
    )
    record = json.dumps(plan.as_record())
    assert "hunter2" not in record
    assert "user" not in json.loads(record)["url"]
    assert json.loads(record)["headers"][2] == ["X-Plain", "seen"]
    assert set(json.loads(record)) == set(LoadPlan.__dataclass_fields__)


@pytest.mark.parametrize(("given", "tickets"), [({"requests": 3}, [3, 3]), ({"total": 5}, [5, 0])])
def test_tickets_add_up(given: dict[str, Any], tickets: list[int]) -> None:
    users = tickets_for(LoadPlan(concurrency=2, **given), Share(), 2)
    assert [len(list(user)) for user in users] == tickets
