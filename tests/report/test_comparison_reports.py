"""A comparison on the terminal, as markdown, as JUnit."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

pytest.importorskip("scipy")

from typing import TYPE_CHECKING

from kabench.comparison.record import AgentFigure
from kabench.comparison.thresholds import BROKEN, WITHIN, Outcome, outcomes_of_comparison, parse_threshold
from kabench.comparison.trials import StopRule
from kabench.report.comparison import conclusion, explanations, verdict_tables
from kabench.report.junit import junit_of_comparison, junit_of_run
from kabench.report.markdown import markdown_of_comparison, markdown_of_run
from kabench.report.terminal_comparison import render_comparison
from tests.comparison.figures import agent_run, result_of
from tests.comparison.test_trials import MadeUpMachine, noisy

if TYPE_CHECKING:
    from kabench.comparison.record import Comparison


def compared(trials: int = 12, slower: float = 950, *agents: str) -> Comparison:
    names = agents or ("keepalive", "plain")
    rates = dict.fromkeys(names, slower) | {names[0]: 1000.0}
    return MadeUpMachine(noisy(rates)).compare(StopRule(trials=trials), *names)


def printed(comparison: Comparison) -> str:
    out = io.StringIO()
    Console(file=out, width=80, highlight=False).print(render_comparison(comparison))
    return out.getvalue()


def test_the_terminal_has_a_row_a_metric_and_a_sentence() -> None:
    text = printed(compared())
    (rate,) = [line for line in text.splitlines() if line.startswith("Transaction rate")]
    assert rate.split()[2:4] == ["1000.00/s", "950.00/s"] or rate.split()[2].endswith("/s")
    assert rate.rstrip().endswith("worse")
    assert "plain is better than keepalive in cpu_us_per_transaction; is worse" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("ratio", [0.0001, 0.95, 30.0])
def test_the_terminal_has_80_columns_whatever_the_ratio(ratio: float) -> None:
    text = printed(compared(12, 1000 * ratio))
    assert max(map(len, text.splitlines())) <= 80
    assert "no difference found" in text
    assert "…" not in text


def test_several_agents_have_a_table_each() -> None:
    text = printed(compared(12, 950, "a", "b", "c"))
    assert "b against a" in text
    assert "c against a" in text


def test_cannot_tell_says_how_many_trials_it_takes() -> None:
    comparison = compared(4)
    assert "Cannot tell: a verdict needs at least 8 trials of each agent." in explanations(comparison)
    (table,) = verdict_tables(comparison)
    assert conclusion(table).startswith("plain: cannot tell about transaction_rate, p50")


def test_an_interval_beside_1_that_is_no_difference_is_explained() -> None:
    comparison = compared(8)
    changed = [
        [f.__class__(**{n: getattr(f, n) for n in f.__slots__} | {"verdict": "no difference found"}) for f in m.agents]
        for m in comparison.metrics
    ]
    for figures, agents in zip(comparison.metrics, changed, strict=True):
        figures.agents[1:] = agents[1:]
    assert any(said.startswith("The interval of transaction_rate, p50") for said in explanations(comparison))


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(None, "-"), (1.0, "1.000"), (0.95123, "0.951"), (0.00083, "0.00083"), (1234.5, "1234.5"), (float("inf"), "inf")],
)
def test_ratios_have_as_many_digits_as_say_something(ratio: float | None, text: str) -> None:
    assert AgentFigure(agent="a", median=1.0, ratio=ratio).ratio_text == text


def test_markdown_has_a_table_and_the_thresholds() -> None:
    comparison = compared()
    outcomes = outcomes_of_comparison([parse_threshold("transaction_rate.ratio<0.99")], [], comparison)
    lines = markdown_of_comparison(comparison, outcomes).splitlines()
    assert "|  | keepalive | plain | ratio | 95 % interval | verdict |" in lines
    (rate,) = [line for line in lines if line.startswith("| transaction\\_rate ")]
    assert rate.count("|") == 7
    assert "🔴 worse" in rate
    assert any(
        line.startswith("- ❌ plain: the ratio of transaction\\_rate must not fall below 0.99: 0.9") for line in lines
    )


def test_markdown_shows_what_people_wrote_as_it_is() -> None:
    run = agent_run("a|b*c", errors={"x": 1})
    text = markdown_of_run(result_of([run], name="<script>alert(1)</script>"))
    assert "a\\|b\\*c" in text
    assert "<script>" not in text


def test_markdown_of_a_run_has_its_figures_beside_each_other() -> None:
    text = markdown_of_run(result_of([agent_run("keepalive", rate=1000), agent_run("plain", rate=900)]))
    assert "| Transaction rate | 1000.00/s | 900.00/s |" in text


def cases(document: str) -> dict[str, ET.Element]:
    return {f"{case.get('classname')} {case.get('name')}": case for case in ET.fromstring(document).iter("testcase")}


def test_junit_fails_where_a_threshold_is_broken_and_nowhere_else() -> None:
    outcomes = [
        Outcome("p99>5ms", "plain", "9.000 ms", BROKEN),
        Outcome("p50>5s", "plain", "1 s", WITHIN),
    ]
    found = cases(junit_of_comparison(compared(), outcomes))
    assert [name for name, case in found.items() if case.find("failure") is not None] == ["kabench.plain p99>5ms"]
    assert "kabench.plain against keepalive transaction_rate" in found
    failure = found["kabench.plain p99>5ms"].find("failure")
    assert failure is not None
    assert failure.get("message") == "p99>5ms: plain has 9.000 ms"


def test_junit_skips_what_cannot_be_told() -> None:
    found = cases(junit_of_comparison(compared(4)))
    skipped = found["kabench.plain against keepalive p99"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "it needs at least 8 trials"


def test_junit_has_an_error_where_it_could_not_be_finished() -> None:
    document = junit_of_run(result_of([agent_run()]), problem="worker-1 died \x1b[31m(SIGKILL)")
    found = cases(document)
    error = found["kabench finished"].find("error")
    assert error is not None
    assert error.get("message") == "worker-1 died ?[31m(SIGKILL)"
    assert "kabench.keepalive run" in found


def test_junit_of_a_run_with_strange_names_is_well_formed() -> None:
    found = cases(junit_of_run(result_of([agent_run('<&"\x00>')])))
    assert 'kabench.<&"?> run' in found
