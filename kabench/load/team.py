"""`Crew`: the workers of one agent's part of a run, told when to go, heard, and seen to their end.

A `Team` is worker processes of this machine.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import msgspec

from kabench.load.messages import STOP, Go, Message, Task, decode, encode
from kabench.result import WorkerRecord
from kabench.server.child import end_child, start_child, write_line

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

LOOK_AROUND_EVERY_S = 0.1
_PATIENCE_S = 30.0
_PATIENCE_AFTER_STOP_S = 5.0
"""How long a worker may say nothing: it says something ten times a second, if its client lets it."""

WORKER_COMMAND = [sys.executable, "-P", "-m", "kabench.load"]

LEAD_S = 0.02
"""Between the word to go and the first request: all workers have heard it by then."""


class Crew(Protocol):
    """Workers, one a task, wherever they are."""

    @property
    def members(self) -> Sequence[WorkerRecord]:
        """Who they are."""

    @property
    def goes_on(self) -> bool:
        """Whether the others go on when one is lost."""

    def keep_apart_from(self, server: subprocess.Popen[bytes]) -> None:
        """See to it that a server on this machine has a core of its own, where there are enough."""

    def go(self) -> None:
        """Have all begin at the same time."""

    def messages(self) -> Iterator[tuple[int, Message | None] | None]:
        """What each says, with its index, to the end of all of them, which is a None each.

        In between there is None, as a chance to look after other things.
        """

    def stop(self) -> None:
        """Have them stop and say what they have."""

    def ending_of(self, index: int) -> str:
        """How a worker has ended."""

    def end(self) -> None:
        """See them end."""


class ListeningCrew(ABC):
    """What all crews have in common: whoever says nothing for too long is given up.

    `heard` is what was said, by the index of who said it; None is his end.
    """

    goes_on = False

    def __init__(self, members: Sequence[WorkerRecord]) -> None:
        self.members = members
        self.heard: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
        self._is_stopped = False
        self._stopped_at = 0.0
        self._unresponsive: set[int] = set()

    def messages(self) -> Iterator[tuple[int, Message | None] | None]:
        """What each says; see `Crew`."""
        silent_since = dict.fromkeys(range(len(self.members)), monotonic())
        while silent_since:
            try:
                index, message = self.heard.get(timeout=LOOK_AROUND_EVERY_S)
            except queue.Empty:
                self._give_the_silent_up(silent_since)
                yield None
                continue
            if index not in silent_since:
                continue  # he was given up
            if message is None:
                del silent_since[index]
            else:
                silent_since[index] = monotonic()
            yield index, message

    def _give_the_silent_up(self, silent_since: dict[int, float]) -> None:
        """Give workers up that have said nothing for longer than any worker is silent."""
        for index, since in silent_since.items():
            if monotonic() - max(since, self._stopped_at) > self._patience_s:
                self._unresponsive.add(index)
                self._give_up(index)

    @property
    def _patience_s(self) -> float:
        return _PATIENCE_AFTER_STOP_S if self._is_stopped else _PATIENCE_S

    def stop(self) -> None:
        """Have them stop and say what they have."""
        if not self._is_stopped:
            self._is_stopped = True
            self._stopped_at = monotonic()
            self._tell_to_stop()

    def ending_of(self, index: int) -> str:
        """How a worker has ended."""
        if index in self._unresponsive:
            return f"it did not answer for {self._patience_s:g} s"
        return self._ending_of(index)

    @abstractmethod
    def _tell_to_stop(self) -> None:
        """Tell all."""

    @abstractmethod
    def _give_up(self, index: int) -> None:
        """End a worker who does not answer; his end is then heard."""

    @abstractmethod
    def _ending_of(self, index: int) -> str:
        """How a worker has ended, by himself."""


class Team(ListeningCrew):
    """Workers who are processes of this machine."""

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
        """Their processes."""
        return [worker.process for worker in self._workers]

    def keep_apart_from(self, server: subprocess.Popen[bytes]) -> None:
        """Give the server a core of its own, where there are enough."""
        separate(server, self.processes)

    def go(self) -> None:
        """Have all begin at the same time."""
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
        """See their processes end."""
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
        """Say a line to it."""
        write_line(self.process, line)

    def _listen(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                try:
                    self._heard.put((self._index, decode(line)))
                except msgspec.DecodeError:
                    break  # cut off in the middle: it is dying
        self._heard.put((self._index, None))

    def close(self) -> None:
        """End its standard input, which ends it."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def end(self) -> None:
        """See it end."""
        end_child(self.process)
        self._listener.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


def ending(process: subprocess.Popen[bytes]) -> str:
    """How a process has ended."""
    code = process.poll()
    if code is None:
        return "still running"
    if code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def separate(server: subprocess.Popen[bytes], workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Give the server the last core and the workers the others, where there are enough and the system lets one: they
    wake each other all the time, and a scheduler that puts both on one core makes them take turns.
    """
    if sys.platform != "linux":
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(workers) < len(cores):
        for process, on in ((server, cores[-1:]), *((worker, cores[:-1]) for worker in workers)):
            with contextlib.suppress(OSError):  # not allowed, or it has ended; the load does not depend on it
                os.sched_setaffinity(process.pid, on)


def usable_workers(at_most: int, *, with_server: bool) -> int:
    """As many workers as this machine has cores for, one left to a server on it; `at_most` can share the load."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores - with_server, at_most))
