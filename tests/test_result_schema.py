"""The JSON Schema in results/ is the one of the code, and real records are valid by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from kabench import LoadPlan, compare, load_comparison, run
from kabench.agent import AgentOptions
from kabench.comparison.record import comparison_schema
from kabench.result import load_result, result_schema

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent.parent / "results"
SCHEMA_FILE = RESULTS / "kabench-result-1.schema.json"


def valid(record: Any) -> bool:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))
    return not list(validator.iter_errors(record))


_WITHOUT_MEANING = {"default", "title", "description", "$comment", "examples", "deprecated"}
"""Keywords of a schema by which nothing is valid or not (draft 2020-12, validation, section 9)."""


def meaning(schema: Any, definitions: Any = None) -> Any:
    """A schema as it validates, whichever version of msgspec has written it: no annotations, references followed,
    alternatives and required names in any order."""
    if isinstance(schema, list):
        return [meaning(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    definitions = schema.get("$defs", definitions)
    if "$ref" in schema:
        return meaning(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "properties":
            found[keyword] = {name: meaning(part, definitions) for name, part in value.items()}
        elif keyword in ("anyOf", "required", "enum"):
            found[keyword] = sorted((meaning(part, definitions) for part in value), key=json.dumps)
        elif keyword not in (_WITHOUT_MEANING | {"$defs"}):
            found[keyword] = meaning(value, definitions)
    return found


@pytest.mark.parametrize(
    ("name", "made"), [("kabench-result-1", result_schema), ("kabench-comparison-1", comparison_schema)]
)
def test_the_schema_means_what_the_code_says(name: str, made: Callable[[], bytes]) -> None:
    file = json.loads((RESULTS / f"{name}.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(file)
    assert meaning(file) == meaning(json.loads(made())), f"write {made.__name__}() into it anew"
    of_another = json.loads(made())
    next(iter(of_another["$defs"].values()))["required"].pop()
    assert meaning(file) != meaning(of_another)


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
