"""What workers share adds up exactly, and a plan that leaves a worker without its part is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kabench.agent import AgentOptions
from kabench.load import LoadPlan, PlanError
from kabench.load.plan.pacing import Stage
from kabench.load.plan.share import Share
from kabench.load.schedules.schedule import tickets_for

workers = st.integers(1, 64)


def shares(count: int) -> list[Share]:
    return [Share(index, count) for index in range(count)]


@given(st.integers(0, 10**9), workers)
def test_parts_add_up_and_differ_by_one_at_most(whole: int, count: int) -> None:
    parts = [share.of(whole) for share in shares(count)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1
    assert parts == sorted(parts, reverse=True)


@given(st.integers(0, 1000), workers)
def test_parts_are_how_many_of_the_numbered_things_are_a_worker_s(whole: int, count: int) -> None:
    assert [share.of(whole) for share in shares(count)] == [len(range(i, whole, count)) for i in range(count)]


@given(st.integers(0, 500), st.integers(0, 500), workers)
def test_a_part_never_shrinks_when_the_whole_grows(one: int, other: int, count: int) -> None:
    """So, at each time of a ramp, a worker's users are the first of all the users it ever has."""
    low, high = sorted((one, other))
    assert all(share.of(low) <= share.of(high) for share in shares(count))


@given(workers, st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_an_agent_s_limits_add_up(count: int, sockets: int, total: int, free: int) -> None:
    whole = AgentOptions(
        max_sockets=count + sockets, max_total_sockets=count + total, max_free_sockets=count + free, timeout=7
    )
    parts = [share.of_options(whole) for share in shares(count)]
    for name in ("max_sockets", "max_total_sockets", "max_free_sockets"):
        assert sum(getattr(part, name) for part in parts) == getattr(whole, name)
    assert {part.timeout for part in parts} == {7}


def test_what_is_unlimited_stays_so_for_each() -> None:
    for part in (share.of_options(AgentOptions(max_sockets=None, max_total_sockets=None)) for share in shares(3)):
        assert part.max_sockets is None
        assert part.max_total_sockets is None


@given(workers, st.integers(1, 5000))
def test_tickets_of_a_total_add_up_over_all_users_of_all_workers(count: int, total: int) -> None:
    plan = LoadPlan(concurrency=64, total=total)
    sent = 0
    for share in shares(count):
        users = tickets_for(plan, share, share.of(64))
        sent += sum(1 for user in users for _ in user)
    assert sent == total


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_tickets_a_user_add_up_over_all_workers(count: int) -> None:
    plan = LoadPlan(concurrency=7, requests=13)
    sent = sum(1 for share in shares(count) for user in tickets_for(plan, share, share.of(7)) for _ in user)
    assert sent == 7 * 13 == plan.expected_transactions


@given(st.lists(st.floats(0, 40), min_size=1, max_size=4), workers, st.floats(0, 10))
def test_users_of_a_ramp_add_up_at_each_time(level: list[float], count: int, elapsed_s: float) -> None:
    plan = LoadPlan(concurrency=64, stages=tuple(Stage(2.0, users) for users in level))
    users = int(plan.ramp.level_at(elapsed_s))
    assert sum(share.of(users) for share in shares(count)) == users


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"workers": 6, "options": {"max_sockets": 5}}, "workers: 6 of them cannot share 5 sockets"),
        ({"workers": 3, "options": {"max_total_sockets": 2}}, "workers: 3 of them cannot share 2 sockets over all"),
        ({"workers": 4, "concurrency": 3}, "workers: 4 of them cannot share 3 users"),
        ({"workers": 2, "concurrency": 1}, r"workers: 2 of them cannot share 1 user\Z"),
        ({"workers": 4, "stages": (Stage(1, 3),)}, "workers: 4 of them cannot share 3 users"),
        ({"workers": 3, "rate": 10.0, "max_in_flight": 2}, "workers: 3 of them cannot share 2 requests in flight"),
        ({"workers": 0}, "workers: 0 is below 1"),
        ({"workers": -1}, "workers: -1 is below 1"),
    ],
)
def test_a_plan_refuses_more_workers_than_can_share_it(given: dict[str, Any], says: str) -> None:
    options = AgentOptions(**given.pop("options", {"max_sockets": 50}))
    with pytest.raises(PlanError, match=says):
        LoadPlan(agent_options=options, **given)


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({}, 50),
        ({"concurrency": 7}, 7),
        ({"concurrency": 7, "max_sockets": None}, 7),
        ({"stages": (Stage(1, 9), Stage(1, 0))}, 9),
        ({"rate": 5.0}, 50),
        ({"rate": 5.0, "max_in_flight": 4}, 4),
        ({"rate": 5.0, "max_sockets": None}, 256),  # its free sockets
    ],
)
def test_a_plan_knows_how_many_workers_can_share_it(given: dict[str, Any], most: int) -> None:
    options = AgentOptions(max_sockets=given.pop("max_sockets", 50))
    plan = LoadPlan(agent_options=options, **given)
    assert plan.most_workers == most
    fields = {"agent_options": options, **given}
    LoadPlan(workers=most, **fields)
    with pytest.raises(PlanError):
        LoadPlan(workers=most + 1, **fields)
