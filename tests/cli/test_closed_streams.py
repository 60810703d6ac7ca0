"""`kabench run` without standard streams measures all the same, and saves its record."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kabench.result import load_result

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")


def shell(rest: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -m kabench {rest}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_a_run_measures_and_saves_its_record(closed: str, tmp_path: Path) -> None:
    done = shell(f"run --total 20 --concurrency 2 --agent keepalive --delay 0 {closed}", tmp_path)
    assert done.returncode == 0
    assert ("Transactions:" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    (saved,) = (tmp_path / "results").iterdir()
    (run,) = load_result(saved).runs
    assert (run.transactions, run.interrupted) == (20, False)


def test_a_distributed_run_measures_without_standard_error(tmp_path: Path) -> None:
    if importlib.util.find_spec("locust") is None:  # not imported here: it would change the sockets of this process
        pytest.skip("locust is not installed")
    options = "--total 20 --concurrency 2 --agent keepalive --no-save --json r.json"
    done = shell(f"run --distributed --workers 2 {options} 2>&-", tmp_path)
    assert done.returncode == 0
    assert load_result(tmp_path / "r.json").runs[0].transactions == 20


@pytest.mark.parametrize("command", ["run --total 20 --no-save", "probe http://127.0.0.1:1/"])
def test_a_record_for_a_closed_standard_output_is_refused_before_anything_is_sent(command: str, tmp_path: Path) -> None:
    done = shell(f"{command} --json - >&-", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "kabench: --json -: standard output is closed; name a file\n"
