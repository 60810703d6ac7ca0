"""locust, started as its users start it: in processes of its own, since importing it changes a whole process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kabench.result import RunResult, load_result
from tests.sockets import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "scenarios"

TIMEOUT_S = 60.0

needs_locust = pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")

LOCUST = [sys.executable, "-W", "ignore", "-m", "locust"]
KABENCH = [sys.executable, "-m", "kabench"]


def free_port() -> int:
    """A port that nobody listens at, as far as one can know."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment() -> dict[str, str]:
    """That of the tests, without what would keep a process from finding kabench or printing whole lines."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


class Process:
    """A process whose output goes to files."""

    def __init__(self, command: list[str], folder: Path, name: str) -> None:
        self.name = name
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment()
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has said something."""
        wait_until(lambda: text in self.out + self.err or self.process.poll() is not None)
        assert text in self.out + self.err, self.out + self.err

    def end(self) -> int:
        """Wait until it ends; its exit code."""
        return self.process.wait(TIMEOUT_S)


class Locusts:
    """Starts processes in a folder, and ends those that are left over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[Process] = []

    def start(self, command: list[str], name: str | None = None) -> Process:
        process = Process(command, self.folder, name or f"process-{len(self._processes)}")
        self._processes.append(process)
        return process

    def locust(self, file: Path, *options: str) -> Process:
        return self.start([*LOCUST, "-f", str(file), *options])

    def kabench(self, *arguments: str) -> Process:
        return self.start([*KABENCH, *arguments])

    def file(self, text: str, name: str = "locustfile.py") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def record(self) -> RunResult:
        """The record that was saved."""
        (path,) = (self.folder / "results").glob("*.json")
        return load_result(path)

    def end(self) -> None:
        for each in self._processes:
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()
            if each.process.stdin is not None:
                each.process.stdin.close()
            sys.stderr.write(f"== {each.name}, {each.process.returncode}\n{each.out}{each.err}")  # shown of what failed


@contextlib.contextmanager
def locusts_in(folder: Path) -> Iterator[Locusts]:
    started = Locusts(folder)
    try:
        yield started
    finally:
        started.end()
