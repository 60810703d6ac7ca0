from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kabench.agent import AgentOptions
from kabench.load import LoadPlan, LoadTarget, PlanError, Stage, default_agents
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


TARGETS = (LoadTarget(url="http://h/a"), LoadTarget(url="http://h/b"))


@pytest.mark.parametrize("where", [{"url": "http://h/"}, {"targets": TARGETS}], ids=["url", "targets"])
def test_the_default_for_a_server_of_somebody_s_is_careful(where: dict[str, Any]) -> None:
    plan = LoadPlan(**where)
    assert (plan.concurrency, plan.requests, plan.total, plan.duration_s) == (10, None, None, 10.0)
    assert (plan.method, plan.data) == ("GET", b"")
    assert (plan.agent_options.max_sockets, plan.agent_options.free_socket_timeout) == (None, 30.0)
    assert default_agents(plan) == ["keepalive"]
    assert default_agents(LoadPlan()) == ["keepalive", "plain"]


def test_what_is_given_comes_before_what_is_careful() -> None:
    plan = LoadPlan(url="http://h/", concurrency=60, total=5, agent_options=AgentOptions(max_sockets=7))
    assert (plan.concurrency, plan.total, plan.duration_s, plan.agent_options.max_sockets) == (60, 5, None, 7)
    assert LoadPlan(url="http://h/", stages=(Stage(1.0, 5),)).concurrency == 1
    assert LoadPlan(agent_options=AgentOptions()).agent_options.max_sockets is None


@pytest.mark.parametrize("given", [{}, {"url": "http://h/"}])
def test_a_rate_has_as_many_sockets_as_it_needs(given: dict[str, Any]) -> None:
    plan = LoadPlan(rate=5.0, **given)
    assert (plan.duration_s, plan.agent_options.max_sockets, plan.agent_options.free_socket_timeout) == (10.0, None, 30)
    limited = LoadPlan(rate=5.0, agent_options=AgentOptions(max_sockets=3), **given)
    assert limited.agent_options.max_sockets == 3


@pytest.mark.parametrize(
    ("given", "method", "data"),
    [
        ({"data": b"x"}, "POST", b"x"),
        ({"data": b""}, "POST", b""),
        ({"data": b"x", "method": "PUT"}, "PUT", b"x"),
        ({"data_lines": (b"x", b"y")}, "POST", b""),
        ({"method": "PUT"}, "PUT", b""),
    ],
)
@pytest.mark.parametrize("where", [{}, {"url": "http://h/"}], ids=["own server", "url"])
def test_a_body_is_posted(where: dict[str, Any], given: dict[str, Any], method: str, data: bytes) -> None:
    plan = LoadPlan(**where, **given)
    assert (plan.method, plan.data) == (method, data)


def test_a_target_with_a_body_is_posted_unless_a_method_is_given() -> None:
    targets = (LoadTarget(url="http://h/a"), LoadTarget(url="http://h/b", body=b"x"))
    assert [target.method for target in LoadPlan(targets=targets).targets_for("")] == ["GET", "POST"]
    assert [target.method for target in LoadPlan(targets=targets, method="PUT").targets_for("")] == ["PUT", "PUT"]


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
    for each in (plan, LoadPlan(), LoadPlan(url="http://h/"), LoadPlan(rate=5.0), LoadPlan(targets=TARGETS)):
        assert msgspec.json.decode(msgspec.json.encode(each), type=LoadPlan) == each


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
