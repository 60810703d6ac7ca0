"""Verdicts under noise as it was measured: they hold their level, and find what is there.

`noise.json` has the figures of `keepalive` in the order they were measured, against a server that answers after 5 ms
and one that answers at once, as `benchmarks/verdicts.py --noise` writes them. A made-up machine has such figures in
blocks of random length, so what followed each other still does, and on top of that it drifts as the real one did.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("scipy")

import numpy as np

from kabench.comparison.record import BETTER, CANNOT_TELL, NO_DIFFERENCE, WORSE
from kabench.comparison.statistics import Sample
from kabench.comparison.trials import StopRule, Trials
from kabench.comparison.verdicts import Sides, is_settled, judged, most_questions
from kabench.metrics import COMPARED
from tests.comparison.figures import agent_run, result_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from kabench.comparison.record import Comparison
    from kabench.result import RunResult

_BLOCK = 8
_A_COMPARISON = 24  # runs of the noise that followed each other at once
_NOISE = json.loads((Path(__file__).parent / "noise.json").read_text())
_NAMES = [metric.name for metric in COMPARED]
LOADS = {name: np.asarray(rows, dtype=float)[:, 1:] for name, rows in _NOISE.items() if name != "columns"}
DRIFTS = {
    name: [
        np.polyfit(range(_A_COMPARISON), np.log(rows[start : start + _A_COMPARISON, 0]), 1)[0]
        for start in range(0, len(rows), _A_COMPARISON)
    ]
    for name, rows in LOADS.items()
}
"""By how much the logarithm of the rate moved from run to run, in each of the comparisons that were measured."""


def test_the_noise_is_that_of_the_figures_that_are_compared() -> None:
    assert _NOISE["columns"] == ["at_s", *_NAMES]
    assert all(len(rows) >= 200 for rows in LOADS.values())


@pytest.fixture
def without_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict depends on an interval, and they take most of the time."""
    monkeypatch.setattr(Sample, "interval", lambda *_: None)


def noise(load: str, rng: np.random.Generator) -> Iterator[npt.NDArray[np.float64]]:
    """Figures in blocks, for ever."""
    rows = LOADS[load]
    while True:
        start, length = rng.integers(len(rows)), rng.geometric(1 / _BLOCK)
        for offset in range(length):
            yield rows[(start + offset) % len(rows)]


def simulated(load: str, rng: np.random.Generator, rule: StopRule, slower: float = 0.0) -> Comparison:
    """A comparison of two agents, the second slower by a share. A run takes a second."""
    figures, runs = noise(load, rng), 0
    drift = rng.choice(DRIFTS[load])

    def measure(agent: str) -> RunResult:
        nonlocal runs
        runs += 1
        factor = (1 - slower if agent == "b" else 1.0) * np.exp(drift * runs)
        rate, p50, p99, req_per_socket, cpu_us, availability = next(figures)
        return result_of(
            [
                agent_run(
                    agent,
                    rate=rate * factor,
                    p50_s=p50 / factor,
                    p99_s=p99 / factor,
                    req_per_socket=req_per_socket * factor,
                    cpu_us=cpu_us / factor,
                    availability_pct=availability,
                )
            ]
        )

    return Trials(["a", "b"], measure, rule, clock=lambda: float(runs)).carry_out({}, "simulated")


def finds_anything(comparison: Comparison) -> bool:
    return any(f.verdict in (BETTER, WORSE) for figures in comparison.metrics for f in figures.agents)


@pytest.mark.usefixtures("without_intervals")
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    "rule",
    [StopRule(trials=12), StopRule(max_time_s=60.0, margin=0.02)],
    ids=["12 trials", "until it is certain"],
)
def test_equals_are_found_different_in_at_most_6_of_100_comparisons(load: str, rule: StopRule) -> None:
    rng = np.random.default_rng(20261123)
    comparisons = 350 if rule.trials is not None else 150  # of two loads each: 1000
    found = sum(finds_anything(simulated(load, rng, rule)) for _ in range(comparisons))
    assert found <= 0.06 * comparisons


@pytest.mark.usefixtures("without_intervals")
def test_10_percent_less_are_found_in_9_of_10_comparisons_of_12_trials() -> None:
    rng = np.random.default_rng(5)
    load = "answers after 5 ms"
    verdicts = [simulated(load, rng, StopRule(trials=12), slower=0.1).verdict("transaction_rate") for _ in range(100)]
    assert verdicts.count(WORSE) >= 90
    assert BETTER not in verdicts


def sides(base: list[dict[str, float | None]], other: list[dict[str, float | None]], *, paired: bool = True) -> Sides:
    return Sides(figures={"a": base, "b": other}, bases={"a": None, "b": "a"}, paired=paired)


def figures(**changed: float | None) -> dict[str, float | None]:
    return dict.fromkeys(_NAMES, 100.0) | changed


def test_a_figure_that_a_trial_lacks_cannot_be_told() -> None:
    base = [figures(p99=10.0 + i) for i in range(12)]
    other = [figures(p99=None if i == 3 else 20.0 + i) for i in range(12)]
    (p99,) = [f for f in judged(sides(base, other)) if f.metric == "p99"]
    assert p99.agents[1].verdict == CANNOT_TELL
    assert p99.agents[1].trials_needed is None
    assert p99.agents[1].median == 26.0


def test_a_figure_of_nothing_cannot_be_told() -> None:
    base = [figures(p99=10.0 + i) for i in range(12)]
    other = [figures(p99=0.0 if i == 3 else 20.0 + i) for i in range(12)]
    (p99,) = [f for f in judged(sides(base, other)) if f.metric == "p99"]
    assert p99.agents[1].verdict == CANNOT_TELL


def test_a_side_without_any_trial_cannot_be_told_from_one_that_has_some() -> None:
    for base, other in (([], [figures()] * 6), ([figures()] * 6, [])):
        assert {f.agents[1].verdict for f in judged(sides(base, other, paired=False))} == {CANNOT_TELL}


def test_a_difference_as_probable_as_the_level_is_one() -> None:
    base = [figures(p50=100.0 + i) for i in range(6)]
    other = [figures(p50=110.0 + 2 * i) for i in range(6)]
    found = {f.metric: f.agents[1] for f in judged(sides(base, other), 1 / 32)}
    assert (found["p50"].verdict, found["p50"].p_value) == (WORSE, 1 / 32)


def test_metrics_that_never_differ_cost_the_others_nothing() -> None:
    base = [figures(p50=100.0 + i) for i in range(6)]
    other = [figures(p50=110.0 + 2 * i) for i in range(6)]
    verdicts = {f.metric: f.agents[1].verdict for f in judged(sides(base, other))}
    assert verdicts["p50"] == WORSE  # 6 pairs answer one question, and not six
    assert verdicts["p99"] == NO_DIFFERENCE


def test_a_difference_in_a_few_trials_alone_is_none() -> None:
    base = [figures() for _ in range(12)]
    other = [figures(succeeded_pct=99.0 if i < 3 else 100.0) for i in range(12)]
    (succeeded,) = [f for f in judged(sides(base, other)) if f.metric == "succeeded_pct"]
    assert succeeded.agents[1].verdict == NO_DIFFERENCE


def test_records_apart_of_different_number() -> None:
    base = [figures(p50=100.0 + i) for i in range(9)]
    other = [figures(p50=200.0 + i) for i in range(4)]
    verdicts = {f.metric: f.agents[1].verdict for f in judged(sides(base, other, paired=False))}
    assert verdicts["p50"] == WORSE


def test_without_any_trial_there_is_nothing_but_the_question() -> None:
    (first, *_) = judged(sides([], []))
    assert first.agents[1].verdict == CANNOT_TELL
    assert first.agents[1].median is None


def test_a_difference_in_some_trials_and_none_in_the_others_has_the_right_direction() -> None:
    base = [figures(succeeded_pct=99.0, p50=100.0) for _ in range(30)]
    other = [figures(succeeded_pct=100.0 if i < 25 else 99.0, p50=101.0 if i < 25 else 100.0) for i in range(30)]
    verdicts = {f.metric: f.agents[1].verdict for f in judged(sides(base, other))}
    assert (verdicts["succeeded_pct"], verdicts["p50"]) == (BETTER, WORSE)


def test_a_difference_beyond_the_margin_that_is_not_certain_yet_is_not_settled() -> None:
    base = [figures() for _ in range(12)]
    other = [figures(p50=107.0 + 6 * ((i * 5) % 7 - 3)) for i in range(12)]
    assert judged(sides(base, other), 0.002)[1].agents[1].verdict != WORSE
    assert not is_settled(sides(base, other), 0.002, 0.02)


def test_settled_is_what_differs_or_is_the_same_within_the_margin() -> None:
    base = [figures(p50=100 + 0.1 * (i % 5)) for i in range(12)]
    same = [figures(p50=100 + 0.1 * (i % 7)) for i in range(12)]
    noisy = [figures(p50=100 + 5.0 * (i % 7) - 15) for i in range(12)]
    slower = [figures(p50=150 + 0.1 * (i % 7)) for i in range(12)]
    assert is_settled(sides(base, same), 0.05, 0.02)
    assert is_settled(sides(base, slower), 0.05, 0.02)
    assert not is_settled(sides(base, noisy), 0.05, 0.02)


def both_ways(base: list[float], other: list[float]) -> list[Sides]:
    """The p50 of two agents, and the same the other way round."""
    ours, theirs = ([figures(p50=value) for value in values] for values in (base, other))
    return [sides(ours, theirs), sides(theirs, ours)]


@pytest.mark.parametrize(("level", "settled"), [(0.032, True), (1 / 32, True), (0.030, False)])
def test_what_is_within_the_margin_is_the_same_at_half_the_level_on_either_side(level: float, settled: bool) -> None:
    for made in both_ways([100.0] * 6, [100.1, 99.9, 100.2, 99.8, 100.3, 99.7]):  # each side has a p-value of 1/64
        assert is_settled(made, level, 0.02) is settled


@pytest.mark.parametrize(("level", "settled"), [(0.032, True), (0.030, False), (0.01, False)])
def test_one_side_beyond_the_margin_is_enough_not_to_be_settled(level: float, settled: bool) -> None:
    values = [97.95, 100.1, 99.9, 100.2, 99.8, 100.3, 99.7]  # 2/128 on the side of the first, 1/128 on the other
    for made in both_ways([100.0] * 7, values):
        assert is_settled(made, level, 0.02) is settled


@pytest.mark.parametrize(("agents", "questions"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_a_comparison_asks_of_each_metric_and_of_each_agent_but_the_base(agents: int, questions: int) -> None:
    assert most_questions(agents) == questions * len(COMPARED)


def test_a_difference_as_probable_as_the_level_is_settled() -> None:
    for made in both_ways([100.0] * 6, [150.0 + i for i in range(6)]):  # the p-value is 1/32
        assert is_settled(made, 1 / 32, 0.02)
        assert not is_settled(made, 1 / 33, 0.02)
