"""`Workers`: the workers that carry a load out through one agent. They are told when to go or stop, heard, and ended.

Where they run is the subclasses' part. What all share is patience: a worker that is silent for too long is given up, so
every run ends.
"""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

    from kabench.load.figures.messages import Message
    from kabench.result import WorkerRecord

LOOK_AROUND_EVERY_S = 0.1
_PATIENCE_S = 30.0
_PATIENCE_AFTER_STOP_S = 5.0
"""How many seconds a worker may say nothing. It speaks ten times a second, if its client lets it."""


class Workers(Protocol):
    """Workers, one for each task, wherever they run."""

    @property
    def records(self) -> Sequence[WorkerRecord]:
        """Name and host of each."""

    @property
    def goes_on(self) -> bool:
        """Whether the others go on when one is lost."""

    def keep_apart_from(self, server: subprocess.Popen[bytes]) -> None:
        """Give a server on this machine a core of its own, if there are enough."""

    def go(self) -> None:
        """Have all workers begin at the same time."""

    def messages(self) -> Iterator[tuple[int, Message | None] | None]:
        """Yield what each worker says, with its index, until all have ended. A worker's end is a None with its index.

        In between, a None without an index gives the caller a chance to look after other things.
        """

    def stop(self) -> None:
        """Have all workers stop, and say what they have measured."""

    def ending_of(self, index: int) -> str:
        """Return how a worker has ended."""

    def end(self) -> None:
        """End the workers, and wait until they have ended."""


class ListeningWorkers(ABC):
    """Hears workers, and gives up those that say nothing for too long.

    `heard` takes what workers say, with the index of the worker; None is its end.
    """

    goes_on = False

    def __init__(self, records: Sequence[WorkerRecord]) -> None:
        self.records = records
        self.heard: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
        self._is_stopped = False
        self._stopped_at = 0.0
        self._unresponsive: set[int] = set()

    def messages(self) -> Iterator[tuple[int, Message | None] | None]:
        """Yield what each worker says; see `Workers`."""
        silent_since = dict.fromkeys(range(len(self.records)), monotonic())
        while silent_since:
            try:
                index, message = self.heard.get(timeout=LOOK_AROUND_EVERY_S)
            except queue.Empty:
                self._give_up_silent(silent_since)
                yield None
                continue
            if index not in silent_since:
                continue  # it was given up
            if message is None:
                del silent_since[index]
            else:
                silent_since[index] = monotonic()
            yield index, message

    def _give_up_silent(self, silent_since: dict[int, float]) -> None:
        """Give up the workers that have been silent for longer than patience lasts."""
        for index, since in silent_since.items():
            if monotonic() - max(since, self._stopped_at) > self._patience_s:
                self._unresponsive.add(index)
                self._give_up(index)

    @property
    def _patience_s(self) -> float:
        return _PATIENCE_AFTER_STOP_S if self._is_stopped else _PATIENCE_S

    def stop(self) -> None:
        """Have all workers stop, and say what they have measured."""
        if not self._is_stopped:
            self._is_stopped = True
            self._stopped_at = monotonic()
            self._tell_to_stop()

    def ending_of(self, index: int) -> str:
        """Return how a worker has ended."""
        if index in self._unresponsive:
            return f"it did not answer for {self._patience_s:g} s"
        return self._ending_of(index)

    @abstractmethod
    def _tell_to_stop(self) -> None:
        """Tell all workers to stop."""

    @abstractmethod
    def _give_up(self, index: int) -> None:
        """End a worker that does not answer; its end is then heard."""

    @abstractmethod
    def _ending_of(self, index: int) -> str:
        """Return how a worker has ended that was not given up."""
