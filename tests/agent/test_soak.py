"""The short form of `benchmarks/soak.py`: both agents against a server that misbehaves and restarts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_mixed_requests_against_a_misbehaving_server_leave_nothing_over() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "6", "--users", "20", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, nothing left over" in done.stdout
    answered = next(line for line in done.stdout.splitlines() if line.startswith("answered"))
    assert all(int(count) > 100 for count in answered.split()[1:])
