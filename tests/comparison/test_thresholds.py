from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("scipy")

from kabench.comparison.thresholds import (
    Outcome,
    ThresholdError,
    check_agents_of,
    outcomes_of_comparison,
    outcomes_of_runs,
    parse_regression,
    parse_threshold,
)
from kabench.comparison.trials import StopRule, Trials
from kabench.histogram import TimesOfAll
from kabench.result import LoadFigures, TargetFigures
from tests.comparison.figures import agent_run, result_of
from tests.comparison.test_trials import MadeUpMachine, noisy

if TYPE_CHECKING:
    from kabench.result import RunResult


def broken(outcomes: list[Outcome]) -> list[str]:
    return [str(outcome) for outcome in outcomes if outcome.is_broken]


@pytest.mark.parametrize(
    ("text", "metric", "agent", "is_ratio", "sign", "limit"),
    [
        ("p99>50ms", "p99", None, False, ">", 0.05),
        ("p99 > 0.05", "p99", None, False, ">", 0.05),
        ("  p99_9>=1.5s ", "p99_9", None, False, ">=", 1.5),
        ("req_per_socket<100", "req_per_socket", None, False, "<", 100.0),
        ("availability<99.9", "availability", None, False, "<", 99.9),
        ("availability<99.9%", "availability", None, False, "<", 99.9),
        ("failed>0.1%", "failed_pct", None, False, ">", 0.1),
        ("transaction_rate<2000/s", "transaction_rate", None, False, "<", 2000.0),
        ("cpu_us_per_transaction>20us", "cpu_us_per_transaction", None, False, ">", 20.0),
        ("max_rss_mb>100MB", "max_rss_mb", None, False, ">", 100.0),
        ("transaction_rate.ratio<0.95", "transaction_rate", None, True, "<", 0.95),
        ("keepalive:p99>50ms", "p99", "keepalive", False, ">", 0.05),
        ("my.module:Client:p99.ratio>1.1", "p99", "my.module:Client", True, ">", 1.1),
        ("keepalive 2:failed_transactions>0", "failed_transactions", "keepalive 2", False, ">", 0.0),
    ],
)
def test_thresholds_as_people_write_them(
    text: str, metric: str, agent: str | None, is_ratio: bool, sign: str, limit: float
) -> None:
    threshold = parse_threshold(text)
    assert (threshold.metric.name, threshold.agent, threshold.is_ratio) == (metric, agent, is_ratio)
    assert (threshold.sign, threshold.limit) == (sign, limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not understood"),
        ("p99", "not understood"),
        ("p99>", "not understood"),
        ("p99=50ms", "not understood"),
        ("p99!50ms", "not understood"),
        ("p98>50ms", "did you mean p99"),
        ("zzz>1", "there are failed_pct, transaction_rate, mean"),
        ("p99>soon", "soon"),
        ("p99>-1ms", "-1ms"),
        ("p99>nan", "nan"),
        ("req_per_socket<many", "'many' is not a number"),
        ("req_per_socket<inf", "not a finite number"),
        ("p99_9.ratio>1.1", "there are ratios of"),
        ("p99.ratio>50ms", "'50ms' is not a number"),
        ("p99.quotient>1", "not understood"),
    ],
)
def test_thresholds_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(ThresholdError, match=message):
        parse_threshold(text)


@pytest.mark.parametrize(("text", "limit"), [("5%", 0.05), (" 10 % ", 0.1), ("0%", 0.0), ("p99=12.5%", 0.125)])
def test_regressions_as_people_write_them(text: str, limit: float) -> None:
    assert parse_regression(text).limit == limit


@pytest.mark.parametrize("text", ["5", "", "%", "p99", "p99=", "100%", "-1%", "p98=5%", "p99_9=5%", "nan%", "five%"])
def test_regressions_that_make_no_sense(text: str) -> None:
    with pytest.raises(ThresholdError):
        parse_regression(text)


def test_each_agent_of_a_run_is_held_against_its_limits() -> None:
    runs = [agent_run("keepalive", p99_s=0.02), agent_run("plain", p99_s=0.06)]
    assert broken(outcomes_of_runs([parse_threshold("p99>50ms")], runs)) == [
        "plain: p99 must not exceed 50 ms: 60.000 ms"
    ]
    assert not broken(outcomes_of_runs([parse_threshold("keepalive:p99>50ms")], runs))


def test_a_limit_itself_is_within() -> None:
    runs = [agent_run("keepalive", p99_s=0.05)]
    assert not broken(outcomes_of_runs([parse_threshold("p99>50ms")], runs))
    assert broken(outcomes_of_runs([parse_threshold("p99>=50ms")], runs))


def test_ratios_of_a_run_are_to_its_first_agent() -> None:
    runs = [agent_run("keepalive", rate=1000.0), agent_run("plain", rate=900.0)]
    (outcome,) = outcomes_of_runs([parse_threshold("transaction_rate.ratio<0.95")], runs)
    assert (outcome.agent, outcome.found, outcome.is_broken) == ("plain", "0.900", True)


def test_the_same_agent_twice_is_told_apart() -> None:
    runs = [agent_run("keepalive", p99_s=0.02), agent_run("keepalive", p99_s=0.06)]
    assert broken(outcomes_of_runs([parse_threshold("keepalive 2:p99>50ms")], runs))
    assert not broken(outcomes_of_runs([parse_threshold("keepalive:p99>50ms")], runs))


def test_what_was_not_measured_is_not_within() -> None:
    runs = [agent_run("keepalive", p99_s=None)]
    assert broken(outcomes_of_runs([parse_threshold("p99>50ms")], runs)) == ["keepalive: p99 must not exceed 50 ms: -"]
    assert broken(outcomes_of_runs([parse_threshold("lag_p99>50ms")], runs))


def test_agents_that_take_no_part_are_refused() -> None:
    with pytest.raises(ThresholdError, match="there is no agent 'plain'; there are keepalive"):
        check_agents_of([parse_threshold("plain:p99>50ms")], ["keepalive"], [])
    with pytest.raises(ThresholdError, match="a ratio needs an agent other than the first"):
        check_agents_of([parse_threshold("p99.ratio>1.1")], ["keepalive"], ["keepalive"])
    with pytest.raises(ThresholdError, match="a ratio needs an agent other than the first"):
        check_agents_of([parse_threshold("b:p99.ratio>1.1")], ["a", "a 2", "b", "b 2"], ["a", "b"])
    check_agents_of([parse_threshold("p99.ratio>1.1")], ["keepalive", "plain"], ["keepalive"])


def test_a_comparison_is_held_against_its_medians_and_ratios() -> None:
    comparison = MadeUpMachine(noisy({"a": 1000, "b": 900})).compare(StopRule(trials=12), "a", "b")
    thresholds = [
        parse_threshold(text)
        for text in (
            "transaction_rate<950",
            "transaction_rate.ratio<0.95",
            "a:transaction_rate<950",
            "socket_errors>0",
            "sockets_created>10",
        )
    ]
    outcomes = outcomes_of_comparison(thresholds, [], comparison)
    assert [(each.text, each.agent) for each in outcomes if each.is_broken] == [
        ("transaction_rate<950", "b"),
        ("transaction_rate.ratio<0.95", "b"),
    ]
    assert [each.found for each in outcomes if each.text == "sockets_created>10"] == ["10", "10"]  # a trial, not all


@pytest.mark.parametrize(
    ("limit", "is_broken"),
    [("5%", True), ("9%", True), ("12%", False), ("transaction_rate=5%", True), ("succeeded_pct=5%", False)],
)
def test_a_regression_is_one_where_the_interval_excludes_less(limit: str, is_broken: bool) -> None:
    comparison = MadeUpMachine(noisy({"a": 1000, "b": 900})).compare(StopRule(trials=12), "a", "b")
    outcomes = outcomes_of_comparison([], [parse_regression(limit)], comparison)
    assert any(each.is_broken for each in outcomes) == is_broken


def test_longer_times_are_a_regression_and_shorter_ones_are_none() -> None:
    slower = MadeUpMachine(noisy({"a": 1000, "b": 900})).compare(StopRule(trials=12), "a", "b")
    faster = MadeUpMachine(noisy({"a": 900, "b": 1000})).compare(StopRule(trials=12), "a", "b")
    limit = [parse_regression("p99=5%")]
    assert broken(outcomes_of_comparison([], limit, slower))
    assert not broken(outcomes_of_comparison([], limit, faster))


@pytest.mark.parametrize("trials", [4, 7])
def test_too_few_trials_are_no_regression_and_say_so(trials: int) -> None:
    comparison = MadeUpMachine(noisy({"a": 1000, "b": 500})).compare(StopRule(trials=trials), "a", "b")
    (outcome,) = outcomes_of_comparison([], [parse_regression("5%")], comparison)
    assert outcome.verdict == "cannot tell"
    assert outcome.found == "too few trials: a verdict needs 8"


def test_a_figure_that_some_trials_lack_is_no_regression_and_no_all_clear() -> None:
    machine = MadeUpMachine(noisy({"a": 1000, "b": 1000}))

    def measure(agent: str) -> RunResult:
        result = machine.measure(agent)
        return (
            result if agent == "a" else result_of([replace(result.runs[0], response_time_all_s=TimesOfAll(p50=0.005))])
        )

    comparison = Trials(["a", "b"], measure, StopRule(trials=12)).carry_out({}, "x")
    (outcome,) = outcomes_of_comparison([], [parse_regression("5%")], comparison)
    assert (outcome.verdict, outcome.found) == ("cannot tell", "no p99 in some trials")
    (within,) = outcomes_of_comparison([], [parse_regression("transaction_rate=5%")], comparison)
    assert within.verdict == "within"


def test_plain_seconds_are_shown_as_such() -> None:
    assert parse_threshold("p99>50").text == "p99>50s"
    assert parse_threshold("p99.ratio>2").text == "p99.ratio>2"


# -- what must hold, targets, and what was not answered


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("p99<50ms", "p99 must be below 50 ms"),
        ("p99<=1.5s", "p99 must not exceed 1.5 s"),
        ("failed<0.1%", "failed must be below 0.1%"),
        ("transaction_rate>=100/s", "transaction_rate must not fall below 100/s"),
        ("keepalive:p99[GET /items/{}]<50ms", "p99 of GET /items/{} must be below 50 ms"),
        ("transaction_rate.ratio>0.95", "the ratio of transaction_rate must be above 0.95"),
    ],
)
def test_what_must_hold_is_a_plain_sentence(text: str, sentence: str) -> None:
    assert parse_threshold(text, must_hold=True).sentence == sentence


def test_what_must_hold_and_what_must_not_are_the_same_limit() -> None:
    runs = [agent_run(p99_s=0.05)]
    for must_hold, must_not, is_broken in (
        ("p99<50ms", "p99>=50ms", True),
        ("p99<=50ms", "p99>50ms", False),
        ("p99>50ms", "p99<=50ms", True),
        ("p99>=50ms", "p99<50ms", False),
    ):
        assert bool(broken(outcomes_of_runs([parse_threshold(must_hold, must_hold=True)], runs))) == is_broken
        assert bool(broken(outcomes_of_runs([parse_threshold(must_not)], runs))) == is_broken


def target(name: str, p99_s: float) -> TargetFigures:
    run = agent_run(p99_s=p99_s)
    names = [field.name for field in dataclasses.fields(LoadFigures)]
    return TargetFigures(name=name, **{each: getattr(run, each) for each in names})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("p99[GET /items/{}]<50ms", "60.000 ms"),
        ("keepalive:p99[GET /items/{}]<50ms", "60.000 ms"),
        ("p99[odd ]: <name>]<5ms", "10.000 ms"),
        ("p99[GET /other]<50ms", "there is no such target; there is GET /items/{}, odd ]: <name>"),
    ],
)
def test_a_limit_for_one_target_is_held_against_that_target(text: str, found: str) -> None:
    run = agent_run(p99_s=0.001, targets=[target("GET /items/{}", 0.06), target("odd ]: <name>", 0.01)])
    (outcome,) = outcomes_of_runs([parse_threshold(text, must_hold=True)], [run])
    assert (outcome.is_broken, outcome.found) == (True, found)


@pytest.mark.parametrize(
    "text", ["queue_p99[GET /]<1ms", "p99[GET /].ratio<1.1", "req_per_socket[GET /]>5", "p99[]<1ms"]
)
def test_a_target_has_no_figures_of_sockets_and_no_ratios(text: str) -> None:
    with pytest.raises(ThresholdError):
        parse_threshold(text, must_hold=True)


def test_a_percentile_that_falls_among_the_unanswered_breaks_every_limit_and_says_what_it_is_above() -> None:
    of_all = TimesOfAll(answered_pct=90.0, p50=0.005, at_least_s={"p99": 1.0})
    run = replace(agent_run(), response_time_all_s=of_all)
    (outcome,) = outcomes_of_runs([parse_threshold("p99>10s")], [run])
    assert (outcome.is_broken, outcome.found) == (True, "> 1000.000 ms, unanswered")
    (answered,) = outcomes_of_runs([parse_threshold("answered_p99>10s")], [run])
    assert not answered.is_broken
