"""The short form of `benchmarks/truth.py`: kabench's figures against what is known without it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ATTEMPTS = 3
"""A figure that is wrong is wrong each time; on a machine that is busy with other things, another one is each time."""

TRUTH = Path(__file__).parent.parent / "benchmarks" / "truth.py"


@pytest.mark.parametrize("check", ["stall", "delays", "rate", "counts", "resets"])
def test_what_kabench_reports_is_true(check: str) -> None:
    said = ""
    was_true: dict[str, bool] = {}
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            [sys.executable, str(TRUTH), "--short", "--only", check], capture_output=True, text=True, timeout=120
        )
        said += done.stdout + done.stderr
        for what, verdict in re.findall(r"^(\S.*?)  .*  (true|NOT TRUE) *$", done.stdout, re.MULTILINE):
            was_true[what] = was_true.get(what, False) or verdict == "true"
        if was_true and all(was_true.values()):
            return
    pytest.fail(said)
