"""The short form of `benchmarks/soak.py`: agents and engine against servers with every fault, which are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.long
def test_nothing_is_lost_left_over_or_unexplained_in_a_minute_of_every_fault() -> None:
    load = ("--users", "10", "--delay-ms", "60")  # so that other tests have some of the machine
    done = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "60", "--kill-every", "15", *load, "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, nothing left over, nothing unexplained" in done.stdout
