"""What a report says in words: what was asked, who was the bottleneck, and what the figures hide."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kabench.histogram import Distribution, LatencyStats
from kabench.load import LoadPlan
from kabench.load.plan.pacing import Stage
from kabench.load.plan.targets import LoadTarget
from kabench.report import render_result
from kabench.report.binds import limit_that_binds
from kabench.report.words import (
    bottleneck,
    corrected_percentile_us,
    headline,
    lost,
    not_started,
    warnings,
    what_the_closed_model_hides,
)
from kabench.result import Client, WorkerRecord
from tests.test_result import a_result, a_run

if TYPE_CHECKING:
    from kabench.result import AgentRun, RunResult


def printed(result: RunResult) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(render_result(result))
    text = out.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 80
    return text


def stats_of(*values_us: int) -> LatencyStats:
    times = Distribution()
    times.add((value, 1) for value in values_us)
    return times.stats()


def run_of(values_us: list[int], **given: Any) -> AgentRun:
    times = Distribution()
    times.add((value, 1) for value in values_us)
    return a_run(response_time_s=times.stats(), hdr={"total": times.encoded()}, **given)


# -- the headline


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, ["POST kabench's own echo server, 5 ms", "60 users", "50 sockets", "1000 requests per user"]),
        ({"rate": 2000.0}, ["2000 requests/s, unlimited sockets, 10"]),
        ({"rate": 0.5, "total": 7}, ["0.5 requests/s", "7 requests"]),
        ({"rate": 50.0, "arrivals": "poisson"}, ["50 requests/s at random"]),
        (
            {"rate": 100.0, "stages": (Stage(10, 500), Stage(30, 2000))},
            ["100 requests/s at the start, then to 500 over 10 s, to 2000 over 30 s"],
        ),
        ({"stages": (Stage(5, 20), Stage(5, 0))}, ["1 user at the start, then to 20 over 5 s, to 0 over 5 s"]),
        ({"warmup_s": 2.5}, ["after a warm-up of 2.5 s"]),
        ({"workers": 3}, ["3 workers"]),
        ({"url": "http://h/x", "method": "GET"}, ["GET http://h/x"]),
        ({"targets": (LoadTarget(url="http://h/a"), LoadTarget(url="http://h/b"))}, ["http://h/a and 1 other"]),
        ({"url": "https://h/", "insecure": True}, ["certificates are not verified"]),
    ],
)
def test_the_headline_says_what_was_asked_for(given: dict[str, Any], says: list[str]) -> None:
    text = headline(a_result(plan=LoadPlan(**given).as_record()))
    for part in says:
        assert part in text
    assert "None" not in text


# -- the bottleneck


def saturated_run(*cpu_s: float, lag_s: LatencyStats | None = None, saturated: bool = True) -> AgentRun:
    workers = [
        WorkerRecord(name=f"worker-{number}", host="h", transactions=1, cpu_s=cpu, peak_cpu_pct=50 * cpu)
        for number, cpu in enumerate(cpu_s, 1)
    ]
    return a_run(elapsed_s=2.0, saturated=saturated, client=Client(workers=workers), lag_s=lag_s or LatencyStats())


def test_a_worker_that_used_its_core_is_named() -> None:
    binding = limit_that_binds(saturated_run(1.0, 1.9), {})
    assert binding is not None
    assert binding.text.startswith("kabench itself: worker-2 used 95 % of its core in its busiest second.")
    assert "More workers" in binding.text
    assert bottleneck(saturated_run(1.0, 1.9), {}) is None  # it is said already


def test_lag_is_named_with_its_p99() -> None:
    text = bottleneck(saturated_run(1.0, lag_s=stats_of(*[12_500] * 100)), {})
    assert text is not None
    assert "requests were sent late (p99 of the lag: 12.5 ms)" in text
    assert "core" not in text


def test_where_there_was_room_nothing_is_said() -> None:
    assert bottleneck(saturated_run(1.0, saturated=False), {}) is None
    assert "limits" not in printed(a_result(a_run()))


def test_a_worker_that_was_lost_early_is_named_if_it_was_busy_until_then() -> None:
    lost = WorkerRecord(name="worker-1", host="h", transactions=1, cpu_s=0.98, peak_cpu_pct=98.0, lost_at_s=1.0)
    other = WorkerRecord(name="worker-2", host="h", transactions=1, cpu_s=1.0)
    binding = limit_that_binds(a_run(elapsed_s=10.0, saturated=True, client=Client(workers=[lost, other])), {})
    assert binding is not None
    assert "worker-1 used 98 % of its core" in binding.text


# -- not started


def test_what_was_not_started_is_said_with_its_number() -> None:
    assert not_started(a_run()) is None
    text = not_started(a_run(not_started=17))
    assert text is not None
    assert text.startswith("17 requests due but not started")
    assert "17 requests due but not started" in printed(a_result(a_run(not_started=17)))


# -- what the closed model hides


def corrected_by_hand(values: list[int], interval: int, percent: float) -> int:
    """HdrHistogram's recordValueWithExpectedInterval, value by value: the smallest value that enough do not exceed."""
    corrected = []
    for value in values:
        corrected.append(value)
        missing = value - interval
        while missing >= interval:
            corrected.append(missing)
            missing -= interval
    corrected.sort()
    allowed_above = len(corrected) * (100 - percent) / 100
    return next(value for value in corrected if sum(1 for other in corrected if other > value) <= allowed_above + 1e-9)


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=40),
    st.integers(20, 4000),
    st.sampled_from([50.0, 90.0, 99.0, 100.0]),
)
def test_the_correction_is_hdrhistogram_s(values: list[int], interval: int, percent: float) -> None:
    cells = [(value, values.count(value)) for value in sorted(set(values))]
    got = corrected_percentile_us(cells, interval, percent)
    assert got == pytest.approx(corrected_by_hand(values, interval, percent), abs=2)


def test_a_stall_that_users_hid_is_said() -> None:
    """A hundred users, 5 ms an answer, and once all of them waited for 10 s."""
    run = run_of([5_000] * 19_900 + [10_000_000] * 100)
    assert run.response_time_s.p99 == pytest.approx(0.005, rel=0.01)
    text = what_the_closed_model_hides(run, {"concurrency": 100})
    assert text is not None
    assert "This is the closed model" in text
    assert "not 5 ms; --rate measures it" in text
    assert "closed model" in printed(a_result(run, plan={"concurrency": 100}))


def test_an_even_run_hides_nothing() -> None:
    assert what_the_closed_model_hides(run_of(list(range(5_000, 9_000))), {"concurrency": 60}) is None


def test_the_open_model_is_not_warned_about() -> None:
    run = run_of([5_000] * 19_900 + [10_000_000] * 100)
    assert what_the_closed_model_hides(run, {"rate": 100.0}) is None


def test_a_run_without_an_answer_hides_nothing() -> None:
    assert what_the_closed_model_hides(a_run(response_time_s=LatencyStats()), {}) is None


# -- the times


def test_response_service_and_lag_stand_beside_each_other() -> None:
    run = a_run(
        response_time_s=stats_of(*[30_000] * 10), service_time_s=stats_of(*[20_000] * 10), lag_s=stats_of(*[1_000] * 10)
    )
    text = printed(a_result(run, plan={"rate": 100.0}))
    (head,) = [line for line in text.splitlines() if line.startswith("Times (ms)")]
    assert head.split() == ["Times", "(ms)", "response", "service", "lag"]
    (row,) = [line for line in text.splitlines() if line.startswith("p99 ")]
    response, service, lag = (float(cell) for cell in row.split()[1:])
    assert (response, service, lag) == pytest.approx((30, 20, 1), rel=0.002)
    assert "from when a request was due until its last byte" in " ".join(text.split())
    assert "lag: how late kabench gave it" in " ".join(text.split())


def test_users_have_no_lag() -> None:
    run = a_run(service_time_s=stats_of(20_000))
    text = printed(a_result(run))
    (head,) = [line for line in text.splitlines() if line.startswith("Times (ms)")]
    assert head.split() == ["Times", "(ms)", "response", "service"]
    assert "a user wanted to send a request" in " ".join(text.split())


def test_workers_that_were_lost_are_named_with_what_became_of_their_figures() -> None:
    workers = [
        WorkerRecord(name="worker-1", host="here", transactions=5),
        WorkerRecord(name="worker-2", host="there", transactions=5, lost_at_s=3.04),
    ]
    run = a_run(client=Client(workers=workers))
    assert lost(run) == (
        "worker-2 on there was lost; its last report came after 3.0 s. "
        "The figures include what was reported until then."
    )
    assert warnings(run, {}) == [lost(run)]
    assert lost(a_run()) is None
