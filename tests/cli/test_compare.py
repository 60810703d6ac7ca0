"""compare, diff, thresholds and the files they write, as their users meet them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("scipy")

from kabench import load_comparison, load_result
from kabench.comparison.record import WORSE
from kabench.extras import install_command
from kabench.result import save_result
from tests.cli.test_command_line import QUICK, kabench
from tests.comparison.figures import agent_run, result_of
from tests.sockets import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from kabench.server import EmbeddedServer

SHORT = ("--requests", "20", "--concurrency", "6", "--max-sockets", "5", "--delay", "0", "--warmup", "0")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Six old records and six new ones, which are slower."""
    for side, rate in (("old", 1000.0), ("new", 900.0)):
        (tmp_path / side).mkdir()
        for number in range(6):
            made = result_of(
                [agent_run(rate=rate + number, p50_s=5 / rate, p99_s=10 / rate)],
                id=f"{side}{number}",
                started_at=f"2026-11-23T12:{number:02d}:00Z",
            )
            save_result(made, tmp_path / side / f"{number}.json")
    return tmp_path


def test_a_comparison_from_beginning_to_end(tmp_path: Path) -> None:
    done = kabench(
        "compare", "-a", "keepalive", "-a", "plain", *SHORT, "--trials", "8", "--json", "c.json", "--records", "trials",
        "--junit", "c.xml", "--markdown", "c.md", "--html", "c.html", "--fail-if", "plain:req_per_socket<2",
        "--fail-if", "req_per_socket.ratio<0.5", "--max-regression", "req_per_socket=50%", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    broken = [line for line in done.stderr.splitlines() if line.startswith("kabench: ")]
    assert broken == [
        "kabench: broken: plain: req_per_socket must not fall below 2: 1",
        "kabench: broken: plain: the ratio of req_per_socket must not fall below 0.5: 0.042",
        (
            "kabench: broken: --max-regression req_per_socket=50%: "
            "plain has req_per_socket 0.042 (0.042-0.042) times that of keepalive"
        ),
    ]
    assert "trial 8 of 8: " in done.stderr
    comparison = load_comparison(tmp_path / "c.json")
    assert comparison.verdict("req_per_socket") == WORSE
    ids = {run.id for trial in comparison.trials for run in trial.runs}
    assert {load_result(path).id for path in (tmp_path / "trials").iterdir()} == ids
    assert len(ids) == 16
    (saved,) = (tmp_path / "results").iterdir()
    assert load_comparison(saved) == comparison
    assert all((tmp_path / name).stat().st_size for name in ("c.xml", "c.md", "c.html"))
    again = kabench("report", "c.json", cwd=tmp_path)
    assert again.stdout.splitlines()[:3] == done.stdout.splitlines()[:3]


def test_without_a_stop_rule_trials_are_short_and_it_has_a_time_limit(tmp_path: Path) -> None:
    done = kabench(
        "compare",
        "-a",
        "keepalive",
        "-a",
        "keepalive",
        "-c",
        "4",
        "--max-time",
        "1s",
        "--json",
        "-",
        "--no-save",
        cwd=tmp_path,
    )
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert (document["plan"]["duration_s"], document["plan"]["warmup_s"]) == (2.0, 0.5)
    assert len(document["trials"]) == 1
    assert {f["verdict"] for m in document["metrics"] for f in m["agents"][1:]} == {"cannot tell"}
    assert "Cannot tell: a verdict needs at least" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare"], "give two or more agents, the first as the base"),
        (["compare", "-a", "keepalive"], "give two or more agents"),
        (["compare", "-a", "keepalive", "-a", "nothing"], "there is no agent 'nothing'"),
        (["compare", "-a", "keepalive", "-a", "plain", "--trials", "0"], "--trials"),
        (["compare", "-a", "keepalive", "-a", "plain", "--max-time", "soon"], "soon"),
        (["compare", "-a", "keepalive", "-a", "plain", "--max-time", "0"], "max_time: 0 is not above 0"),
        (["compare", "-a", "keepalive", "-a", "plain", "--margin", "2x"], "--margin '2x': not understood"),
        (["compare", "-a", "keepalive", "-a", "plain", "--fail-if", "p98>1s"], "did you mean p99?"),
        (["compare", "-a", "keepalive", "-a", "plain", "--fail-if", "httpx:p99>1s"], "there is no agent 'httpx'"),
        (["compare", "-a", "keepalive", "-a", "plain", "--max-regression", "5"], "write, for instance, '5%'"),
        (["compare", "-a", "keepalive", "-a", "plain", "--html", "/nowhere/r.html"], "there is no folder /nowhere"),
        (["compare", "-a", "keepalive", "-a", "plain", "--junit", "x", "--markdown", "./x"], "both would write x"),
        (["compare", "-a", "keepalive", "-a", "plain", "--records", "/dev/null"], "--records /dev/null"),
        (["compare", "-a", "keepalive", "-a", "plain", "--progress", "loud"], "there are auto, live, plain and none"),
        (["compare", "-a", "keepalive", "-a", "no.such.module:Client"], "no.such.module"),
        (["run", "--fail-if", "p99"], "not understood"),
        (["run", "--fail-if", "keepalive:p99.ratio>1"], "a ratio needs an agent other than the first"),
        (["diff", "nowhere.json", "nowhere.json"], "nowhere.json: No such file"),
        (["diff", ".", "."], "there is no kabench/result/1 record in this folder"),
    ],
)
def test_bad_input_is_exit_2_before_anything_is_sent(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = kabench(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not list(tmp_path.rglob("*.json"))


def test_a_missing_extra_is_exit_2_and_says_how_to_get_it(tmp_path: Path) -> None:
    hide = (
        "import sys; sys.modules['scipy'] = sys.modules['plotly'] = None; sys.argv[0] = 'kabench'; "
        "from kabench.cli import main; main()"
    )
    for arguments, extra in (
        (["compare", "-a", "keepalive", "-a", "plain"], "compare"),
        (["diff", "a", "b"], "compare"),
        (["run", "--html", "r.html"], "html"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", hide, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
        assert done.returncode == 2
        assert f": {install_command(extra)}\n" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_run_that_breaks_a_threshold_is_exit_1_and_is_saved(tmp_path: Path) -> None:
    done = kabench(
        "run", *QUICK, "-a", "keepalive", "--fail-if", "p50>0.000001", "--fail-if", "p50>1s", "-q", cwd=tmp_path
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("kabench: broken: keepalive: p50 must not exceed 0.001 ms: ")
    assert "passed  keepalive: p50 must not exceed 1 s: " in done.stdout
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_a_run_that_could_not_measure_is_exit_3_although_it_breaks_a_threshold(tmp_path: Path) -> None:
    done = kabench(
        "run",
        *QUICK,
        "-a",
        "keepalive",
        "--expect-status",
        "404",
        "--fail-if",
        "failed_transactions>0",
        "-q",
        cwd=tmp_path,
    )
    assert done.returncode == 3
    assert "kabench: broken: keepalive: failed_transactions must not exceed 0: 120" in done.stderr
    assert "not one successful transaction" in done.stderr


def test_a_run_writes_what_ci_reads(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    done = kabench(
        "run", *QUICK, "-q", "--junit", "r.xml", "--markdown", "r.md", "--html", "r.html", "--no-save", cwd=tmp_path,
        GITHUB_STEP_SUMMARY=str(summary),
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "r.md").read_text() in summary.read_text()
    assert '<testcase name="run" classname="kabench.keepalive"' in (tmp_path / "r.xml").read_text()
    assert "Response time by percentile" in (tmp_path / "r.html").read_text()


def test_what_nobody_can_read_any_more_costs_no_record(tmp_path: Path) -> None:
    script = f"{sys.executable} -m kabench compare -a keepalive -a plain {' '.join(SHORT)} --trials 1 --json c.json "
    for number, rest in enumerate(("--progress live 2>/dev/full", ">&- -q", ">/dev/full -q")):
        done = subprocess.run(["bash", "-c", script + rest], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == (3 if "/dev/full -q" in rest else 0), (rest, done.stderr)
        assert "Traceback" not in done.stderr
        assert len(load_comparison(tmp_path / "c.json").trials) == 1
        assert len(list((tmp_path / "results").iterdir())) == number + 1
        (tmp_path / "c.json").unlink()


def test_an_error_that_nobody_can_read_has_its_exit_code(tmp_path: Path) -> None:
    script = f"{sys.executable} -m kabench diff nowhere nowhere 2>/dev/full"
    assert subprocess.run(["bash", "-c", script], cwd=tmp_path, timeout=60).returncode == 2


def test_a_name_that_is_no_utf_8_is_shown_as_well_as_it_can_be(tmp_path: Path) -> None:
    command: list[str | bytes] = [
        sys.executable,
        "-m",
        "kabench",
        "run",
        *QUICK,
        "-a",
        "keepalive",
        "-q",
        "--name",
        b"a\xff",
    ]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).returncode == 0
    (saved,) = (tmp_path / "results").iterdir()
    assert load_result(saved).name == "a?"


def test_records_are_data_and_nothing_that_a_terminal_or_parser_obeys(records: Path) -> None:
    evil = "\x1b]0;pwn\x07[red]x[/b]"
    for side in ("old", "new"):
        document = json.loads((records / side / "0.json").read_text())
        document["runs"][0]["agent"] = evil
        document["plan"] |= {"warmup_s": evil, "workers": [evil], "rate": evil, "stages": [{"level": evil}]}
        document["started_at"] = evil
        (records / f"{side}.json").write_text(json.dumps(document))
    files = ("--junit", "d.xml", "--markdown", "d.md", "--json", "d.json")
    done = kabench("diff", "old.json", "new.json", "--fail-if", "p50>0", *files, cwd=records)
    assert done.returncode == 1
    shown = done.stdout + done.stderr + (records / "d.md").read_text() + (records / "d.xml").read_text()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    ET.parse(records / "d.xml")
    for name in ("old.json", "d.json"):
        again = kabench("report", name, "--html", "r.html", cwd=records)
        assert again.returncode == 0, again.stderr
        assert "\x1b" not in again.stdout


def test_a_summary_that_cannot_be_written_is_exit_3_and_the_record_is_there(tmp_path: Path) -> None:
    done = kabench("run", *QUICK, "-q", cwd=tmp_path, GITHUB_STEP_SUMMARY="/nowhere/summary.md")
    assert done.returncode == 3
    assert "$GITHUB_STEP_SUMMARY: /nowhere/summary.md: No such file" in done.stderr
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_ctrl_c_reports_the_trials_so_far(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kabench", "compare", "-a", "keepalive", "-a", "plain", *SHORT, "--trials", "999"]
    process = subprocess.Popen(
        [*command, "--json", "c.json"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("trial 1 of 999:")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted: the figures are those measured until then" in out
    comparison = load_comparison(tmp_path / "c.json")
    assert comparison.interrupted
    assert comparison.runs[0].transactions >= 120


def test_ctrl_c_in_the_first_trial_reports_what_there_is(tmp_path: Path, echo_server: EmbeddedServer) -> None:
    command = [sys.executable, "-m", "kabench", "compare", "-a", "keepalive", "-a", "plain", "--duration", "60s", "-q"]
    process = subprocess.Popen(
        [*command, "--warmup", "0", "--json", "c.json", "--no-save", echo_server.url],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: echo_server.counts().requests > 100)  # it is at work
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert load_comparison(tmp_path / "c.json").trials[0].runs[0].interrupted


def test_a_target_that_is_not_there_is_exit_3(tmp_path: Path) -> None:
    done = kabench(
        "compare", "-a", "keepalive", "-a", "plain", "http://127.0.0.1:9/", "--trials", "3", "-q", cwd=tmp_path
    )
    assert done.returncode == 3
    assert "cannot reach the target" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_scenario_can_be_compared_and_say_how(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'agent = ["keepalive", "plain"]\nrequests = 10\nconcurrency = 4\ndelay = "0"\ntrials = 2\nwarmup = "0"\n'
        'fail_if = ["availability<99"]\nmax_regression = ["req_per_socket=99%"]\n'
    )
    done = kabench("compare", "-f", "s.toml", "--json", "-", "--no-save", "-q", cwd=tmp_path)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["trials"]) == 2


def test_folders_of_records_are_compared(records: Path) -> None:
    done = kabench("diff", "old", "new", "--max-regression", "5%", "--json", "d.json", cwd=records)
    assert done.returncode == 1
    assert "broken: --max-regression 5%: new keepalive has transaction_rate 0.900" in done.stderr
    assert "new keepalive is worse than old keepalive in transaction_rate" in " ".join(done.stdout.split())
    assert load_comparison(records / "d.json").verdict("p99") == WORSE
    assert not (records / "results").exists()


def test_single_records_are_compared_and_more_can_be_named(records: Path) -> None:
    one = kabench("diff", "old/0.json", "new/0.json", cwd=records)
    assert one.returncode == 0
    assert "Cannot tell: a verdict needs at least 5 trials" in " ".join(one.stdout.split())
    old = [argument for number in range(1, 5) for argument in ("--old", f"old/{number}.json")]
    new = [argument for number in range(1, 5) for argument in ("--new", f"new/{number}.json")]
    assert "is worse than" in kabench("diff", "old/0.json", "new/0.json", *old, *new, cwd=records).stdout


def test_different_plans_are_exit_2_unless_forced(records: Path) -> None:
    document = json.loads((records / "new" / "0.json").read_text())
    document["plan"]["concurrency"] = 50
    (records / "other.json").write_text(json.dumps(document))
    done = kabench("diff", "old/0.json", "other.json", cwd=records)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "kabench: the plans differ: concurrency is 60 and 50; to compare them anyway, use --force\n"
    forced = kabench("diff", "old/0.json", "other.json", "--force", cwd=records)
    assert forced.returncode == 0
    assert "The plans differ: concurrency is 60 and 50" in forced.stdout


def test_broken_records_are_exit_2_and_one_line(records: Path) -> None:
    whole = (records / "new" / "0.json").read_bytes()
    (records / "cut.json").write_bytes(whole[: len(whole) // 2])
    for arguments in (("diff", "old/0.json", "cut.json"), ("report", "cut.json")):
        done = kabench(*arguments, cwd=records)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("kabench: cut.json: not a JSON document, or cut off")
        assert len(done.stderr.splitlines()) == 1


def test_a_record_becomes_files_again(records: Path) -> None:
    done = kabench("report", "old/0.json", "--html", "r.html", "--junit", "r.xml", "--markdown", "r.md", cwd=records)
    assert done.returncode == 0
    assert all((records / name).stat().st_size for name in ("r.html", "r.xml", "r.md"))
    several = kabench("report", "old/0.json", "old/1.json", "--html", "r.html", cwd=records)
    assert (several.returncode, "for one record at a time" in several.stderr) == (2, True)


def test_a_comparison_has_no_series(records: Path) -> None:
    assert kabench("diff", "old", "new", "--json", "d.json", cwd=records).returncode == 0
    done = kabench("report", "d.json", "--csv", "d.csv", cwd=records)
    assert done.returncode == 2
    assert "this is a comparison" in done.stderr
