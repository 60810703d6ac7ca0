"""The cycle of one exchange, alone: what was sent and what came go in, what to do comes out."""

from __future__ import annotations

import errno
import ssl
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kabench.agent import (
    AgentError,
    IncompleteResponseError,
    ResponseParseError,
    SocketClosedError,
    SocketTimeoutError,
    StaleSocketError,
)
from kabench.agent.book import CloseReason
from kabench.agent.cycle import Cycle, Failed, Finished, Go, SendAgain, SentRequest, why_idle_ended
from kabench.agent.reader import ResponseReader

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RESET = ConnectionResetError(errno.ECONNRESET, "reset")
GET = SentRequest(repeatable=True)
POST = SentRequest(has_body=True)


def a_cycle(request: SentRequest = GET, *, reused: bool = True, is_head: bool = False, is_sent: bool = True) -> Cycle:
    reader = ResponseReader()
    reader.begin(is_head_request=is_head)
    cycle = Cycle(request, reader, "http://a:80", reused=reused)
    if is_sent:
        cycle.sent()
    return cycle


def fed(cycle: Cycle, *pieces: bytes) -> Any:
    step: Any = None
    for piece in pieces:
        cycle.reader.feed(piece)
        step = cycle.received()
    return step


def test_a_whole_response_ends_the_exchange_and_the_socket_may_be_used_again() -> None:
    assert fed(a_cycle(), OK[:30]) is Go.READ_ON
    assert fed(a_cycle(), OK[:30], OK[30:]) == Finished(reusable=True)


@pytest.mark.parametrize(
    ("request_", "raw"),
    [
        (SentRequest(closes=True), OK),
        (GET, OK + b"more"),
        (GET, OK.replace(b"1.1 200", b"1.0 200")),
        (GET, b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n" + OK),
        (SentRequest(expects_continue=True), OK),
        (SentRequest(asks_to_switch=True), b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n"),
    ],
)
def test_what_forbids_to_use_a_socket_again(request_: SentRequest, raw: bytes) -> None:
    assert fed(a_cycle(request_), raw) == Finished(reusable=False)


def test_ak_52_a_100_before_the_answer_lets_it_be_reused() -> None:
    assert fed(a_cycle(SentRequest(expects_continue=True)), b"HTTP/1.1 100 Continue\r\n\r\n" + OK).reusable


def test_ak_50_an_early_answer_ends_sending_if_the_rest_is_not_wanted() -> None:
    refusal = b"HTTP/1.1 413 Too large\r\nContent-Length: 3\r\n\r\n"
    cycle = a_cycle(POST, is_sent=False)
    assert fed(cycle, refusal) is Go.STOP_SENDING
    assert not cycle.is_sending
    assert fed(cycle, b"big") == Finished(reusable=False)
    cycle = a_cycle(POST, is_sent=False)
    assert fed(cycle, OK[:-1]) is Go.READ_ON  # a server that answers as it reads gets the rest
    assert cycle.is_sending
    cycle.sent()
    assert fed(cycle, b"k") == Finished(reusable=False)


def test_ak_50_when_sending_fails_what_was_said_before_is_read() -> None:
    cycle = a_cycle(POST, is_sent=False)
    cycle.send_failed()
    assert not cycle.is_sending
    assert fed(cycle, OK) == Finished(reusable=False)


@pytest.mark.parametrize("how", ["closed", "broken"])
@pytest.mark.parametrize(
    ("request_", "reused", "came", "error"),
    [
        (GET, True, b"", None),
        (POST, True, b"", StaleSocketError),
        (GET, False, b"", SocketClosedError),
        (GET, True, b"HTTP/1.1 1", IncompleteResponseError),
        (GET, True, b"HTTP/1.1 100 Continue\r\n\r\n", IncompleteResponseError),
        (POST, False, OK[:-1], IncompleteResponseError),
    ],
)
def test_ak_34_what_the_end_of_a_socket_means(
    how: str, request_: SentRequest, reused: bool, came: bytes, error: type[Exception] | None
) -> None:
    cycle = a_cycle(request_, reused=reused)
    if came:
        assert fed(cycle, came) is Go.READ_ON
    step = cycle.closed() if how == "closed" else cycle.broken(RESET)
    reason = CloseReason.SERVER_CLOSED if how == "closed" else CloseReason.ERROR
    if error is None:
        assert step == SendAgain(reason)
        return
    assert isinstance(step, Failed)
    assert (type(step.error), step.reason) == (error, reason)
    assert step.is_stale is (error is StaleSocketError)
    assert step.error.__cause__ is (None if how == "closed" else RESET)
    assert isinstance(step.error, SocketClosedError)
    assert step.error.reused_socket is reused


def test_a_body_that_ends_with_the_connection_needs_a_clean_end() -> None:
    until_close = b"HTTP/1.1 200 OK\r\n\r\nok"
    cycle = a_cycle()
    fed(cycle, until_close)
    assert cycle.closed() == Finished(reusable=False)
    for end in (lambda cycle: cycle.closed(cut_off=True), lambda cycle: cycle.broken(RESET)):
        cycle = a_cycle()
        fed(cycle, until_close)
        assert isinstance(end(cycle), Failed)  # type: ignore[no-untyped-call]


def test_ak_62_a_silent_reused_socket_speaks_for_others() -> None:
    step = a_cycle().timed_out(5.0)
    assert (type(step.error), step.reason, step.doubts_idle) == (SocketTimeoutError, CloseReason.ACTIVE_TIMEOUT, True)
    assert not a_cycle(reused=False).timed_out(5.0).doubts_idle
    cycle = a_cycle()
    fed(cycle, OK[:10])
    assert not cycle.timed_out(5.0).doubts_idle
    given_up = a_cycle().broken(TimeoutError(errno.ETIMEDOUT, "timed out"), 30.0)
    assert isinstance(given_up, Failed)
    assert (type(given_up.error), given_up.reason, given_up.doubts_idle) == (type(step.error), step.reason, True)
    assert "acknowledged nothing for 30 s" in str(given_up.error)


@pytest.mark.parametrize("reused", [True, False])
def test_a_silent_socket_s_error_says_where_and_after_how_long_and_whether_it_was_reused(reused: bool) -> None:
    error = OSError(errno.ETIMEDOUT, "timed out")
    for step, timeout_s, cause in (
        (a_cycle(reused=reused).timed_out(5.0), 5.0, None),
        (a_cycle(reused=reused).broken(error, 30.0), 30.0, error),
        (a_cycle(reused=reused).broken(error), 0.0, error),
    ):
        assert isinstance(step, Failed)
        assert isinstance(step.error, SocketTimeoutError)
        assert (step.error.timeout, step.error.reused_socket, step.error.__cause__) == (timeout_s, reused, cause)
        assert "http://a:80" in str(step.error)


def test_why_sending_failed_is_why_the_exchange_fails_when_the_socket_is_closed() -> None:
    cycle = a_cycle(POST, is_sent=False)
    cycle.send_failed(RESET)
    step = cycle.closed()
    assert isinstance(step, Failed)
    assert (step.reason, step.error.__cause__) == (CloseReason.ERROR, RESET)


@pytest.mark.parametrize(("status", "step"), [(299, Go.READ_ON), (300, Go.STOP_SENDING)])
def test_from_300_on_an_early_answer_ends_sending(status: int, step: Go) -> None:
    head = f"HTTP/1.1 {status} Early\r\nContent-Length: 3\r\n\r\n".encode()
    assert fed(a_cycle(POST, is_sent=False), head) is step


@pytest.mark.parametrize(
    ("request_", "status", "error", "delivered"),
    [
        (POST, 413, RESET, True),
        (POST, 300, RESET, True),
        (POST, 299, RESET, False),
        (GET, 413, RESET, False),
        (POST, 413, ssl.SSLError("bad record"), False),
    ],
)
def test_a_refused_body_s_answer_may_end_with_a_reset(
    request_: SentRequest, status: int, error: Exception, delivered: bool
) -> None:
    cycle = a_cycle(request_)
    fed(cycle, f"HTTP/1.1 {status} Answer\r\n\r\nuntil the end".encode())
    step = cycle.broken(error)
    if delivered:
        assert step == Finished(reusable=False)
    else:
        assert isinstance(step, Failed)
        assert (type(step.error), step.reason) == (IncompleteResponseError, CloseReason.ERROR)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ResponseParseError("garbage"), CloseReason.ERROR), (AgentError("not wanted"), CloseReason.ABORTED)],
)
def test_a_socket_is_closed_for_an_error_if_what_came_was_wrong_and_as_aborted_if_nobody_wants_it(
    error: AgentError, reason: CloseReason
) -> None:
    assert a_cycle().distrust(error) == Failed(error, reason)


@pytest.mark.parametrize(
    ("error", "stray_bytes", "reason"),
    [
        (None, False, CloseReason.SERVER_CLOSED),
        (RESET, False, CloseReason.ERROR),
        (None, True, CloseReason.STRAY_BYTES),
        (RESET, True, CloseReason.STRAY_BYTES),
    ],
)
def test_why_an_idle_socket_cannot_be_used_any_more(
    error: Exception | None, stray_bytes: bool, reason: CloseReason
) -> None:
    assert why_idle_ended(error, stray_bytes=stray_bytes) is reason
    assert stray_bytes or why_idle_ended(error) is reason


def test_ak_55_a_408_is_for_the_idle_socket_only_if_the_request_was_sent_whole_on_a_reused_one() -> None:
    late = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    assert fed(a_cycle(), late) == SendAgain(CloseReason.SERVER_CLOSED)
    assert fed(a_cycle(POST), late) == Finished(reusable=False, is_stale=True)
    assert fed(a_cycle(reused=False), late) == Finished(reusable=False)
    assert fed(a_cycle(is_sent=False), late) == Finished(reusable=False)
    assert fed(a_cycle(), late.replace(b"Connection: close\r\n", b"")) == Finished(reusable=True)


def test_ak_51_a_101_that_nobody_asked_for_cannot_be_trusted() -> None:
    step = fed(a_cycle(), b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n")
    assert (type(step.error), step.reason) == (ResponseParseError, CloseReason.ERROR)


# -- any order of events -----------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        OK,
        OK[:20],
        OK[20:],
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 413 Too large\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        b"big",
        b"garbage\n",
    ]
)


REQUESTS = st.builds(
    SentRequest,
    closes=st.booleans(),
    repeatable=st.booleans(),
    expects_continue=st.booleans(),
    asks_to_switch=st.booleans(),
    has_body=st.booleans(),
)


class Exchanges(RuleBasedStateMachine):
    """Drives a cycle as a driver may, and holds what it says against what is known from outside."""

    step: Any = Go.READ_ON

    def __init__(self) -> None:
        super().__init__()
        self.reader = ResponseReader()  # one for all, as a socket has

    @initialize(request=REQUESTS, reused=st.booleans(), is_head=st.booleans())
    def begin(self, request: SentRequest, reused: bool, is_head: bool) -> None:
        self.request, self.reused = request, reused
        self.reader.begin(is_head_request=is_head)
        self.cycle = Cycle(request, self.reader, "http://a:80", reused=reused)
        self.all_sent = self.was_told_to_stop = self.failed_to_send = False
        self.answered_before_sent = False
        self.came = b""
        self.step = Go.READ_ON

    @property
    def goes_on(self) -> bool:
        return isinstance(self.step, Go)

    @precondition(lambda self: not self.goes_on)
    @rule(request=REQUESTS, reused=st.booleans(), is_head=st.booleans())
    def begin_another(self, request: SentRequest, reused: bool, is_head: bool) -> None:
        self.begin(request, reused, is_head)
        assert self.cycle.is_silent

    @precondition(lambda self: self.goes_on and not self.all_sent)
    @rule()
    def send_the_rest(self) -> None:
        if self.cycle.is_sending:
            self.all_sent = True
            self.cycle.sent()

    @precondition(lambda self: self.goes_on)
    @rule()
    def fail_to_send(self) -> None:
        if self.cycle.is_sending:
            self.failed_to_send = True
            self.cycle.send_failed()

    @precondition(lambda self: self.goes_on)
    @rule(piece=PIECES)
    def hear(self, piece: bytes) -> None:
        had_head = self.cycle.reader.head is not None
        self.came += piece
        try:
            self.cycle.reader.feed(piece)
        except ResponseParseError as error:
            self.step = self.cycle.distrust(error)
            return
        self.step = self.cycle.received()
        if not had_head and self.cycle.reader.head is not None and not self.all_sent:
            self.answered_before_sent = True
        if self.step is Go.STOP_SENDING:
            assert not self.was_told_to_stop, "once is enough"
            assert not self.all_sent, "there is nothing left to stop"
            self.was_told_to_stop = True

    @precondition(lambda self: self.goes_on)
    @rule(how=st.sampled_from(["closed", "cut off", "reset", "not acknowledged", "TLS", "timed out"]))
    def end(self, how: str) -> None:
        cycle = self.cycle
        match how:
            case "closed":
                self.step = cycle.closed()
            case "cut off":
                self.step = cycle.closed(cut_off=True)
            case "reset":
                self.step = cycle.broken(RESET)
            case "not acknowledged":
                self.step = cycle.broken(TimeoutError(errno.ETIMEDOUT, "timed out"), 30.0)
            case "TLS":
                self.step = cycle.broken(ssl.SSLError("bad record"))
            case _:
                self.step = cycle.timed_out(1.0)
        assert not self.goes_on, "the end of a socket ends its exchange"
        if isinstance(self.step, Finished):
            assert not self.step.reusable

    @invariant()
    def nothing_is_given_away(self) -> None:
        step = self.step
        if isinstance(step, Finished):
            assert self.cycle.reader.complete
            if step.reusable:
                assert self.all_sent, "a request that was not sent whole leaves its socket in the middle of it"
                assert not self.answered_before_sent
                assert not self.request.closes
                assert not self.cycle.reader.overrun
                assert b"Connection: close" not in self.came.partition(b"0\r\n")[0]
        if isinstance(step, SendAgain):
            assert self.request.repeatable
            assert self.reused
            assert not self.came or b" 408 " in self.came
        if isinstance(step, Failed):
            assert isinstance(step.error, Exception)
            assert step.is_stale is isinstance(step.error, StaleSocketError)
            if isinstance(step.error, StaleSocketError):
                assert self.reused
                assert not self.came
            assert not step.doubts_idle or (self.reused and not self.came)


TestExchanges = Exchanges.TestCase
TestExchanges.settings = settings(max_examples=400, stateful_step_count=12, deadline=None)


# -- the reader: the same, whatever pieces it comes in -----------------------------------------------------------------

WHOLE = st.lists(PIECES, min_size=1, max_size=4).map(b"".join)


def read(pieces: list[bytes]) -> Any:
    reader = ResponseReader()
    body = b""
    for piece in pieces:
        try:
            complete = reader.feed(piece)
        except ResponseParseError:
            return "refused"
        body += reader.body()
        if complete:
            break
    head = reader.head
    return (None if head is None else (head.status, head.keep_alive, head.body_length), body, reader.complete)


@settings(max_examples=300, deadline=None)
@given(WHOLE, st.lists(st.integers(1, 40), max_size=20))
def test_a_response_is_the_same_whatever_pieces_it_comes_in(raw: bytes, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(raw[at : at + size])
        at += size
    pieces = [piece for piece in (*pieces, raw[at:]) if piece]
    assert read(pieces) == read([raw]) == read([bytes([byte]) for byte in raw])


# -- the reader's limits: the same however the bytes were cut, and in time that grows with them ------------------------

FIXED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OVER = {
    "a status line": b"HTTP/1.1 200 " + b"O" * 9_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "a header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 66_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "the line of a chunk": FIXED + b"2;" + b"a" * 5_000 + b"\r\nok\r\n0\r\n\r\n",
    "trailers": FIXED + b"0\r\n" + b"X: y\r\n" * 11_000 + b"\r\n",
    "a trailer": FIXED + b"0\r\nX: " + b"a" * 66_000 + b"\r\n\r\n",
}
LONG = {
    "a status line": b"HTTP/1.1 200 " + b"O" * 8_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "a header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "spaces before a fold": b"HTTP/1.1 200 OK\r\nX: a" + b" " * 60_000 + b"x\r\n y\r\nContent-Length: 0\r\n\r\n",
    "folds": b"HTTP/1.1 200 OK\r\nX: a\r\n" + b" b\r\n" * 15_000 + b"Content-Length: 0\r\n\r\n",
    "a trailer": FIXED + b"0\r\nX: " + b"a" * 60_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("size", [1, 1000, 65_536, 10**6])
@pytest.mark.parametrize("name", OVER)
def test_what_is_over_a_limit_is_refused_however_it_was_cut(name: str, size: int) -> None:
    raw = OVER[name]
    assert read([raw[at : at + size] for at in range(0, len(raw), size)]) == "refused"


@pytest.mark.parametrize("name", LONG)
def test_what_is_long_is_read_in_time_byte_by_byte(name: str) -> None:
    began_at = time.process_time()
    (_, body, complete) = read([bytes([byte]) for byte in LONG[name]])
    assert (body, complete) == (b"", True)
    (_, body, complete) = read([LONG[name]])
    assert (body, complete) == (b"", True)
    assert time.process_time() - began_at < 5  # it takes a fifth of a second; it took 19


def test_small_chunks_that_nobody_takes_become_one() -> None:
    reader = ResponseReader()
    reader.feed(FIXED)
    for _ in range(50):
        reader.feed(b"2\r\nok\r\n" * 1_000)
    assert reader.body_bytes == 100_000
    assert len(reader._body) < 1_200
    assert reader.body() == b"ok" * 50_000
