"""Saved records against each other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("scipy")

from kabench import diff
from kabench.comparison.record import CANNOT_TELL, NO_DIFFERENCE, WORSE
from kabench.comparison.saved import DifferentPlansError, NothingInCommonError
from tests.comparison.figures import ENVIRONMENT, agent_run, result_of

if TYPE_CHECKING:
    from kabench.result import RunResult


def records(rate: float, count: int, *, agent: str = "keepalive", hour: int = 12, **plan: object) -> list[RunResult]:
    made = []
    for number in range(count):
        result = result_of(
            [agent_run(agent, rate=rate * (1 + 0.001 * number), p99_s=10 / rate, p50_s=5 / rate)],
            id=f"{hour:02d}{number:010x}",
            started_at=f"2026-11-23T{hour:02d}:{number:02d}:00Z",
        )
        made.append(replace(result, plan={**result.plan, **plan}))
    return made


def test_five_on_each_side_tell_a_difference() -> None:
    comparison = diff(records(1000, 5), records(900, 5, hour=13))
    figure = comparison.figure("transaction_rate")
    assert (figure.verdict, figure.base, figure.agent) == (WORSE, "old keepalive", "new keepalive")
    assert figure.ratio == pytest.approx(0.9, rel=0.01)
    assert comparison.verdict("succeeded_pct") == NO_DIFFERENCE
    assert not comparison.paired


def test_one_on_each_side_cannot_tell_and_says_how_many_it_takes() -> None:
    figure = diff(records(1000, 1), records(500, 1)).figure("transaction_rate")
    assert (figure.verdict, figure.trials_needed) == (CANNOT_TELL, 5)
    assert figure.ratio == pytest.approx(0.5)


def test_agents_are_held_against_themselves() -> None:
    def both(rate: float) -> RunResult:
        return result_of([agent_run("keepalive", rate=rate), agent_run("plain", rate=rate / 2)])

    comparison = diff([both(1000)], [both(900)])
    assert comparison.agents == ["old keepalive", "new keepalive", "old plain", "new plain"]
    assert {f.agent: f.base for f in comparison.metrics[0].agents if f.base} == {
        "new keepalive": "old keepalive",
        "new plain": "old plain",
    }


def test_one_agent_may_be_held_against_another() -> None:
    comparison = diff(records(1000, 1), records(1000, 1, agent="urllib3"))
    assert comparison.agents == ["old keepalive", "new urllib3"]


def test_no_agent_in_both_is_refused() -> None:
    old = [result_of([agent_run("a"), agent_run("b")])]
    with pytest.raises(NothingInCommonError, match="a, b in the old, c in the new"):
        diff(old, [result_of([agent_run("c")])])


def test_different_plans_are_refused_and_it_says_in_what_they_differ() -> None:
    other = records(1000, 1, concurrency=50, agent_options={"max_sockets": 40})
    with pytest.raises(DifferentPlansError) as raised:
        diff(records(1000, 1), other)
    assert raised.value.differences == ["agent_options.max_sockets is 50 and 40", "concurrency is 60 and 50"]


def test_different_plans_can_be_forced_and_are_noted() -> None:
    comparison = diff(records(1000, 1), records(1000, 1, concurrency=50), force=True)
    assert "the plans differ: concurrency is 60 and 50" in comparison.notes


def test_a_field_that_an_older_kabench_did_not_know_is_no_difference() -> None:
    diff(records(1000, 1), records(1000, 1, brand_new=1))


def test_a_seed_is_no_difference() -> None:
    diff(records(1000, 1), records(1000, 1, seed=2))


def test_other_environments_are_noted() -> None:
    elsewhere = replace(ENVIRONMENT, python="3.13.0", versions={"httptools": "0.7.0"})
    comparison = diff(records(1000, 1), [replace(records(1000, 1)[0], environment=elsewhere)])
    assert "their environments differ: python 3.11.7 and 3.13.0" in comparison.notes
    assert "their environments differ: httptools 0.6.4 and 0.7.0" in comparison.notes


def test_what_was_not_measured_in_turn_is_noted() -> None:
    assert any("not measured in turn" in note for note in diff(records(1, 2), records(1, 2, hour=13)).notes)
    assert not any("not measured in turn" in note for note in diff(records(1, 2), records(1, 2)).notes)


def test_the_same_record_twice_is_noted() -> None:
    (one,) = records(1000, 1)
    assert any("more than once" in note for note in diff([one, one], records(1000, 1, hour=13)).notes)


def test_the_same_record_on_both_sides_differs_in_nothing() -> None:
    comparison = diff(records(1000, 6), records(1000, 6))
    assert {f.agents[1].verdict for f in comparison.metrics} == {NO_DIFFERENCE}
