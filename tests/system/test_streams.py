"""Standard streams that were closed before a process began."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")

TELLS = """
import os, subprocess, sys
from kabench.system.streams import fill_closed_streams, was_closed
fill_closed_streams()
file = open(sys.argv[1], "w")
sys.stderr.write("error"); sys.stderr.flush()
sys.stdout.write("output"); sys.stdout.flush()
child = subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin.read() == '', sys.stderr is not None)"],
                       stdout=subprocess.PIPE, text=True)
print([was_closed(number) for number in range(3)], child.stdout.strip(), file=file)
"""


@pytest.mark.parametrize(
    ("redirection", "closed"),
    [
        ("</dev/null 2>&-", [False, False, True]),
        ("</dev/null >&-", [False, True, False]),
        ("<&-", [True, False, False]),
        ("<&- >&- 2>&-", [True, True, True]),
        ("</dev/null", [False, False, False]),
    ],
)
def test_what_is_meant_for_a_closed_stream_goes_nowhere_for_children_too(
    redirection: str, closed: list[bool], tmp_path: Path
) -> None:
    (tmp_path / "tells.py").write_text(TELLS)
    shell = f"{sys.executable} tells.py told {redirection}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "" if closed[1] else "output")
    assert done.stderr == ("" if closed[2] else "error")
    assert (tmp_path / "told").read_text() == f"{closed} True True\n"
