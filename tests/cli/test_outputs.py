"""Files for other tools: the series as CSV, the percentiles as HdrHistogram has them."""

from __future__ import annotations

import csv
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kabench.cli.outputs import Outputs, hgrm_paths
from kabench.cli.reports import Paths, report_of_run
from kabench.histogram import Distribution
from kabench.report.series import percentile_text, series_csv
from kabench.result import SeriesPoint, load_result
from tests.cli.test_command_line import kabench
from tests.test_result import a_result, a_run

RUN = ("--delay", "1ms", "--max-sockets", "5", "--concurrency", "5", "--no-save", "--quiet", "--json", "r.json")


def percentiles_in(path: Path) -> list[tuple[float, float, int]]:
    """The rows of an .hgrm file: milliseconds, percentile from 0 to 1, how many are not above."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    assert rows[0][:3] == ["Value", "Percentile", "TotalCount"]
    return [(float(row[0]), float(row[1]), int(row[2])) for row in rows[1:] if not row[0].startswith("#")]


def test_a_run_writes_its_series_and_percentiles(tmp_path: Path) -> None:
    duration = ("--duration", "1.2s", "--csv", "s.csv", "--hgrm", "p.hgrm")
    done = kabench("run", *RUN, *duration, "--agent", "keepalive", "--agent", "plain", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    runs = load_result(tmp_path / "r.json").runs
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["agent", *(field.name for field in dataclasses.fields(SeriesPoint))]
    for run in runs:
        own = [row for row in rows if row["agent"] == run.agent]
        assert [float(row["t_s"]) for row in own] == [point.t_s for point in run.series]
        assert sum(int(row["transactions"]) for row in own) == run.transactions
        assert [float(row["p99_s"]) for row in own] == [point.p99_s for point in run.series]
        percentiles = percentiles_in(tmp_path / f"p-{run.agent}.hgrm")
        assert percentiles[-1][2] == run.transactions
        assert percentiles[-1][1] == 1.0
        assert run.response_time_s.max is not None
        assert percentiles[-1][0] == pytest.approx(run.response_time_s.max * 1000, rel=0.001)
    assert not (tmp_path / "p.hgrm").exists()


def test_one_agent_has_the_file_that_was_named(tmp_path: Path) -> None:
    done = kabench("run", *RUN, "--total", "50", "--hgrm", "p.hgrm", "--agent", "keepalive", cwd=tmp_path)
    assert done.returncode == 0
    assert percentiles_in(tmp_path / "p.hgrm")[-1][2] == 50


def test_percentiles_are_milliseconds_of_the_histogram() -> None:
    times = Distribution()
    times.add((value * 1000, 1) for value in range(1, 1001))
    text = percentile_text(a_run(hdr={"total": times.encoded()}))
    rows = [[float(cell) for cell in line.split()] for line in text.splitlines()[1:] if line.strip()[:1].isdigit()]
    for value_ms, percentile, count, *_ in rows:
        assert value_ms == pytest.approx(count, rel=0.001)
        assert count >= 1000 * percentile - 1e-6
    assert rows[-1][1:] == [1.0, 1000.0]
    assert percentile_text(a_run()) == ""


def test_what_stands_below_the_percentiles_is_milliseconds_too() -> None:
    times = Distribution()
    times.add((value * 1000, 1) for value in range(1, 1001))
    text = percentile_text(a_run(hdr={"total": times.encoded()}))
    mean, deviation = (float(found) for found in re.findall(r"(?:Mean|StdDeviation) += +([0-9.]+)", text))
    assert mean == pytest.approx(500.5, rel=0.001)
    assert deviation == pytest.approx(288.7, rel=0.001)


def test_the_series_of_all_agents_is_one_table() -> None:
    point = SeriesPoint(t_s=1.0, transactions=5, socket_errors=1, p50_s=None, p99_s=0.5, created=3)
    result = a_result(a_run(agent="a,b", series=[point]), a_run(agent='"c"', series=[point, point]))
    rows = list(csv.reader(series_csv(result).splitlines()))
    assert [row[0] for row in rows] == ["agent", "a,b", '"c"', '"c"']
    assert rows[1][1:7] == ["1.0", "5", "", "1", "", "0.5"]


def test_names_of_percentile_files() -> None:
    path = Path("out/p.hgrm")
    assert hgrm_paths(None, ["a"]) == []
    assert hgrm_paths(path, ["a"]) == [path]
    assert hgrm_paths(path, ["a", "m.n:F", "a"]) == [
        Path("out/p-a-1.hgrm"),
        Path("out/p-m.n-F.hgrm"),
        Path("out/p-a-2.hgrm"),
    ]


def test_percentile_files_have_the_names_that_were_promised_although_the_second_agent_never_ran(tmp_path: Path) -> None:
    times = Distribution()
    times.add([(1000, 5)])
    result = a_result(a_run(agent="keepalive", hdr={"total": times.encoded()}))
    paths = Paths(hgrm=hgrm_paths(tmp_path / "p.hgrm", ["keepalive", "plain"]))
    Outputs(paths).write(result, lambda: report_of_run(result, paths, ()))
    assert [path.name for path in tmp_path.iterdir()] == ["p-keepalive.hgrm"]


def test_a_full_disk_behind_standard_output_is_said_and_the_record_is_kept(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    command = [sys.executable, "-m", "kabench", "run", "--total", "20", "-a", "keepalive", "--quiet"]
    with full.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_two_outputs_do_not_share_a_file(tmp_path: Path) -> None:
    done = kabench("run", "--json", "same", "--csv", "./same", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "kabench: --json and --csv: both would write same\n"


def test_a_stranger_s_folder_does_not_hide_python_s_own_modules(tmp_path: Path) -> None:
    for name in ("queue", "hdrh", "msgspec"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not that one')")
    script = Path(sys.executable).parent / "kabench"
    done = subprocess.run(
        [str(script), "run", "--total", "20", "-a", "keepalive", "--quiet", "--no-save"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
