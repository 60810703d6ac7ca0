"""`LocalWorkers`: worker processes of this machine, one for each task, and the cores they run on.

What a worker does stands in `worker`; what it says, in `figures.messages`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from kabench.load.figures.messages import STOP, Go, Message, Task, decode, encode
from kabench.load.workers.workers import ListeningWorkers
from kabench.result import WorkerRecord
from kabench.system.child import end_child, ending, start_child, write_line

if TYPE_CHECKING:
    import queue
    import subprocess
    from collections.abc import Sequence

WORKER_COMMAND = [sys.executable, "-P", "-m", "kabench.load.workers"]

LEAD_S = 0.02
"""Seconds between `Go` and the first request: by then, all workers have heard it."""


class LocalWorkers(ListeningWorkers):
    """Workers that are processes of this machine."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        host = socket.gethostname()
        super().__init__(
            [WorkerRecord(name=f"worker-{number}", host=host, transactions=0) for number in range(1, len(tasks) + 1)]
        )
        self._workers: list[WorkerProcess] = []
        try:
            for index, task in enumerate(tasks):
                self._workers.append(WorkerProcess(index, task, self.heard))
        except BaseException:
            self.end()
            raise

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """The workers' processes."""
        return [worker.process for worker in self._workers]

    def keep_apart_from(self, server: subprocess.Popen[bytes]) -> None:
        """Give the server a core of its own, if there are enough."""
        separate(server, self.processes)

    def go(self) -> None:
        """Have all workers begin at the same time."""
        at = monotonic() + LEAD_S
        for worker in self._workers:
            worker.tell(encode(Go(at)))

    def _tell_to_stop(self) -> None:
        for worker in self._workers:
            worker.tell(STOP)

    def _give_up(self, index: int) -> None:
        self._workers[index].process.kill()

    def _ending_of(self, index: int) -> str:
        return ending(self._workers[index].process)

    def end(self) -> None:
        """End the processes, and wait until they have ended."""
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.end()


class WorkerProcess:
    """A worker's process. A thread reads what it says, so that a slow reader of progress does not slow the worker."""

    def __init__(self, index: int, task: Task, heard: queue.SimpleQueue[tuple[int, Message | None]]) -> None:
        self._index = index
        self._heard = heard
        self.process = start_child(WORKER_COMMAND)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.tell(encode(task))

    def tell(self, line: bytes) -> None:
        """Write a line to the worker."""
        write_line(self.process, line)

    def _listen(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                try:
                    self._heard.put((self._index, decode(line)))
                except msgspec.DecodeError:
                    break  # the line was cut off: the worker is dying
        self._heard.put((self._index, None))

    def close(self) -> None:
        """Close the worker's standard input, which ends it."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def end(self) -> None:
        """Wait until the process has ended."""
        end_child(self.process)
        self._listener.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


def separate(server: subprocess.Popen[bytes], workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Give the server the last core and the workers the others, if there are enough and the system allows it.

    They wake each other all the time; if the scheduler puts both on one core, they take turns.
    """
    if sys.platform != "linux":
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(workers) < len(cores):
        for process, on in ((server, cores[-1:]), *((worker, cores[:-1]) for worker in workers)):
            with contextlib.suppress(OSError):  # not allowed, or the process has ended; the load does without
                os.sched_setaffinity(process.pid, on)


def usable_workers(at_most: int, *, with_server: bool) -> int:
    """Return how many workers to use here: one a core, one core left to a server here, and no more than `at_most`."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores - with_server, at_most))
