"""Child processes of kabench: its server and its workers. Each ends when its standard input does."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess

from kabench.system.streams import STANDARD_ERROR, is_open

_END_TIMEOUT_S = 5.0


def start_child(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process that is controlled over its standard streams."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=error_stream(),
        start_new_session=True,  # Ctrl-C is for the process that the user started
    )


def error_stream() -> int | None:
    """Return what a child gets as standard error: this process's, or the null device if it is closed."""
    return None if is_open(STANDARD_ERROR) else subprocess.DEVNULL


def write_line(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Write to a process's standard input, also in a signal handler or under gevent. If it has ended, do nothing."""
    if process.stdin is None:
        return
    with contextlib.suppress(BrokenPipeError, ValueError):
        number = process.stdin.fileno()
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(number, rest) :]
            except BlockingIOError:  # gevent's pipes do not wait; its select lets others go on meanwhile
                select.select([], [number], [])


def end_child(process: subprocess.Popen[bytes]) -> None:
    """Close a process's standard input and wait until it ends; kill it after 5 s. Twice is fine."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it may have ended by itself
            process.stdin.close()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ending(process: subprocess.Popen[bytes]) -> str:
    """Return how a process has ended, in words."""
    code = process.poll()
    if code is None:
        return "still running"
    if code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
