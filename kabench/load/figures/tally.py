"""`Tally`: makes an `AgentRun` of what workers say. Counts are added up exactly; figures are made of them at the end.

A second goes into the series when every worker has said it, or has ended: only then do its counts add up. Until then
it stays open as a `_Point`. How workers are heard does not stand here.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import msgspec

from kabench.histogram import Distribution, percentile_of
from kabench.load.figures.messages import NOTHING_YET, Counts, Second, SocketCounts, Totals
from kabench.load.plan.target_names import MOST_TARGETS, OTHER
from kabench.measured import Measured, agent_run_of, target_figures_of
from kabench.result import BUSY_PCT, FAILED, HISTOGRAMS, LAG, LATE_S, SeriesPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.result import AgentRun, TargetFigures, WorkerRecord

_SHORTEST_JUDGED_S = 0.5
"""CPU time over less than this says nothing about how busy a worker was."""

_LATE_TICK_S = 0.25
"""A busy worker says its seconds late. Up to this much later, it is still that second."""

_SHORTEST_POINT_S = 0.1
"""A rest of a run that is shorter belongs to the last whole second; a longer one is a point of its own."""


_SOCKETS_OF_A_POINT = {each.name for each in dataclasses.fields(SeriesPoint)}.intersection(
    SocketCounts.__struct_fields__
)


class _WorkerTally:
    """What one worker has said so far."""

    def __init__(self, record: WorkerRecord) -> None:
        self.record = record
        self.waiting: list[Counts] = []
        self.last = self.judged = NOTHING_YET
        self.seconds = 0
        self.has_ended = False
        self.elapsed_s: float | None = None
        self.lost_at_s: float | None = None
        self.peak_cpu_pct = 0.0

    def judge(self, second: Second) -> None:
        """Note how much of a core the worker used in this second, if that is its peak."""
        seconds = second.elapsed_s - self.judged.elapsed_s
        if seconds >= _SHORTEST_JUDGED_S:
            peak_pct = min(100.0, 100 * (second.cpu_s - self.judged.cpu_s) / seconds)  # the two clocks have steps
            self.peak_cpu_pct = max(self.peak_cpu_pct, peak_pct)
        self.judged = second

    def as_record(self) -> WorkerRecord:
        return dataclasses.replace(
            self.record,
            transactions=self.last.totals.transactions,
            cpu_s=round(self.last.cpu_s, 6),
            peak_cpu_pct=round(self.peak_cpu_pct, 1),
            lost_at_s=self.lost_at_s,
        )


class _Point:
    """One second of all workers, as far as they have said it. `seen` counts response times in microseconds."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        self.ended_at_s = 0.0
        self.said: dict[int, Second] = {}


class _Times:
    """The latencies of a load, or of one target: of each phase, and of what is unanswered, by kind of error."""

    def __init__(self) -> None:
        self.phases = {phase: Distribution() for phase in (*HISTOGRAMS, FAILED, LAG)}
        self.waits: defaultdict[str, Distribution] = defaultdict(Distribution)

    def add(self, counts: Counts) -> None:
        if counts.waited:
            self.waits[counts.waited].add(counts.counts.items())
        for phase in counts.phases:
            self.phases[phase].add(counts.counts.items())

    def measured(self, totals: Totals) -> Measured:
        """Return what was counted, with the totals that go with these latencies."""
        total = self.phases["total"]
        return Measured(
            transactions=totals.transactions,
            failed_answers=totals.failed_answers,
            socket_errors=totals.socket_errors,
            not_started=totals.not_started,
            body_bytes=totals.body_bytes,
            wire_bytes=totals.wire_bytes,
            response_time_sum_s=total.sum_us / 1e6,
            distributions={name: each for name, each in self.phases.items() if name != LAG},
            waits=self.waits,
            unsent=totals.unsent,
            interrupted=totals.interrupted,
            status_codes={str(status): times for status, times in sorted(totals.status_codes.items())},
            errors=dict(sorted(totals.errors.items())),
        )


class Tally:
    """Adds up what the workers have measured of one agent.

    `target` is the name of the only target, for loads whose workers name none. Where workers may join later, the last
    `open_seconds` seconds stay open for what late ones say.
    """

    def __init__(self, agent: str, workers: Sequence[WorkerRecord], *, target: str = "", open_seconds: int = 0) -> None:
        self._agent = agent
        self._target = target
        self._workers = [_WorkerTally(record) for record in workers]
        self._times = _Times()
        self._times_of: dict[str, _Times] = {}
        self._points: list[_Point] = []
        self._at_point = [NOTHING_YET] * len(workers)
        self._seen: Counter[int] = Counter()
        self._open_seconds = open_seconds
        self._closed_at_s = 0.0
        self._closed = 0
        self._errors_before = self._failed_before = 0
        self.series: list[SeriesPoint] = []

    def add_worker(self, record: WorkerRecord) -> int:
        """Add a worker that joins later, and return its number. Its times must count from the beginning of the load."""
        self._workers.append(_WorkerTally(record))
        self._at_point.append(NOTHING_YET)
        return len(self._workers) - 1

    def take_back(self, worker: int) -> None:
        """Take a lost worker back: it is heard again."""
        tally = self._workers[worker]
        tally.has_ended = False
        tally.lost_at_s = None

    def add_counts(self, worker: int, message: Counts) -> None:
        """Take latencies of the second under way. They count when it ends, together with its totals."""
        self._workers[worker].waiting.append(message)

    def end_second(self, worker: int, message: Second) -> None:
        """Take the totals at the end of a worker's second."""
        tally = self._workers[worker]
        self.add_part(worker, message)
        tally.judge(message)
        tally.seconds += 1
        self._close_points()

    def add_part(self, worker: int, message: Second) -> None:
        """Take the totals of a worker within a second that goes on."""
        tally = self._workers[worker]
        if self._open_seconds:  # workers join at any time, so the time says which second it is
            tally.seconds = max(self._closed, math.ceil(message.elapsed_s - _LATE_TICK_S) - 1)
        index = tally.seconds - self._closed
        while len(self._points) <= index:
            self._points.append(_Point())
        point = self._points[index]
        point.ended_at_s = max(point.ended_at_s, message.elapsed_s, self._closed_at_s)
        point.said[worker] = message
        for counts in tally.waiting:
            self._times.add(counts)
            if counts.target:
                self._times_of_target(counts.target).add(counts)
            if "total" in counts.phases:
                point.seen.update(counts.counts)
        tally.waiting.clear()
        tally.last = message

    def _times_of_target(self, name: str) -> _Times:
        name = self._counted_as(name)
        if name not in self._times_of:
            self._times_of[name] = _Times()
        return self._times_of[name]

    def _counted_as(self, name: str) -> str:
        """Return the name under which a target counts: workers that name targets as they come may name too many."""
        return name if name in self._times_of or len(self._times_of) < MOST_TARGETS else OTHER

    def end_worker(self, worker: int, *, elapsed_s: float | None = None, lost: bool) -> None:
        """End a worker: it says no more. `elapsed_s` is how long its load took, without what was cut off later."""
        tally = self._workers[worker]
        tally.elapsed_s = elapsed_s
        tally.has_ended = True
        if lost:
            tally.lost_at_s = round(tally.last.elapsed_s, 6)
            tally.last = msgspec.structs.replace(tally.last, sockets=sockets_of_the_lost(tally.last.sockets))
        self._close_points()

    def _close_points(self) -> None:
        """Move seconds to the series that every worker has said, or has ended without saying."""
        while len(self._points) > self._open_seconds and all(
            w.has_ended or w.seconds > self._closed for w in self._workers
        ):
            self._closed += 1
            point = self._points.pop(0)
            self._closed_at_s = max(self._closed_at_s, point.ended_at_s)
            self._at_point = [self._at_end_of(point, worker) for worker in range(len(self._workers))]
            if point.ended_at_s <= 0:
                continue  # the run was stopped in the warm-up
            if self.series and point.ended_at_s - self.series[-1].t_s < _SHORTEST_POINT_S:
                last = self.series.pop()
                self._errors_before -= last.socket_errors
                self._failed_before -= last.failed_transactions or 0
                point.seen.update(self._seen)
            seen = self._seen = point.seen
            sockets = SocketCounts.sum_of(second.sockets for second in self._at_point)
            errors = sum(second.totals.socket_errors for second in self._at_point)
            failed = errors + sum(second.totals.failed_answers for second in self._at_point)
            self.series.append(
                SeriesPoint(
                    t_s=round(point.ended_at_s, 6),
                    transactions=seen.total(),
                    failed_transactions=failed - self._failed_before,
                    socket_errors=errors - self._errors_before,
                    p50_s=percentile_of(seen, 50) / 1e6 if seen else None,
                    p99_s=percentile_of(seen, 99) / 1e6 if seen else None,
                    **{name: getattr(sockets, name) for name in _SOCKETS_OF_A_POINT},
                )
            )
            self._errors_before, self._failed_before = errors, failed

    def _at_end_of(self, point: _Point, worker: int) -> Second:
        """Return a worker's figures at the end of a second, about which it may have said nothing."""
        said = point.said.get(worker)
        if said is None:
            tally = self._workers[worker]
            said = self._at_point[worker] if tally.lost_at_s is None else tally.last
        return said

    def end(self) -> None:
        """End all workers: none says any more."""
        self._open_seconds = 0
        for worker in self._workers:
            worker.has_ended = True
        self._close_points()

    @property
    def transactions(self) -> int:
        """The finished exchanges so far, as of each worker's last second."""
        return sum(worker.last.totals.transactions for worker in self._workers)

    @property
    def socket_errors(self) -> int:
        """The requests without an answer so far, as of each worker's last second."""
        return sum(worker.last.totals.socket_errors for worker in self._workers)

    @property
    def sockets(self) -> SocketCounts:
        """The sockets' counts so far, as of each worker's last second."""
        return SocketCounts.sum_of(worker.last.sockets for worker in self._workers)

    def percentile_s(self, percent: float) -> float | None:
        """Return a percentile of all response times so far, in seconds."""
        return self._times.phases["total"].percentile_s(percent)

    def agent_run(self, *, interrupted: bool, stopped_by: str = "") -> AgentRun:
        """Return the record of what was measured."""
        lasts = [worker.last for worker in self._workers]
        totals = Totals.sum_of(last.totals for last in lasts)
        sockets = SocketCounts.sum_of(last.sockets for last in lasts)
        elapsed_s = max((w.last.elapsed_s if w.elapsed_s is None else w.elapsed_s for w in self._workers), default=0.0)
        lag = self._times.phases[LAG]
        lag_p99_s = lag.percentile_s(99)
        return agent_run_of(
            agent=self._agent,
            elapsed_s=elapsed_s,
            interrupted=interrupted,
            stopped_by=stopped_by,
            saturated=any(worker.peak_cpu_pct >= BUSY_PCT for worker in self._workers)
            or (lag_p99_s is not None and lag_p99_s > LATE_S),
            measured=self._times.measured(totals),
            retries=sockets.retries,
            lag=lag,
            buckets=self._times.phases["total"].buckets(),
            sockets=sockets.as_record(),
            cpu_s=sum(last.cpu_s for last in lasts),
            max_rss_mb=max((last.max_rss_mb for last in lasts), default=0.0),
            targets=self._targets(lasts, totals, elapsed_s),
            workers=[worker.as_record() for worker in self._workers],
            series=self.series,
        )

    def _targets(self, lasts: Sequence[Second], totals: Totals, elapsed_s: float) -> list[TargetFigures]:
        by_name: dict[str, list[Totals]] = {}
        for last in lasts:
            for name, of_target in last.targets.items():
                by_name.setdefault(self._counted_as(name), []).append(of_target)
        if not by_name:
            only = msgspec.structs.replace(totals, not_started=0)
            return [target_figures_of(self._target, self._times.measured(only), elapsed_s)] if self._target else []
        return [
            target_figures_of(name, self._times_of_target(name).measured(Totals.sum_of(each)), elapsed_s)
            for name, each in by_name.items()
        ]


def sockets_of_the_lost(sockets: SocketCounts) -> SocketCounts:
    """Return the sockets of a lost worker: those that were open closed when it was lost."""
    if sockets.closed is None or sockets.free is None or sockets.active is None:
        return sockets
    closed = sockets.closed + sockets.free + sockets.active
    return msgspec.structs.replace(sockets, closed=closed, **dict.fromkeys(SocketCounts.levels(), 0))
