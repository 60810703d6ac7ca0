"""`Workers`: those that carry out one agent's part of a run. They are told when to go, heard, and seen to their end."""

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
"""How long a worker may say nothing: it says something ten times a second, if its client lets it."""


class Workers(Protocol):
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


class ListeningWorkers(ABC):
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
        """What each says; see `Workers`."""
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
