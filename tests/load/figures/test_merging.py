"""Several workers, one record: everything adds up, whoever is slow, ends early or is lost on the way."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from kabench.histogram import HIGHEST_US, LOWEST_US, SIGNIFICANT_DIGITS, decoded_cells
from kabench.load.figures.messages import Counts, Second, SocketCounts, Totals
from kabench.load.figures.tally import Tally
from kabench.result import WorkerRecord
from tests.load.loads import sockets_with

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kabench.result import AgentRun

latencies = st.lists(st.integers(0, HIGHEST_US), max_size=30)


class Workers:
    """Workers as a tally hears them. What each says of a second are the response times in it, in microseconds."""

    def __init__(self, count: int) -> None:
        records = [WorkerRecord(name=f"worker-{number}", host="h", transactions=0) for number in range(1, count + 1)]
        self.tally = Tally("keepalive", records)
        self._seen = [0] * count
        self._errors: list[Counter[str]] = [Counter() for _ in range(count)]

    def say(self, worker: int, phases: Sequence[str], values: Iterable[int]) -> None:
        self.tally.add_counts(worker, Counts(tuple(phases), dict(Counter(values))))

    def second(
        self,
        worker: int,
        elapsed_s: float,
        values: Sequence[int],
        *,
        errors: int = 0,
        cpu_s: float = 0.1,
        not_started: int = 0,
        sockets: SocketCounts | None = None,
    ) -> None:
        if values:
            self.say(worker, ("total", "service"), values)
        self._seen[worker] += len(values)
        if errors:
            self._errors[worker]["socket_timeout"] += errors
        totals = Totals(
            body_bytes=10 * self._seen[worker],
            status_codes={200: self._seen[worker]},
            errors=dict(self._errors[worker]),
            not_started=not_started,
        )
        made = sockets or sockets_with(created=worker + 1)
        self.tally.end_second(worker, Second(elapsed_s, totals, made, cpu_s, max_rss_mb=20.0 + worker))

    def end(self, worker: int, *, lost: bool = False) -> None:
        self.tally.end_worker(worker, lost=lost)

    def result(self) -> AgentRun:
        return self.tally.agent_run(interrupted=False)


def histogram_of(values: Iterable[int]) -> list[tuple[int, int]]:
    """The cells of HdrHistogram's own histogram, given one value after the other."""
    histogram = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
    for value in values:
        histogram.record_value(value)
    return list(decoded_cells(histogram.encode().decode("ascii")))


# -- histograms


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(latencies, min_size=1, max_size=3), min_size=1, max_size=4))
def test_the_merged_histogram_is_the_histogram_of_all_values(given: list[list[list[int]]]) -> None:
    workers = Workers(len(given))
    for worker, seconds in enumerate(given):
        for number, values in enumerate(seconds, 1):
            workers.second(worker, float(number), values)
    run = workers.result()
    everything = [value for seconds in given for values in seconds for value in values]
    assert run.transactions == len(everything) == sum(run.buckets.values())
    if everything:
        assert list(decoded_cells(run.hdr["total"])) == list(decoded_cells(run.hdr["service"]))
        assert list(decoded_cells(run.hdr["total"])) == histogram_of(everything)
        assert run.response_time_s.max == max(everything) / 1e6
        assert run.response_time_s.min == min(everything) / 1e6
        assert run.response_time_s.mean == pytest.approx(sum(everything) / len(everything) / 1e6, abs=1e-9)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_splitting_the_same_values_over_workers_changes_nothing(workers: int) -> None:
    rng = random.Random(3)
    values = [int(rng.lognormvariate(8, 2)) for _ in range(5000)]
    alone, together = Workers(1), Workers(workers)
    alone.second(0, 1.0, values)
    for index in range(workers):
        together.second(index, 1.0, values[index::workers])
    one, many = alone.result(), together.result()
    for name in (
        "transactions",
        "successful_transactions",
        "data_transferred_bytes",
        "transaction_rate",
        "throughput_mb_s",
        "concurrency",
        "response_time_s",
        "service_time_s",
        "buckets",
        "hdr",
        "status_codes",
    ):
        assert getattr(many, name) == getattr(one, name), name
    assert [(point.transactions, point.p50_s, point.p99_s) for point in many.series] == [
        (point.transactions, point.p50_s, point.p99_s) for point in one.series
    ]


def test_percentiles_are_of_all_values_and_not_the_workers_average() -> None:
    workers = Workers(2)
    workers.second(0, 1.0, [1000] * 990)
    workers.second(1, 1.0, [9_000_000] * 10)
    run = workers.result()
    assert run.response_time_s.p99 == pytest.approx(0.001, rel=0.001)
    assert run.response_time_s.p99_9 == pytest.approx(9.0, rel=0.001)
    assert run.series[0].p99_s == 0.001


def test_the_lag_has_a_histogram_of_its_own() -> None:
    workers = Workers(2)
    for worker, lags in ((0, [5, 6]), (1, [7, 30_000])):
        workers.say(worker, ["lag"], lags)
        workers.second(worker, 1.0, [1000, 1000])
    run = workers.result()
    assert list(decoded_cells(run.hdr["lag"])) == histogram_of([5, 6, 7, 30_000])
    assert list(decoded_cells(run.hdr["total"])) == histogram_of([1000] * 4)
    assert run.lag_s.max == 0.03
    assert run.response_time_s.max == 0.001


# -- totals


def test_counts_of_all_workers_add_up() -> None:
    workers = Workers(3)
    for worker in range(3):
        counters = [name for name in SocketCounts.__struct_fields__ if name != "closed_by"]
        sockets = sockets_with(
            **dict(zip(counters, range(worker, worker + len(counters)), strict=True)),
            closed_by={"ttl": worker, f"only {worker}": 1},
        )
        values = [1000] * (10 + worker)
        workers.second(
            worker, 2.0, values, errors=worker, not_started=worker * 7, cpu_s=0.5 + worker / 4, sockets=sockets
        )
    run = workers.result()
    assert (run.transactions, run.socket_errors, run.not_started) == (33, 3, 21)
    assert (run.successful_transactions, run.failed_transactions) == (33, 3)
    assert run.data_transferred_bytes == 330
    assert run.errors == {"socket_timeout": 3}
    assert run.status_codes == {"200": 33}
    assert run.sockets.created == 0 + 1 + 2
    assert run.sockets.closed == 2 + 3 + 4
    assert run.sockets.requests == 5 + 6 + 7
    assert run.retries == 6 + 7 + 8
    assert run.sockets.tls_resumed == 11 + 12 + 13
    assert run.sockets.stale == 12 + 13 + 14
    assert run.sockets.closed_by == {"ttl": 0 + 1 + 2, "only 0": 1, "only 1": 1, "only 2": 1}
    assert run.client.cpu_s == 0.5 + 0.75 + 1.0
    assert run.client.max_rss_mb == 22.0  # the largest, not the sum
    assert [worker.transactions for worker in run.client.workers] == [10, 11, 12]
    assert [worker.cpu_s for worker in run.client.workers] == [0.5, 0.75, 1.0]


def test_the_run_lasts_as_long_as_the_slowest_worker() -> None:
    workers = Workers(2)
    workers.second(0, 1.0, [1000] * 10)
    workers.second(1, 4.0, [1000] * 10)
    run = workers.result()
    assert run.elapsed_s == 4.0
    assert run.transaction_rate == 5.0


def test_unexpected_answers_are_failures_and_no_socket_errors() -> None:
    tally = Workers(2).tally
    for worker in range(2):
        errors = {"unexpected_status": 2, "unexpected_body": 1, "socket_reset": 1}
        totals = Totals(failed_answers=3, status_codes={200: 5, 404: 2}, errors=errors)
        tally.end_second(worker, Second(1.0, totals, sockets_with(), 0.1, 1.0))
    run = tally.agent_run(interrupted=False)
    assert (run.transactions, run.successful_transactions) == (14, 8)
    assert (run.failed_transactions, run.socket_errors) == (8, 2)
    assert run.availability_pct == pytest.approx(100 * 14 / 16)


def test_figures_keep_their_fractions() -> None:
    workers = Workers(1)
    totals = Totals(status_codes={200: 4})
    workers.tally.end_second(0, Second(2.25, totals, sockets_with(created=3, requests=4), 0.125, 20.5))
    workers.end(0, lost=True)
    run = workers.result()
    assert run.agent == "keepalive"
    assert (run.elapsed_s, run.transaction_rate) == (2.25, 1.777778)
    assert (run.client.cpu_s, run.client.cpu_us_per_transaction, run.client.max_rss_mb) == (0.125, 31_250, 20.5)
    (worker,) = run.client.workers
    assert (worker.cpu_s, worker.peak_cpu_pct, worker.lost_at_s) == (0.125, 5.6, 2.25)
    assert run.sockets.req_per_socket == 1.333333


def test_the_cpu_of_a_transaction_is_known_to_a_thousandth_of_a_microsecond() -> None:
    tally = Workers(1).tally
    tally.end_second(0, Second(1.0, Totals(status_codes={200: 3_000}), sockets_with(), 0.1, 1.0))
    assert tally.agent_run(interrupted=False).client.cpu_us_per_transaction == 33.333


def test_a_run_lasts_until_its_last_answer_where_a_worker_says_so() -> None:
    workers = Workers(2)
    for worker in range(2):
        workers.second(worker, 3.5, [1000] * 6)
    workers.tally.end_worker(0, elapsed_s=2.5, lost=False)
    workers.tally.end_worker(1, elapsed_s=3.0, lost=False)
    run = workers.result()
    assert (run.elapsed_s, run.transaction_rate) == (3.0, 4.0)


def test_without_workers_there_is_nothing() -> None:
    run = Workers(0).result()
    assert (run.elapsed_s, run.transactions, run.transaction_rate, run.availability_pct) == (0.0, 0, 0.0, 0.0)
    assert (run.client.cpu_s, run.client.max_rss_mb, run.series) == (0.0, 0.0, [])


def test_percentiles_so_far_are_of_what_has_come() -> None:
    workers = Workers(1)
    assert workers.tally.percentile_s(50) is None
    workers.second(0, 1.0, [1000, 2000, 9000])
    assert workers.tally.percentile_s(50) == 0.002


# -- the series


def test_a_second_is_in_the_series_when_all_workers_have_said_it() -> None:
    workers = Workers(2)
    workers.second(0, 1.0, [1000] * 3)
    workers.second(0, 2.0, [1000] * 4)
    assert workers.tally.series == []
    workers.second(1, 1.0, [3000] * 10)
    (first,) = workers.tally.series
    assert (first.t_s, first.transactions, first.p50_s) == (1.0, 13, 0.003)
    workers.second(1, 2.0, [])
    assert [point.transactions for point in workers.tally.series] == [13, 4]


def test_errors_and_sockets_are_those_of_their_second_however_far_ahead_a_worker_is() -> None:
    workers = Workers(2)
    workers.second(0, 1.0, [1000], sockets=sockets_with(created=1, active=1))
    workers.second(0, 2.0, [1000], errors=5, sockets=sockets_with(created=6, active=2))
    for number in (1.0, 2.0):
        workers.second(1, number, [1000], sockets=sockets_with(created=1, active=1))
    assert [(p.socket_errors, p.created, p.active) for p in workers.tally.series] == [(0, 2, 2), (5, 7, 3)]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_in_whatever_order_workers_are_heard_the_series_is_the_same(data: st.DataObject) -> None:
    seconds = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    orders = data.draw(st.permutations([worker for worker, count in enumerate(seconds) for _ in range(count)]))
    workers = Workers(len(seconds))
    said = [0] * len(seconds)
    expected: Counter[int] = Counter()
    for worker in orders:
        said[worker] += 1
        workers.second(worker, float(said[worker]), [1000] * (worker + said[worker]))
        expected[said[worker]] += worker + said[worker]
    for worker in range(len(seconds)):
        workers.end(worker)
    run = workers.result()
    assert [(point.t_s, point.transactions) for point in run.series] == sorted(expected.items())
    assert sum(point.transactions for point in run.series) == run.transactions


def test_a_short_rest_belongs_to_the_last_whole_second() -> None:
    workers = Workers(1)
    workers.second(0, 1.0, [1000] * 10, errors=1)
    workers.second(0, 2.0, [1000] * 10, errors=2)
    workers.second(0, 2.05, [9000] * 12, errors=4)
    workers.end(0)
    run = workers.result()
    assert [(p.t_s, p.transactions, p.socket_errors, p.p50_s) for p in run.series] == [
        (1.0, 10, 1, 0.001),
        (2.05, 22, 6, 0.009),
    ]
    assert run.socket_errors == 7


def test_errors_are_those_of_each_second_alone() -> None:
    workers = Workers(1)
    for elapsed_s, errors in ((1.0, 1), (2.0, 2), (3.0, 4), (4.0, 0)):
        workers.second(0, elapsed_s, [1000], errors=errors)
    assert [point.socket_errors for point in workers.tally.series] == [1, 2, 4, 0]


def test_a_point_has_the_sockets_as_they_were_at_the_end_of_its_second() -> None:
    workers = Workers(2)
    for worker in range(2):
        workers.second(worker, 1.0, [], sockets=sockets_with(created=9, free=2, active=3, pending=4))
    (point,) = workers.tally.series
    assert (point.created, point.free, point.active, point.pending) == (18, 4, 6, 8)


def test_a_point_s_percentiles_are_nearest_ranks() -> None:
    workers = Workers(1)
    workers.second(0, 1.0, [1000] * 50 + [2000] * 49 + [9000])
    (point,) = workers.tally.series
    assert (point.p50_s, point.p99_s) == (0.001, 0.002)


def test_a_point_is_at_the_latest_time_that_a_worker_says_of_its_second() -> None:
    workers = Workers(3)
    for worker, elapsed_s in ((0, 1.25), (1, 1.5), (2, 1.0)):
        workers.second(worker, elapsed_s, [1000])
    assert [point.t_s for point in workers.tally.series] == [1.5]


def test_a_run_of_less_than_a_second_is_one_point() -> None:
    workers = Workers(1)
    workers.second(0, 0.4, [1000])
    assert [(point.t_s, point.transactions) for point in workers.tally.series] == [(0.4, 1)]


def test_what_was_stopped_in_the_warm_up_is_no_point_and_holds_up_none() -> None:
    workers = Workers(2)
    workers.second(0, 0.0, [])
    workers.second(0, 1.0, [1000])
    assert workers.tally.series == []
    workers.end(1)
    assert [(point.t_s, point.transactions) for point in workers.tally.series] == [(1.0, 1)]


def test_a_longer_rest_is_a_point_of_its_own() -> None:
    workers = Workers(1)
    workers.second(0, 1.0, [1000] * 10)
    workers.second(0, 1.5, [1000] * 5)
    assert [(point.t_s, point.transactions) for point in workers.tally.series] == [(1.0, 10), (1.5, 5)]


def test_a_second_in_which_nothing_came_is_a_point_without_percentiles() -> None:
    workers = Workers(1)
    workers.second(0, 1.0, [])
    (point,) = workers.tally.series
    assert (point.transactions, point.p50_s, point.p99_s) == (0, None, None)


# -- those who leave


def test_a_worker_that_ends_early_keeps_nobody_waiting() -> None:
    workers = Workers(2)
    workers.second(0, 0.4, [1000] * 4)
    workers.end(0)
    for number in (1.0, 2.0):
        workers.second(1, number, [1000] * 10)
    workers.end(1)
    run = workers.result()
    assert [(point.t_s, point.transactions) for point in run.series] == [(1.0, 14), (2.0, 10)]
    assert [worker.lost_at_s for worker in run.client.workers] == [None, None]


def test_of_a_lost_worker_counts_what_it_had_said_whole() -> None:
    workers = Workers(3)
    for number in (1.0, 2.0):
        for worker in range(3):
            workers.second(worker, number, [1000] * 10)
    workers.say(1, ["total", "service"], [5_000_000] * 100)  # of a second that it did not live to end
    workers.end(1, lost=True)
    for worker in (0, 2):
        workers.second(worker, 2.5, [1000] * 5)
        workers.end(worker)
    run = workers.result()
    assert run.transactions == 70 == sum(run.buckets.values()) == sum(point.transactions for point in run.series)
    assert run.response_time_s.max == 0.001
    assert [worker.lost_at_s for worker in run.client.workers] == [None, 2.0, None]
    assert [worker.transactions for worker in run.client.workers] == [25, 20, 25]


def test_a_worker_that_is_lost_before_it_said_anything_leaves_the_others_as_they_are() -> None:
    workers = Workers(2)
    workers.end(0, lost=True)
    workers.second(1, 1.0, [1000] * 10)
    run = workers.result()
    assert run.transactions == 10
    assert [point.transactions for point in run.series] == [10]
    assert run.client.workers[0].lost_at_s == 0.0


def test_the_sockets_of_a_lost_worker_are_closed_and_those_of_one_that_ended_are_as_they_were() -> None:
    workers = Workers(3)
    for worker in range(3):
        workers.second(
            worker, 1.0, [1000], sockets=sockets_with(created=9, closed=2, free=3, active=4, pending=5, requests=1)
        )
    workers.end(0, lost=True)
    workers.end(1)
    workers.second(2, 2.0, [1000], sockets=sockets_with(created=9, closed=2, free=7, active=0, pending=0, requests=2))
    run = workers.result()
    assert (run.sockets.created, run.sockets.closed, run.sockets.requests) == (27, 2 + 3 + 4 + 2 + 2, 1 + 1 + 2)
    assert (run.sockets.free, run.sockets.active, run.sockets.pending) == (3 + 7, 4, 5)
    assert [(p.created, p.free, p.active, p.pending) for p in run.series] == [(27, 9, 12, 15), (27, 10, 4, 5)]


# -- workers who come and go


class Comers:
    """A tally of workers who come when they like, of which two seconds stay open."""

    def __init__(self) -> None:
        self.tally = Tally("locust", [], open_seconds=2)
        self._seen: Counter[int] = Counter()

    def comes(self, name: str) -> int:
        return self.tally.add_worker(WorkerRecord(name=name, host="h", transactions=0))

    def second(self, worker: int, elapsed_s: float, answers: int) -> None:
        self.tally.add_counts(worker, Counts(("total",), {1000: answers}))
        self._seen[worker] += answers
        so_far = self._seen[worker]
        totals = Totals(status_codes={200: so_far}, errors={"socket_timeout": so_far})
        self.tally.end_second(worker, Second(elapsed_s, totals, sockets_with(active=1), 0.1, 1.0))

    def series(self) -> list[tuple[float, int, int, int | None]]:
        return [(point.t_s, point.transactions, point.socket_errors, point.active) for point in self.tally.series]


def test_a_second_of_workers_who_come_when_they_like_is_known_by_its_time() -> None:
    comers = Comers()
    assert comers.comes("first") == 0
    comers.second(0, 1.0, 10)
    comers.second(0, 2.25, 20)  # a quarter of a second late, it is still the second one
    assert comers.comes("second") == 1
    comers.second(1, 2.0, 2)
    assert comers.series() == []
    comers.second(1, 3.3, 3)  # later than that, it is of the next
    assert comers.series() == [(1.0, 10, 10, 1), (2.25, 22, 22, 2)]
    comers.second(0, 3.0, 30)
    comers.tally.end()
    assert comers.series() == [(1.0, 10, 10, 1), (2.25, 22, 22, 2), (3.0, 30, 30, 2), (3.3, 3, 3, 2)]
    run = comers.tally.agent_run(interrupted=False)
    assert [(worker.name, worker.transactions) for worker in run.client.workers] == [("first", 60), ("second", 5)]


def test_what_is_said_of_a_second_that_is_over_belongs_to_the_first_that_is_open() -> None:
    comers = Comers()
    comers.comes("first")
    for elapsed_s in (1.0, 2.0, 3.0, 4.0):
        comers.second(0, elapsed_s, 10)
    assert [point.t_s for point in comers.tally.series] == [1.0, 2.0]
    late = comers.comes("late")
    comers.second(late, 0.5, 5)
    comers.tally.end()
    assert comers.series() == [(1.0, 10, 10, 1), (2.0, 10, 10, 1), (3.0, 15, 15, 2), (4.0, 10, 10, 2)]


def test_the_time_of_the_series_never_runs_back() -> None:
    comers = Comers()
    comers.comes("first")
    comers.second(0, 1.0, 10)
    comers.second(0, 4.0, 10)
    comers.second(comers.comes("late"), 0.5, 5)
    comers.tally.end()
    assert [(point.t_s, point.transactions) for point in comers.tally.series] == [(1.0, 15), (4.0, 10)]


def test_a_worker_that_was_lost_and_is_heard_again_is_waited_for_again() -> None:
    comers = Comers()
    for name in ("first", "second"):
        comers.comes(name)
    comers.second(1, 1.0, 1)
    comers.tally.end_worker(1, lost=True)
    comers.tally.take_back(1)
    for elapsed_s in (1.0, 2.0, 3.0, 4.0):
        comers.second(0, elapsed_s, 10)
    assert [point.t_s for point in comers.tally.series] == [1.0]
    comers.second(1, 4.0, 1)
    assert [point.t_s for point in comers.tally.series] == [1.0, 2.0]
    run = comers.tally.agent_run(interrupted=False)
    assert [worker.lost_at_s for worker in run.client.workers] == [None, None]


# -- saturated


@pytest.mark.parametrize(
    ("cpu_s", "lag_us", "saturated"),
    [
        ((1.0, 1.0), 1000, False),
        ((1.0, 1.79), 1000, False),
        ((1.0, 1.8), 1000, True),  # one worker at 90 % of its core is enough
        ((1.0, 1.0), 10_000, False),
        ((1.0, 1.0), 11_000, True),
    ],
)
def test_kabench_is_the_bottleneck_if_a_worker_used_its_core_or_sent_late(
    cpu_s: tuple[float, float], lag_us: int, saturated: bool
) -> None:
    workers = Workers(2)
    for worker in range(2):
        workers.say(worker, ["lag"], [lag_us] * 10)
        workers.second(worker, 2.0, [1000] * 10, cpu_s=cpu_s[worker])
    assert workers.result().saturated is saturated


@pytest.mark.parametrize(
    ("seconds", "peak_pct"),
    [
        ([(1.0, 0.25), (2.0, 1.0), (3.0, 1.5)], 75.0),  # of the busiest second, not of all
        ([(1.0, 1.02)], 100.0),  # the clock of the CPU went on a step more than the other
        ([(2.0, 1.0)], 50.0),
        ([(0.5, 0.4)], 80.0),
        ([(0.4, 0.4)], 0.0),
        ([(1.0, 0.5), (1.4, 0.9), (2.4, 1.6)], 70.0),  # what is shorter than half a second says nothing
    ],
)
def test_a_worker_s_share_of_its_core_is_that_of_its_busiest_second_and_at_most_all_of_it(
    seconds: list[tuple[float, float]], peak_pct: float
) -> None:
    workers = Workers(1)
    for elapsed_s, cpu_s in seconds:
        workers.second(0, elapsed_s, [1000], cpu_s=cpu_s)
    assert workers.result().client.workers[0].peak_cpu_pct == peak_pct


def test_a_few_that_are_late_do_not_make_it_the_bottleneck() -> None:
    workers = Workers(1)
    workers.say(0, ["lag"], [10] * 995 + [500_000] * 5)
    workers.second(0, 1.0, [1000] * 1000)
    assert not workers.result().saturated
