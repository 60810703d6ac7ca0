"""`Gathering` adds up the reports of a locust test's workers to one record. It has no clock and no connection.

A worker reports, agent by agent, the latencies of each second and its totals so far. All of them are added up exactly.
After a reset only new requests count. The user presses locust's reset button on the master, and workers do not learn of
it, so the gathering subtracts what they had reported before from what they report later. Sockets that were open at the
reset count as created, because they carry the requests that follow.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from kabench.load.figures.messages import Counts, Second, SocketCounts  # noqa: TC001  # msgspec reads the annotations
from kabench.load.figures.tally import Tally
from kabench.result import WorkerRecord

if TYPE_CHECKING:
    from kabench.result import AgentRun

_AT_ONCE_S = 0.5
"""A worker whose test began at most this long after the master's was there from the beginning.

If its test began more than this before the master's, it is reporting an earlier test.
"""

_OPEN_SECONDS = 10
"""How many seconds stay open for late reports. Workers report every three seconds, not at the same time."""

Key = TypeVar("Key")


class AgentReport(msgspec.Struct, frozen=True):
    """What one agent did in one second of a worker: latencies, and totals so far.

    `sent_by_locust` says that locust's own clients sent the requests, in locust's process. The test itself then says
    which answers failed, whatever their status. `is_part` says that the second is not over yet. `target` is the name of
    the only target, for seconds that name none.
    """

    agent: str
    counts: list[Counts]
    second: Second
    event_loop: str = "gevent"
    sent_by_locust: bool = False
    is_part: bool = False
    target: str = ""


class WorkerReport(msgspec.Struct, frozen=True):
    """What a worker measured since its last report. `age_s` is the time since its test began; `is_last`: it is over."""

    host: str
    age_s: float
    reports: list[AgentReport]
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class AgentNow:
    """An agent's figures so far, over all workers."""

    agent: str
    transactions: int
    sockets: SocketCounts

    @property
    def req_per_socket(self) -> float | None:
        """Finished responses per created socket; None if the client does not tell."""
        if self.sockets.requests is None or self.sockets.created is None:
            return None
        return self.sockets.requests / self.sockets.created if self.sockets.created else 0.0


class _Worker:
    """A worker as the master knows it."""

    def __init__(self, record: WorkerRecord, after_s: float) -> None:
        self.record = record
        self.after_s = after_s
        self.has_ended = False
        self.is_lost = False


class _Agent:
    """One agent over all workers."""

    def __init__(self, name: str, target: str, *, sent_by_locust: bool) -> None:
        self.target = target
        self.sent_by_locust = sent_by_locust
        self.tally = Tally(name, [], target=target, open_seconds=_OPEN_SECONDS)
        self.numbers: dict[str, int] = {}
        self.before: dict[str, Second] = {}
        self.last: dict[str, Second] = {}


class Gathering:
    """The reports of one test. Times are seconds of a monotonic clock; worker ids are arbitrary strings."""

    def __init__(self, now: float) -> None:
        self._zero = now
        self._workers: dict[str, _Worker] = {}
        self._agents: dict[str, _Agent] = {}
        self.event_loop = "gevent"

    def hear(self, worker_id: str, report: WorkerReport, now: float) -> None:
        """Add a worker's report. A report of an earlier test is ignored."""
        worker = self._workers.get(worker_id)
        if worker is None:
            after_s = now - report.age_s - self._zero
            if after_s < -_AT_ONCE_S:
                return
            record = WorkerRecord(name=f"worker-{len(self._workers) + 1}", host=report.host, transactions=0)
            worker = self._workers[worker_id] = _Worker(record, after_s if after_s > _AT_ONCE_S else 0.0)
        if worker.is_lost:
            worker.is_lost = False
            for agent in self._agents.values():
                if worker_id in agent.numbers:
                    agent.tally.take_back(agent.numbers[worker_id])
        for each in report.reports:
            self._take(worker_id, worker, each)
        if report.is_last:
            self._end(worker_id, worker, lost=False)

    def _take(self, worker_id: str, worker: _Worker, report: AgentReport) -> None:
        agent = self._agents.get(report.agent)
        if agent is None:
            agent = self._agents[report.agent] = _Agent(
                report.agent, report.target, sent_by_locust=report.sent_by_locust
            )
        number = agent.numbers.get(worker_id)
        if number is None:
            number = agent.numbers[worker_id] = agent.tally.add_worker(worker.record)
        self.event_loop = report.event_loop
        for counts in report.counts:
            agent.tally.add_counts(number, counts)
        agent.last[worker_id] = report.second
        before = agent.before.get(worker_id)
        second = report.second if before is None else report.second.since(before)
        elapsed_s = second.elapsed_s + worker.after_s
        second = msgspec.structs.replace(second, elapsed_s=elapsed_s)
        if report.is_part:
            agent.tally.add_part(number, second)
        else:
            agent.tally.end_second(number, second)

    def lose(self, worker_id: str) -> None:
        """Note that a worker no longer answers. If it reports again, it is taken back."""
        worker = self._workers.get(worker_id)
        if worker is not None and not worker.has_ended and not worker.is_lost:
            worker.is_lost = True
            self._end(worker_id, worker, lost=True)

    def _end(self, worker_id: str, worker: _Worker, *, lost: bool) -> None:
        worker.has_ended = not lost
        for agent in self._agents.values():
            if worker_id in agent.numbers:
                agent.tally.end_worker(agent.numbers[worker_id], lost=lost)

    def reset(self, now: float) -> None:
        """Start counting anew: what was reported until now no longer counts."""
        self._zero = now
        for worker in self._workers.values():
            worker.after_s = 0.0
        fresh = {}
        for name, agent in self._agents.items():
            fresh[name] = _Agent(name, agent.target, sent_by_locust=agent.sent_by_locust)
            fresh[name].before = dict(agent.last)
            fresh[name].last = dict(agent.last)
        self._agents = fresh

    @property
    def worker_ids(self) -> list[str]:
        """The workers that have reported."""
        return list(self._workers)

    def now(self) -> list[AgentNow]:
        """Return the figures of each agent so far."""
        return [AgentNow(name, agent.tally.transactions, agent.tally.sockets) for name, agent in self._agents.items()]

    def runs(self) -> list[AgentRun]:
        """Return what was measured, at the end of the test.

        Where several agents shared a process, their CPU time cannot be told apart and is left out.
        """
        agents = [agent for agent in self._agents.values() if agent.numbers]
        shares_process = sum(agent.sent_by_locust for agent in agents) > 1
        runs = []
        for agent in agents:
            agent.tally.end()
            run = agent.tally.agent_run(interrupted=False)
            runs.append(_without_cpu(run) if agent.sent_by_locust and shares_process else run)
        return runs


def _without_cpu(run: AgentRun) -> AgentRun:
    workers = [dataclasses.replace(worker, cpu_s=None) for worker in run.client.workers]
    client = dataclasses.replace(run.client, cpu_s=0.0, cpu_us_per_transaction=None, workers=workers)
    return dataclasses.replace(run, client=client)
