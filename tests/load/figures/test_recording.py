"""From finished requests to figures, with made-up times: what is counted where, and that nothing is lost on the way."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from kabench.agent.aio import ResponseHead
from kabench.agent.aio.request import prepare
from kabench.load.figures.answer import Answer
from kabench.load.figures.load_exchange import LoadExchange
from kabench.load.figures.messages import Counts, Second, Totals, decode, encode
from kabench.load.figures.recorder import Recorder, recorder_for
from kabench.load.figures.tally import Tally
from kabench.load.plan import LoadPlan
from kabench.result import WorkerRecord
from tests.load.loads import sockets_with

if TYPE_CHECKING:
    from kabench.result import AgentRun

WORKER = WorkerRecord(name="w", host="h", transactions=0)
PREPARED = prepare("GET", "http://h/", None, None, keep_alive=True)


def head(status: int = 200) -> ResponseHead:
    return ResponseHead(status, "", "1.1", (), 0, True, None)


def finish(
    recorder: Recorder,
    status: int = 200,
    body: bytes = b"0123456789",
    *,
    end: float,
    due: float | None = None,
    passed_bytes: int = 0,
    **times_ms: float,
) -> None:
    """Record an exchange whose times are given in milliseconds; what is left out did not happen."""
    exchange = LoadExchange(PREPARED, 0.0)
    exchange.passed_bytes = passed_bytes
    for name, milliseconds in times_ms.items():
        setattr(exchange, f"{name}_at", milliseconds / 1000)
    if "first_byte" not in times_ms:
        exchange.first_byte_at = end / 1000
    if due is None:
        recorder.record(exchange, head(status), body, end / 1000)
    else:
        recorder.record_due(exchange, head(status), body, due / 1000, end / 1000)


def seconds_counted(recorder: Recorder) -> dict[str, dict[float, int]]:
    """The latencies of each phase, in seconds and exactly, and how often each was counted."""
    found: dict[str, Counter[float]] = {}
    for counts in recorder.take_counts():
        for phase in counts.phases:
            found.setdefault(phase, Counter()).update({us / 1e6: times for us, times in counts.counts.items()})
    return {phase: dict(counts) for phase, counts in found.items()}


def tally(recorder: Recorder, elapsed_s: float = 1.0, **sockets: int) -> AgentRun:
    made = Tally("keepalive", [WORKER])
    for counts in recorder.take_counts():
        received = decode(encode(counts))
        assert isinstance(received, Counts)
        made.add_counts(0, received)
    of_targets = recorder.totals_of_targets()
    made.end_second(0, Second(elapsed_s, recorder.totals(), sockets_with(**sockets), 0.5, 20.0, of_targets))
    return made.agent_run(interrupted=False)


def milliseconds(seconds: float | None) -> float:
    assert seconds is not None
    return seconds * 1000


def test_a_request_that_waited_for_nothing() -> None:
    recorder = Recorder()
    finish(recorder, started=1000, sent=1000, end=1005)
    run = tally(recorder)
    assert milliseconds(run.response_time_s.max) == pytest.approx(5, abs=0.01)
    assert run.service_time_s == run.response_time_s == run.phases.first_byte == run.phases.total
    assert run.phases.queue.max == 0.0
    assert run.phases.connect.max is None


def test_a_request_that_waited_for_a_socket() -> None:
    recorder = Recorder()
    finish(recorder, started=1000, sent=1003, end=1010)
    run = tally(recorder)
    assert milliseconds(run.response_time_s.max) == pytest.approx(10, abs=0.01)
    assert milliseconds(run.service_time_s.max) == pytest.approx(7, abs=0.01)
    assert milliseconds(run.phases.queue.max) == pytest.approx(3, abs=0.01)
    assert milliseconds(run.phases.first_byte.max) == pytest.approx(7, abs=0.01)


def test_a_request_that_waited_then_connected_and_got_its_answer_in_pieces() -> None:
    recorder = Recorder()
    finish(recorder, started=1000, opening=1002, sent=1005, first_byte=1009, end=1020)
    run = tally(recorder)
    phases = run.phases
    assert [milliseconds(p.max) for p in (phases.queue, phases.connect, phases.first_byte, phases.total)] == [
        pytest.approx(value, abs=0.01) for value in (2, 3, 4, 20)
    ]
    assert milliseconds(run.service_time_s.max) == pytest.approx(15, abs=0.01)


def test_a_request_that_was_sent_twice_counts_from_the_first_time() -> None:
    recorder = Recorder()
    finish(recorder, started=1000, first_sent=1001, opening=1004, sent=1006, end=1010)
    run = tally(recorder)
    assert milliseconds(run.response_time_s.max) == pytest.approx(10, abs=0.01)
    assert milliseconds(run.service_time_s.max) == pytest.approx(9, abs=0.01)
    assert run.phases.connect.max is None


WAYS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "at once": (
        {"started": 1, "sent": 1, "end": 3},
        {"queue": 0, "first_byte": 2, "service": 2, "body": 0, "total": 2},
    ),
    "waited": (
        {"started": 1, "sent": 2, "end": 5},
        {"queue": 1, "first_byte": 3, "service": 3, "body": 0, "total": 4},
    ),
    "at once, in pieces": (
        {"started": 1, "sent": 1, "first_byte": 2, "end": 4},
        {"queue": 0, "first_byte": 1, "service": 3, "body": 2, "total": 3},
    ),
    "waited, in pieces": (
        {"started": 1, "sent": 3, "first_byte": 4, "end": 7},
        {"queue": 2, "first_byte": 1, "service": 4, "body": 3, "total": 6},
    ),
    "connected": (
        {"started": 1, "opening": 2, "sent": 4, "end": 9},
        {"queue": 1, "connect": 2, "first_byte": 5, "service": 5, "body": 0, "total": 8},
    ),
    "connected, in pieces": (
        {"started": 1, "opening": 2, "sent": 4, "first_byte": 7, "end": 12},
        {"queue": 1, "connect": 2, "first_byte": 3, "service": 8, "body": 5, "total": 11},
    ),
    "sent twice": (
        {"started": 1, "first_sent": 2, "opening": 4, "sent": 6, "first_byte": 9, "end": 14},
        {"queue": 1, "first_byte": 7, "service": 12, "body": 5, "total": 13},
    ),
}
"""When it happened, in seconds, and how long each phase is."""


@pytest.mark.parametrize(("times_s", "phases"), WAYS.values(), ids=WAYS)
def test_each_phase_is_counted_once_in_whole_microseconds(times_s: dict[str, float], phases: dict[str, float]) -> None:
    recorder = Recorder()
    for times in (1, 2):
        finish(recorder, **{name: 1000 * at_s for name, at_s in times_s.items()})  # type: ignore[arg-type]  # a name each
        assert recorder.transactions == times
    assert seconds_counted(recorder) == {phase: {seconds: 2} for phase, seconds in phases.items()}


@pytest.mark.parametrize(("times_s", "phases"), WAYS.values(), ids=WAYS)
def test_the_response_time_of_a_request_that_was_due_begins_then(
    times_s: dict[str, float], phases: dict[str, float]
) -> None:
    recorder = Recorder()
    for times in (1, 2):
        finish(recorder, due=250, **{name: 1000 * at_s for name, at_s in times_s.items()})  # type: ignore[arg-type]
        assert recorder.transactions == times
    expected = phases | {"total": times_s["end"] - 0.25}
    assert seconds_counted(recorder) == {phase: {seconds: 2} for phase, seconds in expected.items()}


@pytest.mark.parametrize("due", [None, 0.0])
def test_a_body_counts_with_what_was_let_go_of_it(due: float | None) -> None:
    recorder = Recorder()
    for _ in range(2):
        finish(recorder, 201, b"12345", started=0, sent=0, end=1, due=due, passed_bytes=1000)
        finish(recorder, 201, b"12345", started=0, sent=0, end=1, due=due)
    assert recorder.totals() == Totals(body_bytes=2020, wire_bytes=2020, status_codes={201: 4})


def test_a_lag_is_counted_as_such() -> None:
    recorder = Recorder()
    for seconds in (2.0, 2.0, 3.0):
        recorder.record_lag(seconds)
    assert seconds_counted(recorder) == {"lag": {2.0: 2, 3.0: 1}}


def test_of_an_exchange_that_somebody_else_has_measured_the_whole_is_known() -> None:
    recorder = Recorder()
    for _ in range(2):
        recorder.record_undivided(Answer(200, b"12345"), 2.0)
        recorder.record_reported(404, 100, 3.0, "unexpected_status")
    assert seconds_counted(recorder) == {"total": {2.0: 2, 3.0: 2}, "failed": {3.0: 2}}
    assert recorder.totals() == Totals(
        body_bytes=210,
        wire_bytes=None,
        failed_answers=2,
        status_codes={200: 2, 404: 2},
        errors={"unexpected_status": 2},
    )


def test_what_somebody_else_has_measured_fails_only_if_they_say_so() -> None:
    recorder = Recorder()
    recorder.record_reported(404, 100, 3.0, None)
    assert recorder.totals().failed_answers == 0


def test_bodies_count_with_the_bytes_that_came_where_a_client_tells() -> None:
    recorder = Recorder()
    recorder.record_undivided(Answer(200, b"12345", wire_bytes=3), 2.0)
    assert (recorder.totals().body_bytes, recorder.totals().wire_bytes) == (3, 3)
    recorder.record_undivided(Answer(200, b"12345"), 2.0)
    assert (recorder.totals().body_bytes, recorder.totals().wire_bytes) == (8, None)


def test_what_was_not_started_is_in_the_totals() -> None:
    recorder = Recorder()
    assert recorder.totals() == Totals()
    recorder.not_started += 3
    assert recorder.totals().not_started == 3


@pytest.mark.parametrize(
    ("statuses", "expected_body", "status", "body", "error"),
    [
        ((200,), None, 200, b"", None),
        ((200, 404), None, 404, b"", None),
        ((200,), None, 404, b"", "unexpected_status"),
        ((200,), b"ok", 404, b"bad", "unexpected_status"),
        ((404,), b"no", 404, b"nobody", None),
        ((404,), b"no", 404, b"bad", "unexpected_body"),
        ((), b"ok", 200, b"all is ok", None),
        ((), b"ok", 200, b"bad", "unexpected_body"),
        ((), b"ok", 399, b"bad", "unexpected_body"),
        ((), b"ok", 400, b"bad", None),  # it has failed already
        ((), b"ok", 103, b"ok", "no_final_status"),
        ((200,), None, 600, b"", "no_final_status"),
        ((600,), None, 600, b"", None),
    ],
)
@pytest.mark.parametrize("way", ["record", "record_due", "record_undivided"])
def test_an_answer_is_unexpected_by_its_status_or_else_by_its_body(
    way: str, statuses: tuple[int, ...], expected_body: bytes | None, status: int, body: bytes, error: str | None
) -> None:
    recorder = recorder_for(LoadPlan(expect_status=statuses, expect_body=expected_body))
    for _ in range(2):
        if way == "record_undivided":
            recorder.record_undivided(Answer(status, body, len(body)), 2.0)
        else:
            finish(recorder, status, body, started=0, sent=0, end=2000, due=None if way == "record" else 0)
    has_failed = error is not None or (not statuses and status >= 400)
    assert recorder.totals() == Totals(
        body_bytes=2 * len(body),
        wire_bytes=2 * len(body),
        failed_answers=2 if has_failed else 0,
        status_codes={status: 2},
        errors={} if error is None else {error: 2},
    )
    assert seconds_counted(recorder)["total"] == {2.0: 2}


def test_a_plan_that_expects_nothing_has_no_answer_looked_at() -> None:
    assert type(recorder_for(LoadPlan())) is Recorder


@pytest.mark.parametrize(
    ("first_sent", "opening", "queue"),
    [(1001, 1100, 1), (1100, 1001, 1), (1100, 1100, 100)],
)
def test_a_request_that_was_sent_twice_waited_until_it_was_first_sent_or_a_socket_was_opened_for_it(
    first_sent: float, opening: float, queue: float
) -> None:
    recorder = Recorder()
    finish(recorder, started=1000, first_sent=first_sent, opening=opening, sent=1106, end=1110)
    assert milliseconds(tally(recorder).phases.queue.max) == pytest.approx(queue, abs=0.01)


def test_every_phase_has_every_request_it_should() -> None:
    rng = random.Random(5)
    recorder = Recorder()
    connected = 0
    for _ in range(1000):
        kind = rng.choice(["at once", "queued", "connected", "in pieces"])
        times = {"started": 1000.0, "sent": 1000.0, "end": 1005.0}
        if kind != "at once":
            times |= {"sent": 1001.0 + rng.random()}
        if kind == "connected":
            connected += 1
            times |= {"opening": 1000.5}
        if kind == "in pieces":
            times |= {"first_byte": 1003.0}
        finish(recorder, **times)  # type: ignore[arg-type]  # names and milliseconds
    recorded = {"total": 0, "service": 0, "first_byte": 0, "body": 0, "queue": 0, "connect": 0}
    for counts in recorder.take_counts():
        for phase in counts.phases:
            recorded[phase] += sum(counts.counts.values())
    always = dict.fromkeys(("total", "service", "first_byte", "body", "queue"), 1000)
    assert recorded == always | {"connect": connected}
    assert recorder.take_counts() == []


def test_siege_s_arithmetic() -> None:
    recorder = Recorder()
    for status, times in ((200, 7), (302, 1), (404, 1), (500, 1)):
        for _ in range(times):
            finish(recorder, status, b"x" * 2**20, started=0, sent=0, end=500)
    for _ in range(2):
        recorder.record_unanswered("socket_timeout", 8.0, was_sent=True)
    run = tally(recorder, elapsed_s=4.0, created=5, requests=10, free=2, closed=3)
    assert (run.transactions, run.successful_transactions, run.failed_transactions, run.socket_errors) == (10, 8, 4, 2)
    assert run.availability_pct == pytest.approx(100 * 10 / 12)
    assert run.data_transferred_bytes == 10 * 2**20
    assert (run.transaction_rate, run.throughput_mb_s, run.concurrency) == (2.5, 2.5, 1.25)
    assert run.status_codes == {"200": 7, "302": 1, "404": 1, "500": 1}
    assert run.errors == {"socket_timeout": 2}
    assert run.sockets.req_per_socket == 2.0
    assert run.buckets[">=200ms"] == 10
    assert run.client.cpu_us_per_transaction == 50_000
    assert not run.saturated


def test_seconds_become_a_series_and_add_up() -> None:
    recorder = Recorder()
    made = Tally("plain", [WORKER])
    for second in (1, 2):
        for _ in range(10 * second):
            finish(recorder, started=0, sent=0, end=5 * second)
        for counts in recorder.take_counts():
            made.add_counts(0, counts)
        made.end_second(0, Second(float(second), recorder.totals(), sockets_with(created=second), 1.9, 1.0))
    made.end_worker(0, lost=True)
    run = made.agent_run(interrupted=True)
    assert [(point.t_s, point.transactions, point.p50_s, point.created) for point in run.series] == [
        (1.0, 10, 0.005, 1),
        (2.0, 20, 0.01, 2),
    ]
    assert run.transactions == 30
    assert run.interrupted
    assert run.saturated  # 1.9 s of CPU in 2 s
    assert run.client.workers[0].lost_at_s == 2.0


def test_a_worker_that_said_nothing_is_an_empty_run() -> None:
    made = Tally("plain", [WORKER])
    made.end_worker(0, lost=True)
    run = made.agent_run(interrupted=True)
    assert (run.transactions, run.transaction_rate, run.response_time_s.mean) == (0, 0.0, None)


def test_requests_without_an_answer_are_counted_by_kind_with_what_was_sent_and_how_long_they_waited() -> None:
    recorder = Recorder()
    finish(recorder, started=0, sent=0, end=500)
    recorder.record_unanswered("socket_timeout", 2.0, was_sent=True)
    recorder.record_unanswered("socket_timeout", 4.0, was_sent=True)
    recorder.record_unanswered("cut_off", 1.0, was_sent=False)
    run = tally(recorder)
    assert run.errors == {"cut_off": 1, "socket_timeout": 2}
    assert {kind: (each.count, each.sent) for kind, each in run.unanswered.items()} == {
        "cut_off": (1, 0),
        "socket_timeout": (2, 2),
    }
    assert run.unanswered["socket_timeout"].waited_s.mean == 3.0
    assert run.failed_pct == 75.0
    of_all = run.response_time_all_s
    assert of_all is not None
    assert (of_all.answered_pct, of_all.p50) == (25.0, None)
    assert of_all.at_least_s["p50"] == pytest.approx(1.0, rel=0.001)  # the one that waited the least of the unanswered
    assert of_all.at_least_s["p99"] == pytest.approx(4.0, rel=0.001)


def test_what_was_interrupted_is_no_failure() -> None:
    recorder = Recorder()
    finish(recorder, started=0, sent=0, end=500)
    recorder.record_unanswered("interrupted", 0.25, was_sent=True)
    run = tally(recorder)
    assert (run.failed_pct, run.errors, run.socket_errors) == (0.0, {}, 0)
    assert run.response_time_all_s is not None
    assert run.response_time_all_s.max == 0.5
    assert (run.unanswered["interrupted"].count, run.unanswered["interrupted"].sent) == (1, 1)


def test_a_client_that_does_not_tell_what_it_sent_has_no_count_of_it() -> None:
    recorder = Recorder()
    recorder.record_unanswered("read_timeout", 1.0, was_sent=None)
    assert tally(recorder).unanswered["read_timeout"].sent is None


def test_the_times_of_successful_answers_are_known_apart_from_those_of_failed_ones() -> None:
    recorder = Recorder()
    for _ in range(3):
        finish(recorder, 500, started=0, sent=0, end=1)
    finish(recorder, 200, started=0, sent=0, end=800)
    run = tally(recorder)
    assert run.response_time_s.p50 == 0.001
    assert run.successful_response_time_s is not None
    assert run.successful_response_time_s.min == pytest.approx(0.8, rel=0.001)
    assert run.successful_response_time_s.mean == 0.8


def test_each_target_has_figures_of_its_own_and_all_add_up() -> None:
    recorder = recorder_for(LoadPlan(), ["GET /a", "GET /b"])
    for target, times in ((0, 3), (1, 1)):
        for _ in range(times):
            exchange = LoadExchange(PREPARED, 0.0)
            exchange.started_at, exchange.sent_at, exchange.first_byte_at = 1.0, 1.0, 1.5
            exchange.target = target
            recorder.record(exchange, head(200 if target else 503), b"12345", 1.5)
    recorder.record_unanswered("socket_timeout", 2.0, was_sent=True, target=1)
    run = tally(recorder)
    assert (run.transactions, run.failed_transactions) == (4, 4)
    first, second = run.targets
    assert (first.name, first.transactions, first.failed_pct) == ("GET /a", 3, 100.0)
    assert (second.name, second.transactions, second.socket_errors, second.failed_pct) == ("GET /b", 1, 1, 50.0)
    assert second.phases.first_byte.p50 == pytest.approx(0.5, rel=0.001)
