"""The short form of `benchmarks/truth.py`: kabench's figures against what is known without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TRUTH = Path(__file__).parent.parent / "benchmarks" / "truth.py"


@pytest.mark.parametrize("check", ["stall", "delays", "rate", "counts", "resets"])
def test_what_kabench_reports_is_true(check: str) -> None:
    done = subprocess.run(
        [sys.executable, str(TRUTH), "--short", "--only", check], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "true" in done.stdout.splitlines()[-1]
