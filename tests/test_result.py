from __future__ import annotations

import errno
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import kabench
from kabench.cli.published import published_result
from kabench.histogram import LatencyStats
from kabench.result import (
    AgentRun,
    Environment,
    ResultError,
    RunResult,
    check_writable,
    completed,
    load_result,
    parse_result,
    save_result,
)

if TYPE_CHECKING:
    from pathlib import Path


def a_run(**given: Any) -> AgentRun:
    fields: dict[str, Any] = {
        "agent": "keepalive",
        "elapsed_s": 2.0,
        "transactions": 100,
        "successful_transactions": 98,
        "failed_transactions": 3,
        "socket_errors": 1,
        "availability_pct": 99.0099,
        "data_transferred_bytes": 2**20,
        "transaction_rate": 50.0,
        "throughput_mb_s": 0.5,
        "concurrency": 1.25,
        "response_time_s": LatencyStats(mean=0.025, min=0.001, max=0.1, p50=0.02, p99=0.09),
    }
    return completed(AgentRun(**(fields | given)))


def a_result(*runs: AgentRun, **given: Any) -> RunResult:
    fields: dict[str, Any] = {
        "id": "abc123",
        "name": "test",
        "kabench_version": "0.1.0",
        "started_at": "2026-01-02T03:04:05Z",
        "environment": Environment(
            python="3.11", implementation="CPython", event_loop="uvloop", platform="x", cpu_model="y", cpu_count=2
        ),
        "plan": {"concurrency": 60},
        "runs": list(runs) or [a_run()],
    }
    return RunResult(**(fields | given))


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    save_result(a_result(), path)
    assert load_result(path) == a_result()
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_the_record_has_the_design_s_names() -> None:
    record = json.loads(a_result().to_json())
    assert list(record) == [
        "schema",
        "id",
        "name",
        "kabench_version",
        "started_at",
        "environment",
        "plan",
        "runs",
    ]
    assert record["schema"] == "kabench/result/1"
    (run,) = record["runs"]
    assert {
        "agent", "elapsed_s", "interrupted", "stopped_by", "saturated", "failed_pct", "response_time_all_s",
        "successful_response_time_s", "data_wire_bytes", "unanswered", "targets", "transactions",
        "successful_transactions",
        "failed_transactions", "socket_errors", "retries", "not_started", "availability_pct", "data_transferred_bytes",
        "transaction_rate", "throughput_mb_s", "concurrency", "response_time_s", "service_time_s", "lag_s", "phases",
        "buckets", "hdr", "sockets", "status_codes", "errors", "series", "client",
    } == set(run)  # fmt: skip
    stats = {"mean", "stdev", "min", "max", "p50", "p75", "p90", "p95", "p99", "p99_9", "p99_99"}
    assert set(run["response_time_s"]) == set(run["phases"]["queue"]) == stats
    assert set(run["phases"]) == {"queue", "connect", "first_byte", "body", "total"}
    assert set(run["sockets"]) == {
        "created", "create_errors", "closed", "errors", "timeouts", "requests", "req_per_socket", "free", "active",
        "pending", "tls_handshakes", "tls_resumed", "stale", "closed_by",
    }  # fmt: skip
    assert set(run["client"]) == {"cpu_s", "cpu_us_per_transaction", "max_rss_mb", "workers"}


def test_names_that_are_not_known_are_ignored() -> None:
    record = json.loads(a_result().to_json())
    record["weather"] = "fine"
    record["runs"][0]["sockets"]["colour"] = {"a": [1]}
    assert parse_result(json.dumps(record).encode(), "here") == a_result()


def test_an_early_record_without_later_names_still_reads() -> None:
    record = json.loads(a_result().to_json())
    for name in ("hdr", "series", "phases", "client", "buckets"):
        del record["runs"][0][name]
    assert parse_result(json.dumps(record).encode(), "here").runs[0].transactions == 100


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"", "not a JSON document"),
        (b"hello", "not a JSON document"),
        (b"[1, 2]", "not a kabench/result/1 record"),
        (b'{"schema": "kabench/result/9"}', "kabench/result/9"),
        (b'{"schema": "kabench/result/1"}', "a broken record"),
        (a_result(a_run(status_codes={"two": 1})).to_json(), "'two' is not a status code"),
        (a_result(a_run(hdr={"total": "x"})).to_json(), "hdr.total: not an encoded HdrHistogram"),
        (a_result(runs=[]).to_json(), "it holds no run"),
        (a_result().to_json()[:-200], "not a JSON document, or cut off"),
        (
            a_result().to_json().replace(b'"transactions": 100', b'"transactions": ""'),
            r"\$\.runs\[0\]\.transactions",
        ),
    ],
)
def test_what_is_no_record_is_one_line(document: bytes, says: str) -> None:
    with pytest.raises(ResultError, match=says) as caught:
        parse_result(document, "here.json")
    assert str(caught.value).startswith("here.json: ")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    save_result(a_result(name="old"), path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match="No space left"):
        save_result(a_result(name="new"), path)
    assert load_result(path).name == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_record_goes_into_a_pipe_and_through_a_link(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        save_result(a_result(), pipe)
        assert reader.stdout is not None
        assert parse_result(reader.stdout.read(), "pipe") == a_result()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    save_result(a_result(), link)
    assert link.is_symlink()
    assert load_result(tmp_path / "target") == a_result()


def test_a_file_in_the_way_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match="no file can be written there"):
        check_writable(tmp_path / "file" / "results")
    check_writable(tmp_path / "new" / "results")
    assert list((tmp_path / "new" / "results").iterdir()) == []


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="No such file"):
        load_result(tmp_path / "none.json")


def test_the_published_benchmark_is_a_record_that_agrees_with_itself() -> None:
    published = published_result()
    assert published is not None
    keepalive, normal = published.runs
    assert (keepalive.sockets.created, keepalive.sockets.req_per_socket) == (50, 1200)
    assert (normal.sockets.created, normal.sockets.req_per_socket) == (53866, 1.56)
    assert sum(keepalive.buckets.values()) == sum(normal.buckets.values()) == 60000
    for run in published.runs:
        assert run.transactions / run.elapsed_s == pytest.approx(run.transaction_rate, rel=0.001)
        assert round((run.sockets.requests or 0) / (run.sockets.created or 1), 2) == run.sockets.req_per_socket


def test_the_python_api_is_public() -> None:
    assert kabench.load_result is load_result
    with pytest.raises(AttributeError, match="nothing"):
        _ = kabench.nothing
