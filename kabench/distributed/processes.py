"""Worker processes of this machine, for a distributed run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_END_PATIENCE_S = 5.0


def start_worker(host: str, port: int, patience_s: float, *, quiet: bool) -> subprocess.Popen[bytes]:
    """Start a worker that looks for its master for so long."""
    command = [sys.executable, "-P", "-m", "kabench.distributed.worker", host, str(port), f"{patience_s:g}"]
    return subprocess.Popen(
        [*command, *(["--quiet"] if quiet else [])],
        stdin=subprocess.PIPE,  # its end is the end of the worker, too
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the process that the user started
    )


def end_workers(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """See workers end whose master has, or is about to."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
