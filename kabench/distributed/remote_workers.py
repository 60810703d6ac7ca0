"""`MasterProcess` and `RemoteWorkers`: how the load engine reaches the workers of a distributed run."""

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
    """The master cannot listen, or has died."""


class WorkersMissingError(MasterError):
    """Fewer workers than expected have joined."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A worker came: how many of the expected ones have joined. With a `version`, it was turned away because of it."""

    name: str
    host: str
    joined: int
    expected: int
    version: str | None = None


class MasterProcess:
    """A master process, and the workers that join it. `workers_for` has them carry out one agent's part of a run.

    Raises `MasterError` if it cannot listen at this host and port (0: any that is free).
    """

    def __init__(self, host: str, port: int) -> None:
        self._lock = threading.Lock()
        self._news: queue.SimpleQueue[FromMaster | None] = queue.SimpleQueue()
        self._current: RemoteWorkers | None = None
        self._parts = 0
        self._records: list[WorkerRecord] = []
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
        """Wait until `expected` workers have joined, or `goes_on` returns False. Call `arrived` for each that comes.

        Raises `WorkersMissingError` if they do not join within `at_most_s`, `MasterError` if the master dies.
        """
        give_up_at = monotonic() + at_most_s
        while goes_on():
            there = self._count()
            if there >= expected:
                return
            if monotonic() > give_up_at:
                workers = "worker" if expected == 1 else "workers"
                raise WorkersMissingError(f"{there} of {expected} {workers} joined within {at_most_s:g} s")
            try:
                news = self._news.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                continue
            if news is None:
                raise MasterError("locust's master died")
            if isinstance(news, Joined):
                arrived(Arrival(name_of(news.worker), news.host, self._count(), expected))
            elif isinstance(news, TurnedAway):
                arrived(Arrival("", news.host, self._count(), expected, news.version))

    def _count(self) -> int:
        with self._lock:
            return len(self._records) - len(self._gone)

    def workers_for(self, tasks: Sequence[Task]) -> RemoteWorkers:
        """Have workers begin these tasks, and return those workers."""
        with self._lock:
            # Lost workers come last: only if there are too few others, their share of the load is lost.
            chosen = sorted(range(len(self._records)), key=lambda worker: worker in self._gone)[: len(tasks)]
            self._parts += 1
            records = {worker: self._records[worker] for worker in chosen}
            remote_workers = self._current = RemoteWorkers(self, self._parts, records)
            for worker in self._gone:
                remote_workers.do_without(worker, "it was lost before")
            if self._has_died:
                remote_workers.hear(None)
        remote_workers.begin(tasks)
        return remote_workers

    def tell(self, message: ToMaster) -> None:
        """Send a message to the master."""
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
                    record = WorkerRecord(name=name_of(message.worker), host=message.host, transactions=0)
                    self._records.append(record)
                case Gone():
                    self._gone.add(message.worker)
            if self._current is None:
                self._news.put(message)
            else:
                self._current.hear(message)

    def close(self) -> None:
        """End the master, which dismisses the workers."""
        end_child(self._process)


class RemoteWorkers(ListeningWorkers):
    """The workers that carry out one agent's part of a run. `records` has them by their numbers at the master."""

    goes_on = True

    def __init__(self, master: MasterProcess, part: int, records: Mapping[int, WorkerRecord]) -> None:
        super().__init__(list(records.values()))
        self._master = master
        self._part = part
        self._numbers = list(records)
        self._index = {worker: index for index, worker in enumerate(records)}
        self._endings: dict[int, str] = {}

    def begin(self, tasks: Sequence[Task]) -> None:
        """Give each worker its task."""
        for worker, task in zip(self._numbers, tasks, strict=False):
            self._master.tell(Begin(self._part, task, worker))

    def keep_apart_from(self, server: subprocess.Popen[bytes]) -> None:
        """Do nothing: it is not known which workers share the server's machine."""

    def go(self) -> None:
        """Have all begin at the same time, apart from how long each message takes."""
        self._order(GO)

    def _tell_to_stop(self) -> None:
        self._order(STOP)

    def _order(self, what: str) -> None:
        for worker in self._numbers:
            self._master.tell(Order(self._part, what, worker))

    def _give_up(self, index: int) -> None:
        self._master.tell(Order(self._part, KILL, self._numbers[index]))
        self._end(index, "")

    def _ending_of(self, index: int) -> str:
        return self._endings.get(index, "still running")

    def hear(self, message: FromMaster | None) -> None:
        """Take a message of the master; None means that it has ended."""
        match message:
            case None:
                for index in range(len(self._numbers)):
                    self._end(index, "locust's master died")
            case Said(part=part, worker=worker) if part == self._part and worker in self._index:
                for each in message.messages:
                    self.heard.put((self._index[worker], each))
            case Ended(part=part, worker=worker) if part == self._part:
                self.do_without(worker, message.how)
            case Gone(worker=worker):
                self.do_without(worker, "it no longer answers")

    def do_without(self, worker: int, how: str) -> None:
        """Note that a worker has ended, if it is one of these workers."""
        if worker in self._index:
            self._end(self._index[worker], how)

    def _end(self, index: int, how: str) -> None:
        if index not in self._endings:
            self._endings[index] = how
            self.heard.put((index, None))

    def end(self) -> None:
        """End the workers' processes."""
        self._order(KILL)
