"""Worker processes on this machine, for a distributed run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from kabench.system.child import error_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

_END_PATIENCE_S = 5.0


def start_worker(host: str, port: int, patience_s: float, *, quiet: bool) -> subprocess.Popen[bytes]:
    """Start a worker that looks for its master for `patience_s` seconds."""
    command = [sys.executable, "-P", "-m", "kabench.distributed.worker", host, str(port), f"{patience_s:g}"]
    return subprocess.Popen(
        [*command, *(["--quiet"] if quiet else [])],
        stdin=subprocess.PIPE,  # the worker ends when its standard input does
        stdout=subprocess.DEVNULL,
        stderr=error_stream(),
        start_new_session=True,  # Ctrl-C is for the process that the user started
    )


def end_workers(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End workers whose master has ended, or is about to."""
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
