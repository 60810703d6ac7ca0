"""Trials in turn: their order, when there are enough of them, and what is kept when something goes wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("scipy")

from kabench import LoadPlan, compare
from kabench.comparison.record import BETTER, CANNOT_TELL, NO_DIFFERENCE, WORSE
from kabench.comparison.trials import ComparisonError, ComparisonStoppedError, StopRule, Trials
from kabench.load import AgentSpecError, MeasurementError, TargetUnreachableError
from tests.comparison.figures import agent_run, result_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.comparison.record import Comparison
    from kabench.comparison.trials import TrialProgress
    from kabench.result import RunResult


class MadeUpMachine:
    """Measures what it is told to, and its clock moves by `takes_s` a run."""

    def __init__(self, rate: Callable[[str, int], float], takes_s: float = 1.0) -> None:
        self.measured: list[str] = []
        self.now = 0.0
        self._rate = rate
        self._takes_s = takes_s

    def measure(self, agent: str) -> RunResult:
        self.now += self._takes_s
        self.measured.append(agent)
        rate = self._rate(agent, len(self.measured))
        return result_of([agent_run(agent, rate=rate, p50_s=5 / rate, p99_s=10 / rate, cpu_us=rate / 50)])

    def compare(self, rule: StopRule, *agents: str, **options: object) -> Comparison:
        trials = Trials(agents, self.measure, rule, clock=lambda: self.now, **options)  # type: ignore[arg-type]
        return trials.carry_out({}, "made up")


def noisy(rates: dict[str, float]) -> Callable[[str, int], float]:
    """Rates that go up and down by half a percent, the same way for all."""
    return lambda agent, number: rates[agent] * (1 + 0.005 * ((number * 7919) % 11 - 5) / 5)


def test_every_second_trial_goes_backwards() -> None:
    machine = MadeUpMachine(noisy({"a": 100, "b": 100, "c": 100}))
    machine.compare(StopRule(trials=3), "a", "b", "c")
    assert "".join(machine.measured) == "abccbaabc"


def test_a_steady_drift_favours_nobody() -> None:
    machine = MadeUpMachine(lambda _, number: 1000 - 3.0 * number)
    comparison = machine.compare(StopRule(trials=12), "a", "b")
    assert comparison.verdict("transaction_rate") == NO_DIFFERENCE
    assert comparison.figure("transaction_rate").ratio == pytest.approx(1.0, abs=0.001)


def test_a_slower_agent_is_worse_by_what_it_is_slower() -> None:
    comparison = MadeUpMachine(noisy({"a": 1000, "b": 950})).compare(StopRule(trials=12), "a", "b")
    figure = comparison.figure("transaction_rate", "b")
    assert figure.verdict == WORSE
    assert figure.base == "a"
    assert figure.ratio == pytest.approx(0.95, rel=0.005)
    assert figure.interval is not None
    assert figure.interval[0] < 0.95 < figure.interval[1]
    assert comparison.verdict("p99", "b") == WORSE  # longer is worse
    assert comparison.verdict("cpu_us_per_transaction", "b") == BETTER  # less is better
    assert comparison.verdict("succeeded_pct", "b") == NO_DIFFERENCE


def test_the_first_agent_is_the_base_of_all_others() -> None:
    machine = MadeUpMachine(noisy({"a": 1000, "b": 900, "c": 1200}))
    comparison = machine.compare(StopRule(trials=12), "a", "b", "c")
    verdicts = {f.agent: (f.base, f.verdict) for f in comparison.metrics[0].agents}
    assert verdicts == {"a": (None, None), "b": ("a", WORSE), "c": ("a", BETTER)}


def test_an_agent_against_itself_has_two_names() -> None:
    comparison = MadeUpMachine(noisy({"a": 1000})).compare(StopRule(trials=2), "a", "a")
    assert comparison.agents == ["a", "a 2"]
    assert [run.agent for run in comparison.runs] == ["a", "a 2"]


def test_too_few_trials_cannot_tell_and_say_how_many_it_takes() -> None:
    comparison = MadeUpMachine(noisy({"a": 1000, "b": 500})).compare(StopRule(trials=5), "a", "b")
    figure = comparison.figure("transaction_rate", "b")
    assert (figure.verdict, figure.trials_needed, figure.interval) == (CANNOT_TELL, 8, None)
    assert figure.ratio == pytest.approx(0.5, rel=0.02)


def test_it_stops_as_soon_as_it_is_certain() -> None:
    machine = MadeUpMachine(noisy({"a": 1000, "b": 500}))
    comparison = machine.compare(StopRule(max_time_s=200), "a", "b")
    assert len(comparison.trials) == 12
    assert comparison.verdict("transaction_rate") == WORSE


def test_what_never_gets_certain_ends_with_its_time() -> None:
    machine = MadeUpMachine(lambda _, number: 1000.0 * (1.5 if (number * 7919) % 5 < 2 else 0.7))
    comparison = machine.compare(StopRule(max_time_s=61), "a", "b")
    assert len(comparison.trials) == 30
    assert machine.now == 60


def test_trials_that_were_asked_for_are_made_although_the_first_was_slow() -> None:
    machine = MadeUpMachine(noisy({"a": 1000, "b": 500}))

    def first_slow(agent: str) -> RunResult:
        machine.now += 10 if not machine.measured else 0
        return machine.measure(agent)

    rule = StopRule(trials=20, max_time_s=60)
    assert len(Trials(["a", "b"], first_slow, rule, clock=lambda: machine.now).carry_out({}, "x").trials) == 20


def test_trials_that_were_asked_for_are_all_made_however_certain_it_is() -> None:
    comparison = MadeUpMachine(noisy({"a": 1000, "b": 500})).compare(StopRule(trials=30), "a", "b")
    assert len(comparison.trials) == 30


def test_trials_get_slower_and_the_time_still_holds() -> None:
    machine = MadeUpMachine(lambda _, number: 1000.0 * (1.5 if (number * 7919) % 5 < 2 else 0.7))

    def slower(agent: str) -> RunResult:
        machine.now += len(machine.measured)
        return machine.measure(agent)

    comparison = Trials(["a", "b"], slower, StopRule(max_time_s=100), clock=lambda: machine.now).carry_out({}, "x")
    assert machine.now <= 100 * 1.4
    assert 3 <= len(comparison.trials) < 15


def test_it_tells_of_each_trial() -> None:
    told: list[TrialProgress] = []
    MadeUpMachine(noisy({"a": 1, "b": 1})).compare(StopRule(trials=2), "a", "b", on_trial=told.append)
    assert [(each.number, each.most_trials) for each in told] == [(1, 2), (2, 2)]
    assert [run.agent for run in told[1].trial.runs] == ["b", "a"]


def test_each_whole_record_can_be_kept() -> None:
    kept: list[RunResult] = []
    MadeUpMachine(noisy({"a": 1, "b": 1})).compare(StopRule(trials=2), "a", "b", keep=kept.append)
    assert [result.runs[0].agent for result in kept] == ["a", "b", "b", "a"]


def test_an_interrupted_trial_is_in_the_record_and_in_no_figure() -> None:
    machine = MadeUpMachine(noisy({"a": 1000, "b": 900}))
    comparison = machine.compare(StopRule(trials=12), "a", "b", is_stopped=lambda: len(machine.measured) == 5)
    assert comparison.interrupted
    assert len(comparison.trials) == 3
    assert [len(trial.runs) for trial in comparison.trials] == [2, 2, 1]
    assert len(comparison.complete_trials) == 2
    assert comparison.figure("transaction_rate", "a").median == pytest.approx(1000, rel=0.01)
    assert comparison.runs[0].elapsed_s == 3.0  # nothing measured is lost


def test_a_trial_that_cannot_be_finished_ends_it_and_the_others_are_kept() -> None:
    machine = MadeUpMachine(noisy({"a": 1000, "b": 900}))

    def measure(agent: str) -> RunResult:
        result = machine.measure(agent)
        if len(machine.measured) == 7:
            raise MeasurementError("worker-1 died (SIGKILL)", result)
        if len(machine.measured) == 8:
            pytest.fail("it went on")
        return result

    with pytest.raises(ComparisonStoppedError, match=r"trial 4: worker-1 died") as raised:
        Trials(["a", "b"], measure, StopRule(trials=12)).carry_out({}, "x")
    comparison = raised.value.comparison
    assert not comparison.interrupted
    assert comparison.problem == "trial 4: worker-1 died (SIGKILL)"
    assert [run.elapsed_s for run in comparison.runs] == [3.0, 4.0]
    assert len(comparison.complete_trials) == 3
    assert len(comparison.trials) == 4


def test_a_trial_whose_last_agent_got_nowhere_is_not_complete() -> None:
    def measure(agent: str) -> RunResult:
        result = result_of([agent_run(agent)])
        if agent == "b":
            raise MeasurementError("b: not one successful transaction", result)
        return result

    with pytest.raises(ComparisonStoppedError) as raised:
        Trials(["a", "b"], measure, StopRule(trials=3)).carry_out({}, "x")
    assert raised.value.comparison.complete_trials == []
    assert len(raised.value.comparison.runs) == 2


def test_failures_that_no_figure_shows_are_noted() -> None:
    def measure(agent: str) -> RunResult:
        run = agent_run(agent, transactions=90, failed_transactions=15, socket_errors=10)
        return result_of([replace(run, errors={"connect_failed": 10}, status_codes={"200": 85, "500": 5})])

    comparison = Trials(["a", "b"], measure, StopRule(trials=2)).carry_out({}, "x")
    assert "a: 30 of 200 requests failed (20 connect failed, 10 with status 500)." in comparison.notes


def test_without_a_complete_trial_it_says_so() -> None:
    machine = MadeUpMachine(noisy({"a": 1000, "b": 900}))
    comparison = machine.compare(StopRule(trials=12), "a", "b", is_stopped=lambda: len(machine.measured) == 1)
    assert "no trial was completed, so there is nothing to compare." in comparison.notes
    assert [run.agent for run in comparison.runs] == ["a"]


def test_a_target_that_goes_away_ends_it_and_the_others_are_kept() -> None:
    machine = MadeUpMachine(noisy({"a": 1000, "b": 900}))

    def measure(agent: str) -> RunResult:
        if len(machine.measured) == 4:
            raise TargetUnreachableError("connection refused")
        return machine.measure(agent)

    with pytest.raises(ComparisonStoppedError, match="trial 3: a: connection refused") as raised:
        Trials(["a", "b"], measure, StopRule(trials=12)).carry_out({}, "x")
    assert raised.value.comparison.runs[0].elapsed_s == 2.0


def test_a_target_that_was_never_there_is_no_comparison() -> None:
    def measure(_: str) -> RunResult:
        raise TargetUnreachableError("connection refused")

    with pytest.raises(TargetUnreachableError):
        Trials(["a", "b"], measure, StopRule(trials=12)).carry_out({}, "x")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give at least one"),
        ({"trials": 0}, "trials: 0 is below 1"),
        ({"max_time_s": 0.0}, "max_time: 0 is not above 0"),
        ({"max_time_s": float("nan")}, "max_time"),
        ({"trials": 3, "margin": 1.0}, "margin: 100%"),
    ],
)
def test_rules_that_make_no_sense(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        StopRule(**wrong)  # type: ignore[arg-type]


def test_real_trials_on_real_sockets() -> None:
    plan = LoadPlan(requests=20, concurrency=6, delay_s=0.0)
    comparison = compare(plan, ["keepalive", "plain"], trials=8)
    assert comparison.verdict("req_per_socket", "plain") == WORSE
    assert comparison.figure("req_per_socket", "plain").median == 1.0
    assert [run.transactions for run in comparison.runs] == [8 * 120, 8 * 120]
    assert comparison.plan["requests"] == 20
    assert len({each.id for trial in comparison.trials for each in trial.runs}) == 16


def test_one_agent_is_no_comparison() -> None:
    with pytest.raises(ComparisonError, match="needs at least two"):
        compare(LoadPlan(), ["keepalive"])


def test_agents_are_looked_at_before_anything_is_sent() -> None:
    with pytest.raises(AgentSpecError, match="keepalife"):
        compare(LoadPlan(url="http://127.0.0.1:9/"), ["keepalive", "keepalife"])
