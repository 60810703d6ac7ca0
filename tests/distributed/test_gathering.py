"""What the workers of a locust test report, added up: with a made-up clock, and no locust."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kabench.distributed.gathering import AgentReport, Gathering, WorkerReport
from kabench.load.figures.messages import NO_SOCKETS, Counts, Second, SocketCounts, Totals
from tests.load.loads import fits_together, in_histogram, sockets_with, told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.result import AgentRun


class Reporting:
    """A worker that reports to a gathering. Its test began at `began_at` of the master's clock."""

    def __init__(self, gathering: Gathering, name: str, began_at: float = 0.0) -> None:
        self._gathering = gathering
        self._name = name
        self._began_at = began_at
        self._statuses: Counter[int] = Counter()
        self._errors: Counter[str] = Counter()
        self._unsent: list[AgentReport] = []
        self.seconds = 0
        self.sent_by_locust = False

    def second(
        self, latencies_us: Sequence[int], sockets: SocketCounts | None = None, agent: str = "A", errors: int = 0
    ) -> None:
        """One second more has passed, and in it these were answered."""
        self.seconds += 1
        self._statuses[200] += len(latencies_us)
        self._errors["connection_reset"] += errors
        totals = Totals(
            body_bytes=10 * self._statuses.total(),
            wire_bytes=None,
            status_codes=dict(self._statuses),
            errors=dict(+self._errors),
        )
        second = Second(float(self.seconds), totals, sockets or NO_SOCKETS, 0.5 * self.seconds, 40.0)
        counts = [Counts(("total",), dict(Counter(latencies_us)))]
        self._unsent.append(AgentReport(agent, counts, second, sent_by_locust=self.sent_by_locust))

    def part(self, latencies_us: Sequence[int], elapsed_s: float) -> None:
        """A part of a second has passed."""
        self.second(latencies_us)
        self.seconds -= 1
        report = self._unsent.pop()
        second = msgspec.structs.replace(report.second, elapsed_s=elapsed_s)
        self._unsent.append(msgspec.structs.replace(report, second=second, is_part=True))

    def report(self, *, is_last: bool = False) -> None:
        """Send what there is."""
        reports, self._unsent = self._unsent, []
        report = WorkerReport(f"host-{self._name}", float(self.seconds), reports, is_last)
        self._gathering.hear(self._name, report, self._began_at + self.seconds)

    def end(self) -> None:
        self.report(is_last=True)


def only_run(gathering: Gathering) -> AgentRun:
    (run,) = gathering.runs()
    fits_together(run)
    return run


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 10**6), max_size=20), min_size=1, max_size=4), min_size=1, max_size=3))
def test_workers_add_up_exactly(given_us: list[list[list[int]]]) -> None:
    gathering = Gathering(0.0)
    for number, seconds in enumerate(given_us):
        worker = Reporting(gathering, f"w{number}")
        for latencies in seconds:
            worker.second(latencies)
            worker.report()
        worker.end()
    run = only_run(gathering)
    everything = [value for seconds in given_us for latencies in seconds for value in latencies]
    assert run.transactions == len(everything) == in_histogram(run, "total")
    assert run.data_transferred_bytes == 10 * len(everything)
    if everything:
        assert run.response_time_s.mean == pytest.approx(sum(everything) / len(everything) / 1e6, abs=1e-8)
    assert run.elapsed_s == max(len(seconds) for seconds in given_us)


def test_each_worker_is_named_with_its_host() -> None:
    gathering = Gathering(0.0)
    for name in ("a", "b"):
        worker = Reporting(gathering, name)
        worker.second([100])
        worker.end()
    assert [(w.name, w.host, w.transactions) for w in only_run(gathering).client.workers] == [
        ("worker-1", "host-a", 1),
        ("worker-2", "host-b", 1),
    ]


def test_a_worker_that_comes_later_counts_in_the_seconds_when_it_was_there() -> None:
    gathering = Gathering(100.0)
    first, late = Reporting(gathering, "first", 100.0), Reporting(gathering, "late", 102.1)
    for _ in range(5):
        first.second([100])
    first.end()
    for _ in range(3):
        late.second([100, 100])
    late.end()
    run = only_run(gathering)
    assert [point.transactions for point in run.series] == [1, 1, 3, 3, 3]
    assert run.elapsed_s == pytest.approx(5.1)


def test_a_worker_whose_test_began_with_the_master_s_counts_from_the_first_second() -> None:
    gathering = Gathering(100.0)
    worker = Reporting(gathering, "w", 100.2)  # on its way for 200 ms
    worker.second([100])
    worker.end()
    assert only_run(gathering).elapsed_s == 1.0


def test_an_agent_that_begins_late_in_one_worker_counts_in_the_seconds_when_it_did() -> None:
    gathering = Gathering(0.0)
    early, late = Reporting(gathering, "early"), Reporting(gathering, "late")
    late.seconds = 20
    for _ in range(30):
        early.second([100])
        early.report()
        if early.seconds > 20:
            late.second([100] * 3)
            late.report()
    run = only_run(gathering)
    assert [point.t_s for point in run.series] == [float(second) for second in range(1, 31)]
    assert [point.transactions for point in run.series] == [1] * 20 + [4] * 10


def test_what_is_reported_in_the_middle_of_a_second_belongs_to_it() -> None:
    gathering = Gathering(0.0)
    worker = Reporting(gathering, "w")
    worker.second([100] * 2)
    worker.part([100] * 3, 1.4)
    worker.second([100] * 4)
    worker.end()
    run = only_run(gathering)
    assert [(point.t_s, point.transactions) for point in run.series] == [(1.0, 2), (2.0, 7)]


def test_the_sockets_of_a_lost_worker_are_closed_with_it() -> None:
    gathering = Gathering(0.0)
    for name in ("stays", "goes"):
        worker = Reporting(gathering, name)
        worker.second([100], sockets_with(created=5, active=3, free=2, pending=4, requests=9))
        worker.report()
    gathering.lose("goes")
    sockets = only_run(gathering).sockets
    assert (sockets.created, sockets.closed, sockets.active, sockets.free, sockets.pending) == (10, 5, 3, 2, 4)


def test_a_lost_worker_is_named_and_what_it_said_counts_once() -> None:
    gathering = Gathering(0.0)
    stays, goes = Reporting(gathering, "stays"), Reporting(gathering, "goes")
    for worker in (stays, goes):
        worker.second([100, 100])
        worker.report()
    gathering.lose("goes")
    gathering.lose("goes")
    for _ in range(3):
        stays.second([100])
    stays.end()
    run = only_run(gathering)
    assert [worker.lost_at_s for worker in run.client.workers] == [None, 1.0]
    assert [point.transactions for point in run.series] == [4, 1, 1, 1]


def test_a_lost_worker_that_is_heard_again_is_taken_back() -> None:
    gathering = Gathering(0.0)
    stays, returns = Reporting(gathering, "stays"), Reporting(gathering, "returns")
    for worker in (stays, returns):
        worker.second([100])
        worker.report()
    gathering.lose("returns")
    for _ in range(3):
        stays.second([100])
        stays.report()
        returns.second([100, 100])
    returns.end()
    stays.end()
    run = only_run(gathering)
    assert run.transactions == 4 + 7
    assert [worker.lost_at_s for worker in run.client.workers] == [None, None]


def test_a_worker_that_has_ended_cannot_be_lost() -> None:
    gathering = Gathering(0.0)
    worker = Reporting(gathering, "w")
    worker.second([100])
    worker.end()
    gathering.lose("w")
    assert only_run(gathering).client.workers[0].lost_at_s is None


def test_what_is_of_a_test_before_is_left_alone() -> None:
    gathering = Gathering(100.0)
    old = Reporting(gathering, "old", 90.0)
    for _ in range(11):
        old.second([100])
    old.end()
    assert gathering.runs() == []


def test_after_a_reset_only_what_is_new_counts() -> None:
    gathering = Gathering(0.0)
    worker = Reporting(gathering, "w")
    worker.second([100] * 5, errors=2)
    worker.report()
    gathering.reset(1.5)
    worker.second([900] * 3, errors=1)
    worker.end()
    run = only_run(gathering)
    assert (run.transactions, run.socket_errors, run.data_transferred_bytes) == (3, 1, 30)
    assert run.response_time_s.min == 900e-6
    assert run.elapsed_s == 1.0


def test_what_comes_late_of_the_time_before_a_reset_counts_as_in_locust_s_own_statistics() -> None:
    gathering = Gathering(0.0)
    worker = Reporting(gathering, "w")
    worker.second([100])
    worker.report()
    worker.second([100] * 4)
    gathering.reset(2.0)
    worker.end()
    assert only_run(gathering).transactions == 4


def test_two_resets_take_off_once_what_was_before_each() -> None:
    gathering = Gathering(0.0)
    worker = Reporting(gathering, "w")
    for count in (5, 7):
        worker.second([100] * count)
        worker.report()
        gathering.reset(float(worker.seconds))
    gathering.reset(2.5)
    worker.second([100] * 2)
    worker.end()
    assert only_run(gathering).transactions == 2


def test_sockets_that_are_open_at_a_reset_count_as_created_and_still_add_up() -> None:
    gathering = Gathering(0.0)
    worker = Reporting(gathering, "w")
    worker.second([100], sockets_with(created=10, closed=4, free=1, active=5, requests=100))
    worker.report()
    gathering.reset(1.0)
    worker.second([100], sockets_with(created=13, closed=6, free=4, active=3, requests=150))
    worker.end()
    sockets = only_run(gathering).sockets
    assert (sockets.created, sockets.closed, sockets.free, sockets.active) == (9, 2, 4, 3)
    assert sockets.created == told(sockets.closed, sockets.free, sockets.active)
    assert sockets.requests == 50


def test_a_second_since_itself_holds_nothing() -> None:
    second = Second(
        3.0,
        Totals(body_bytes=5, status_codes={200: 2}, errors={"x": 1}),
        sockets_with(created=4, closed=4, requests=9),
        1.0,
        40.0,
    )
    assert second.since(second) == Second(0.0, Totals(), sockets_with(), 0.0, 40.0)


def test_a_sender_s_cpu_is_told_whatever_else_there_is() -> None:
    gathering = Gathering(0.0)
    for agent in ("Sender", "Http"):
        worker = Reporting(gathering, "w")
        worker.sent_by_locust = agent == "Http"
        worker.second([100], agent=agent)
        worker.report()
    assert [run.client.cpu_s for run in gathering.runs()] == [0.5, 0.5]


def test_agents_are_kept_apart_and_their_cpu_is_not_told_where_they_share_a_process() -> None:
    gathering = Gathering(0.0)
    for agent in ("Keep", "Plain"):
        worker = Reporting(gathering, "w")
        worker.sent_by_locust = True
        worker.second([100], agent=agent)
        worker.report()
    runs = gathering.runs()
    assert [(run.agent, run.transactions, run.client.cpu_us_per_transaction) for run in runs] == [
        ("Keep", 1, None),
        ("Plain", 1, None),
    ]


def test_how_it_stands_is_told_while_it_lasts() -> None:
    gathering = Gathering(0.0)
    for name in ("a", "b"):
        worker = Reporting(gathering, name)
        worker.second([100] * 10, sockets_with(created=2, active=2, pending=1, requests=10))
        worker.report()
    (now,) = gathering.now()
    assert (now.agent, now.transactions, now.sockets.active, now.sockets.pending) == ("A", 20, 4, 2)
    assert now.req_per_socket == 5.0
