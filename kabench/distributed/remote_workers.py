"""`MasterProcess`: the workers of a distributed run, as the load engine sees them, by way of the hub."""

from __future__ import annotations

import queue
import sys
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from kabench.distributed.protocol import (
    GO,
    KILL,
    STOP,
    Begin,
    Ended,
    FromMaster,
    Gone,
    Joined,
    Open,
    Opened,
    Order,
    Refused,
    Said,
    ToMaster,
    TurnedAway,
    name_of,
)
from kabench.load.workers.workers import ListeningWorkers
from kabench.result import WorkerRecord
from kabench.system.child import end_child, start_child, write_line

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

    from kabench.load.figures.messages import Task

_OPENING_TAKES_AT_MOST_S = 60.0
_LOOK_EVERY_S = 0.1

_from_line = msgspec.json.Decoder[FromMaster](FromMaster)


class MasterError(RuntimeError):
    """The hub cannot open, or has died."""


class WorkersMissingError(MasterError):
    """Not as many workers as expected have come."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How many workers have come, of how many, and who did last; of another `version` he was turned away."""

    name: str
    host: str
    joined: int
    expected: int
    version: str | None = None


class MasterProcess:
    """A hub, and the workers that come to it. `crew` has them carry out an agent's part of a run.

    Raises `MasterError` if it cannot open at this host and port (0: any that is free).
    """

    def __init__(self, host: str, port: int) -> None:
        self._lock = threading.Lock()
        self._news: queue.SimpleQueue[FromMaster | None] = queue.SimpleQueue()
        self._crew: RemoteWorkers | None = None
        self._parts = 0
        self._members: list[WorkerRecord] = []
        self._gone: set[int] = set()
        self._has_died = False
        self._process = start_child([sys.executable, "-P", "-m", "kabench.distributed"])
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        self.tell(Open(host, port))
        try:
            self.port = self._opened(host, port)
        except BaseException:
            self.close()
            raise

    def _opened(self, host: str, port: int) -> int:
        try:
            news = self._news.get(timeout=_OPENING_TAKES_AT_MOST_S)
        except queue.Empty:
            news = None
        if isinstance(news, Opened):
            return news.port
        why = news.why if isinstance(news, Refused) else "locust's master did not start"
        raise MasterError(f"cannot listen at {host}:{port}: {why}")

    def wait_for(
        self,
        expected: int,
        at_most_s: float,
        arrived: Callable[[Arrival], None],
        goes_on: Callable[[], bool],
    ) -> None:
        """Wait until so many workers have come, as long as `goes_on` says so.

        Raises `WorkersMissingError` if they do not come in time, `MasterError` if the hub dies.
        """
        give_up_at = monotonic() + at_most_s
        while goes_on():
            there = self._count()
            if there >= expected:
                return
            if monotonic() > give_up_at:
                raise WorkersMissingError(f"{there} of {expected} workers came within {at_most_s:g} s")
            try:
                news = self._news.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                continue
            if news is None:
                raise MasterError("locust's master died")
            if isinstance(news, Joined):
                arrived(Arrival(name_of(news.member), news.host, self._count(), expected))
            elif isinstance(news, TurnedAway):
                arrived(Arrival("", news.host, self._count(), expected, news.version))

    def _count(self) -> int:
        with self._lock:
            return len(self._members) - len(self._gone)

    def crew(self, tasks: Sequence[Task]) -> RemoteWorkers:
        """Have workers carry out these tasks."""
        with self._lock:
            # Those who are gone come last: with too few others, their share of the load is lost.
            hired = sorted(range(len(self._members)), key=lambda member: member in self._gone)[: len(tasks)]
            self._parts += 1
            crew = self._crew = RemoteWorkers(self, self._parts, {member: self._members[member] for member in hired})
            for member in self._gone:
                crew.do_without(member, "it was lost before")
            if self._has_died:
                crew.hear(None)
        crew.begin(tasks)
        return crew

    def tell(self, message: ToMaster) -> None:
        """Say something to the hub."""
        write_line(self._process, msgspec.json.encode(message) + b"\n")

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            try:
                self._hear(_from_line.decode(line))
            except msgspec.DecodeError:
                break
        self._hear(None)

    def _hear(self, message: FromMaster | None) -> None:
        with self._lock:
            match message:
                case None:
                    self._has_died = True
                case Joined():
                    record = WorkerRecord(name=name_of(message.member), host=message.host, transactions=0)
                    self._members.append(record)
                case Gone():
                    self._gone.add(message.member)
            if self._crew is None:
                self._news.put(message)
            else:
                self._crew.hear(message)

    def close(self) -> None:
        """Send the workers home and see the hub end."""
        end_child(self._process)


class RemoteWorkers(ListeningWorkers):
    """Workers of a fleet who carry out one agent's part of a run."""

    goes_on = True

    def __init__(self, fleet: MasterProcess, part: int, hired: Mapping[int, WorkerRecord]) -> None:
        super().__init__(list(hired.values()))
        self._fleet = fleet
        self._part = part
        self._hired = list(hired)
        self._index = {member: index for index, member in enumerate(hired)}
        self._endings: dict[int, str] = {}

    def begin(self, tasks: Sequence[Task]) -> None:
        """Give each his task."""
        for member, task in zip(self._hired, tasks, strict=False):
            self._fleet.tell(Begin(self._part, task, member))

    def keep_apart_from(self, server: subprocess.Popen[bytes]) -> None:
        """Nothing: who they share a machine with is not known here."""

    def go(self) -> None:
        """Have all begin at the same time, as near as messages come."""
        self._order(GO)

    def _tell_to_stop(self) -> None:
        self._order(STOP)

    def _order(self, what: str) -> None:
        for member in self._hired:
            self._fleet.tell(Order(self._part, what, member))

    def _give_up(self, index: int) -> None:
        self._fleet.tell(Order(self._part, KILL, self._hired[index]))
        self._end(index, "")

    def _ending_of(self, index: int) -> str:
        return self._endings.get(index, "still running")

    def hear(self, message: FromMaster | None) -> None:
        """Take what the hub says; None is its end."""
        match message:
            case None:
                for index in range(len(self._hired)):
                    self._end(index, "locust's master died")
            case Said(part=part, member=member) if part == self._part and member in self._index:
                for each in message.messages:
                    self.heard.put((self._index[member], each))
            case Ended(part=part, member=member) if part == self._part:
                self.do_without(member, message.how)
            case Gone(member=member):
                self.do_without(member, "it is not heard of any more")

    def do_without(self, member: int, how: str) -> None:
        """A worker has ended, and how; if it is one of this crew."""
        if member in self._index:
            self._end(self._index[member], how)

    def _end(self, index: int, how: str) -> None:
        if index not in self._endings:
            self._endings[index] = how
            self.heard.put((index, None))

    def end(self) -> None:
        """Have their processes end."""
        self._order(KILL)
