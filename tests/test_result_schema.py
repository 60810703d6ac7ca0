"""The JSON Schema in results/ is the one of the code, and real records are valid by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kabench import LoadPlan, compare, load_comparison, run
from kabench.agent import AgentOptions
from kabench.comparison.record import comparison_schema
from kabench.result import load_result, result_schema

RESULTS = Path(__file__).parent.parent / "results"
SCHEMA_FILE = RESULTS / "kabench-result-1.schema.json"


def valid(record: Any) -> bool:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))
    return not list(validator.iter_errors(record))


def test_the_schema_is_the_one_of_the_code() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA_FILE.read_bytes()))
    assert SCHEMA_FILE.read_bytes() == result_schema(), "write result_schema() into it anew"


@pytest.mark.parametrize(
    "given",
    [
        {"requests": 5, "concurrency": 3},
        {"rate": 200.0, "duration_s": 1.2, "warmup_s": 0.2, "workers": 2},
    ],
)
def test_records_of_real_runs_are_valid(given: dict[str, Any]) -> None:
    result = run(LoadPlan(delay_s=0.0, agent_options=AgentOptions(max_sockets=3), **given))
    record = json.loads(result.to_json())
    assert valid(record)
    assert record["runs"][0]["hdr"]["total"]


def test_records_of_comparisons_have_a_schema_too() -> None:
    pytest.importorskip("scipy")
    file = RESULTS / "kabench-comparison-1.schema.json"
    assert file.read_bytes() == comparison_schema(), "write comparison_schema() into it anew"
    validator = jsonschema.Draft202012Validator(json.loads(file.read_bytes()))
    made = compare(LoadPlan(requests=5, concurrency=3, delay_s=0.0), ["keepalive", "plain"], trials=2)
    record = json.loads(made.to_json())
    assert not list(validator.iter_errors(record))
    assert list(validator.iter_errors(record | {"trials": None}))


def test_the_samples_can_be_read() -> None:
    assert [run.agent for run in load_result(RESULTS / "published-benchmark.json").runs] == ["keepalive", "plain"]
    assert load_comparison(RESULTS / "comparison.json").verdict("req_per_socket", "keepalive") == "better"


def test_the_published_record_is_valid() -> None:
    assert valid(json.loads(load_result(RESULTS / "agentkeepalive-published.json").to_json()))


@pytest.mark.parametrize(
    "broken",
    [
        {"schema": "kabench/result/2"},
        {"runs": None},
        {"environment": {}},
        {"started_at": 5},
    ],
)
def test_what_is_no_record_is_not_valid(broken: dict[str, Any]) -> None:
    record = json.loads((RESULTS / "agentkeepalive-published.json").read_bytes())
    assert valid(record)
    assert not valid(record | broken)


def test_names_that_are_not_known_are_no_fault() -> None:
    record = json.loads((RESULTS / "agentkeepalive-published.json").read_bytes())
    record["runs"][0]["from_the_future"] = 1
    assert valid(record)
