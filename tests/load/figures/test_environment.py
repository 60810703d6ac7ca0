from __future__ import annotations

import subprocess
import sys

from kabench.load.figures.environment import max_rss_mb

STARTER = """
import subprocess, sys
held = bytearray(b"x") * 200_000_000
print(subprocess.run([sys.executable, "-c", {child!r}], capture_output=True, text=True, check=True).stdout)
"""


def test_the_most_memory_is_this_process_s_own_and_not_that_of_the_one_that_started_it() -> None:
    child = "from kabench.load.figures.environment import max_rss_mb; print(max_rss_mb())"
    starter = STARTER.format(child=child)
    done = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, check=True)
    assert 5 < float(done.stdout) < 150


def test_memory_that_was_let_go_still_counts() -> None:
    before_mb = max_rss_mb()
    held = bytearray(b"x") * int((before_mb + 50) * 2**20)
    del held
    assert max_rss_mb() > before_mb + 40
