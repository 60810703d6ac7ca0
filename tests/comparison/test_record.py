"""The record of a comparison, and runs added up."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("scipy")

from kabench import load_comparison
from kabench.comparison.merged import merged_runs
from kabench.comparison.record import SCHEMA, Comparison, parse_comparison
from kabench.comparison.trials import StopRule
from kabench.histogram import Distribution, decoded_cells
from kabench.result import AgentRun, ResultError, save_result
from tests.comparison.figures import agent_run
from tests.comparison.test_trials import MadeUpMachine, noisy

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return MadeUpMachine(noisy({"a": 1000, "b": 900})).compare(StopRule(trials=8), "a", "b")


def test_a_record_comes_back_as_it_was(comparison: Comparison, tmp_path: Path) -> None:
    save_result(comparison, tmp_path / "c.json")
    assert load_comparison(tmp_path / "c.json") == comparison


def test_names_of_a_future_version_are_ignored(comparison: Comparison) -> None:
    document = json.loads(comparison.to_json())
    document["verdict_of_the_judge"] = "guilty"
    document["metrics"][0]["agents"][0]["certainty"] = 0.99
    document["trials"][0]["weather"] = {"sky": "blue"}
    document["trials"][0]["runs"][0]["figures"]["p42"] = 42.0
    read = parse_comparison(json.dumps(document).encode(), "future.json")
    assert read.verdict("transaction_rate") == comparison.verdict("transaction_rate")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_record_is_one_line(comparison: Comparison, share: float) -> None:
    document = comparison.to_json()
    with pytest.raises(ResultError) as raised:
        parse_comparison(document[: int(share * len(document))], "c.json")
    assert str(raised.value).startswith("c.json: not a JSON document, or cut off")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda document: document.pop("trials"),
        lambda document: document.update(metrics=3),
        lambda document: document["metrics"][0]["agents"][1].update(verdict="superb"),
        lambda document: document["metrics"][0]["agents"][1].update(interval=[1.0]),
        lambda document: document["runs"][0].update(hdr={"total": "no histogram"}),
    ],
)
def test_a_broken_record_is_one_line(comparison: Comparison, break_it: Any) -> None:
    document = json.loads(comparison.to_json())
    break_it(document)
    with pytest.raises(ResultError, match=r"^c\.json: a broken record: "):
        parse_comparison(json.dumps(document).encode(), "c.json")


def test_another_kind_of_record_is_refused() -> None:
    with pytest.raises(ResultError, match=rf"not a {SCHEMA} record \(its schema is 'kabench/result/1'\)"):
        parse_comparison(b'{"schema": "kabench/result/1"}', "r.json")


def test_asking_for_what_is_not_there(comparison: Comparison) -> None:
    with pytest.raises(KeyError):
        comparison.verdict("p42")
    with pytest.raises(KeyError):
        comparison.verdict("p99", "c")
    with pytest.raises(KeyError, match="is a base"):
        comparison.verdict("p99", "a")


def run_of(values_us: list[int], **others: Any) -> AgentRun:
    distribution = Distribution()
    distribution.add((value, 1) for value in values_us)
    stats = distribution.stats()
    made = agent_run(rate=float(len(values_us)), hdr={"total": distribution.encoded()}, **others)
    return dataclasses.replace(made, response_time_s=stats)


def test_runs_are_added_up_and_not_averaged() -> None:
    first = run_of([100, 200, 300], buckets={"<10ms": 3}, errors={"timeout": 1}, status_codes={"200": 3})
    second = run_of([1000] * 7, buckets={"<10ms": 7}, errors={"timeout": 2}, status_codes={"200": 7}, elapsed_s=3.0)
    first = replace(first, concurrency=2.0, client=replace(first.client, max_rss_mb=50.0))
    second = replace(second, concurrency=6.0, client=replace(second.client, max_rss_mb=40.0))
    both = merged_runs("a", [first, second])
    assert both.concurrency == 5.0  # one second of 2 and three of 6
    assert both.client.max_rss_mb == 50.0
    whole = Distribution()
    whole.add([(100, 1), (200, 1), (300, 1), (1000, 7)])
    assert both.response_time_s.p50 == whole.stats().p50
    assert both.response_time_s.mean == pytest.approx(whole.stats().mean)
    assert both.response_time_s.stdev == pytest.approx(whole.stats().stdev)
    assert (both.response_time_s.min, both.response_time_s.max) == (0.0001, 0.001)
    assert list(decoded_cells(both.hdr["total"])) == list(decoded_cells(whole.encoded()))
    assert (both.transactions, both.elapsed_s, both.transaction_rate) == (10, 4.0, 2.5)
    assert (both.buckets, both.errors, both.status_codes) == ({"<10ms": 10}, {"timeout": 3}, {"200": 10})
    assert both.sockets.created == 20
    assert both.client.cpu_us_per_transaction == 0.0


def test_distributions_of_which_a_part_is_missing_are_left_out() -> None:
    first = run_of([100, 200])
    both = merged_runs("a", [first, replace(first, hdr={})])
    assert (both.transactions, both.response_time_s.p50, both.hdr) == (4, None, {})


def test_a_run_without_histograms_can_be_added() -> None:
    both = merged_runs("a", [agent_run(), agent_run()])
    assert both.hdr == {}
    assert both.response_time_s.p50 is None
