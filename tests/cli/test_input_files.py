"""Files and standard input that a command reads: byte order marks, other encodings, `-`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kabench.cli import main
from kabench.comparison.saved import diff
from kabench.result import load_result, save_result
from tests.cli.test_command_line import kabench
from tests.test_result import a_result, a_run

if TYPE_CHECKING:
    from pathlib import Path

    from kabench.server import EmbeddedServer

FEW = ("--agent", "keepalive", "--total", "4", "--concurrency", "1", "--no-save", "--quiet", "--json", "r.json")


def with_input(given: bytes, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the command with this on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "kabench", *arguments],
        input=given,
        capture_output=True,
        cwd=cwd,
        timeout=60,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )


def plan_of(folder: Path) -> dict[str, Any]:
    plan: dict[str, Any] = load_result(folder / "r.json").plan
    return plan


# -- byte order marks


def a_text(kind: str, url: str) -> tuple[str, ...]:
    """The options and the text of a file of each kind."""
    return {
        "scenario": ("--scenario", f'url = "{url}"\n'),
        "url_file": ("--url-file", f"{url}\n"),
        "request_file": ("--request-file", f'{{"url": "{url}", "body": {{}}}}\n'),
        "data_lines": (url, "--data-lines", "one\ntwo\n"),
    }[kind]


@pytest.mark.parametrize("kind", ["scenario", "url_file", "request_file", "data_lines"])
def test_a_text_may_begin_with_a_byte_order_mark(kind: str, echo_server: EmbeddedServer, tmp_path: Path) -> None:
    *options, text = a_text(kind, echo_server.url)
    (tmp_path / "file").write_text(text, "utf-8-sig")
    done = kabench("run", *options, "file", *FEW, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    plan = plan_of(tmp_path)
    if kind == "data_lines":
        assert plan["data_lines"] == ["one", "two"]
    else:
        assert [target["url"] for target in plan["targets"] or [plan]] == [echo_server.url]


@pytest.mark.parametrize("kind", ["scenario", "url_file", "request_file", "data_lines"])
def test_a_text_in_utf_16_is_refused_in_a_plain_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *options, text = a_text(kind, "http://127.0.0.1:1/")
    (tmp_path / "file").write_text(text, "utf-16")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kabench", "run", *options, "file", "--no-save"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"kabench: {options[-1]} file: this is UTF-16; save it as UTF-8\n"


def test_a_body_is_sent_byte_for_byte(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"\xef\xbb\xbf{}")
    before = echo_server.counts().request_body_bytes
    assert kabench("run", echo_server.url, "--data", "@body", *FEW, cwd=tmp_path).returncode == 0
    assert echo_server.counts().request_body_bytes - before == 4 * 5


def test_records_may_begin_with_a_byte_order_mark_and_are_refused_in_utf_16(tmp_path: Path) -> None:
    record = a_result(a_run()).to_json().decode()
    (tmp_path / "marked.json").write_text(record, "utf-8-sig")
    (tmp_path / "other.json").write_text(record, "utf-16")
    assert kabench("report", "marked.json", cwd=tmp_path).returncode == 0
    done = kabench("report", "other.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "kabench: other.json: this is UTF-16; save it as UTF-8\n")


def test_a_line_of_requests_ends_where_its_file_says_and_nowhere_else(
    echo_server: EmbeddedServer, tmp_path: Path
) -> None:
    line = f'{{"url": "{echo_server.url}", "body": "one\u2028two\x85"}}'
    (tmp_path / "requests.jsonl").write_bytes(f"{line}\r\n{line}".encode())
    assert kabench("run", "--request-file", "requests.jsonl", *FEW, cwd=tmp_path).returncode == 0
    assert [target["body"] for target in plan_of(tmp_path)["targets"]] == ["one\u2028two\x85"] * 2


# -- standard input


def test_a_body_comes_from_standard_input(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    done = with_input(b"from a pipe", "run", echo_server.url, "--data", "@-", *FEW, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    plan = plan_of(tmp_path)
    assert (plan["method"], plan["data"]) == ("POST", "from a pipe")


@pytest.mark.parametrize("kind", ["scenario", "url_file", "request_file", "data_lines"])
def test_a_text_comes_from_standard_input(kind: str, echo_server: EmbeddedServer, tmp_path: Path) -> None:
    *options, text = a_text(kind, echo_server.url)
    done = with_input(text.encode("utf-8-sig"), "run", *options, "-", *FEW, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_scenario_can_say_that_a_body_comes_from_standard_input(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "load.toml").write_text(f'url = "{echo_server.url}"\ndata = "@-"\n')
    assert with_input(b"piped", "run", "-f", "scenarios/load.toml", *FEW, cwd=tmp_path).returncode == 0
    assert plan_of(tmp_path)["data"] == "piped"


def test_a_record_is_reported_from_standard_input(tmp_path: Path) -> None:
    record = a_result(a_run()).to_json()
    done = with_input(record, "report", "-", "--csv", "series.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Transactions:" in done.stdout
    assert (tmp_path / "series.csv").exists()
    broken = with_input(b"{", "report", "-", cwd=tmp_path)
    assert broken.returncode == 2
    assert broken.stderr.startswith(b"kabench: standard input: not a JSON document")


def test_one_side_of_a_diff_may_be_standard_input(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    record = a_result(a_run())
    save_result(record, tmp_path / "old.json")
    done = with_input(record.to_json(), "diff", "old.json", "-", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert diff([record], [record]).agents[0].encode() in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "-", "-"], "FILE and FILE"),
        (["diff", "-", "-"], "OLD and NEW"),
        (["diff", "-", "old.json", "--old", "-"], "OLD and OLD"),
        (["run", "--url-file", "-", "--data", "@-"], "--url-file and --data"),
        (["run", "http://127.0.0.1:1/", "--scenario", "-", "--data-lines", "-"], "--scenario and --data-lines"),
    ],
)
def test_standard_input_is_read_only_once(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = with_input(b"", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.decode() == f"kabench: {says}: only one of them can be standard input\n"


def test_a_closed_standard_input_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m kabench report - <&-"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "kabench: standard input is closed; name a file in place of -\n")
