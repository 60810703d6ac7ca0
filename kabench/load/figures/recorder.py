"""`Recorder`: counts finished requests in the worker. Its cost is part of every request: a few dict increments.

Latencies are counted in whole microseconds, one dict a phase, and shipped once a second; the tally makes histograms of
them. Most requests need only some of the dicts: a response in one piece has its first byte and its last at the same
time, and a request that waited for no socket has the same response and service time. Such requests are counted once,
under all phases they stand for.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from kabench.load.figures.messages import UNEXPECTED, UNEXPECTED_BODY, UNEXPECTED_STATUS, Counts, Totals

if TYPE_CHECKING:
    from kabench.agent.aio import ResponseHead
    from kabench.load.figures.load_exchange import LoadExchange
    from kabench.load.plan.plan import LoadPlan

FIRST_FAILED_STATUS = 400
"""An answer with this status or a higher one is a failed transaction, as in siege, where no status is expected."""

_IN_ONE_PIECE_AT_ONCE = ("total", "service", "first_byte")
_IN_ONE_PIECE = ("service", "first_byte")


class Recorder:
    """Counts the finished requests of one worker. Take the `lock` to record from threads, or to read while they do."""

    __slots__ = (
        "_at_once",
        "_connect",
        "_first_byte",
        "_lag",
        "_one_piece",
        "_queue",
        "_service",
        "_total",
        "body_bytes",
        "errors",
        "lock",
        "not_started",
        "status_codes",
    )

    def __init__(self) -> None:
        self.body_bytes = 0
        self.not_started = 0
        self.status_codes: defaultdict[int, int] = defaultdict(int)
        self.errors: defaultdict[str, int] = defaultdict(int)
        self.lock = threading.Lock()
        self._new_second()

    def _new_second(self) -> None:
        self._at_once: defaultdict[int, int] = defaultdict(int)
        self._one_piece: defaultdict[int, int] = defaultdict(int)
        self._total: defaultdict[int, int] = defaultdict(int)
        self._service: defaultdict[int, int] = defaultdict(int)
        self._lag: defaultdict[int, int] = defaultdict(int)
        self._queue: defaultdict[int, int] = defaultdict(int)
        self._connect: defaultdict[int, int] = defaultdict(int)
        self._first_byte: defaultdict[int, int] = defaultdict(int)

    @property
    def transactions(self) -> int:
        """The finished exchanges so far."""
        return sum(self.status_codes.values())

    @property
    def socket_errors(self) -> int:
        """The exchanges so far that died with their socket."""
        return sum(times for kind, times in self.errors.items() if kind not in UNEXPECTED)

    def record(self, exchange: LoadExchange, head: ResponseHead, body: bytes, now: float) -> None:
        """Count a finished exchange of a user."""
        self.status_codes[head.status] += 1
        self.body_bytes += len(body)
        if exchange.passed_bytes:
            self._count_in(exchange)
        started_at = exchange.started_at
        sent_at = exchange.sent_at
        if exchange.opening_at:
            sent_at = self._record_opening(exchange)
        elif exchange.first_byte_at == now:  # nearly every exchange, so no call is made for it
            if sent_at == started_at:
                self._at_once[int((now - started_at) * 1e6)] += 1
            else:
                self._queue[int((sent_at - started_at) * 1e6)] += 1
                self._total[int((now - started_at) * 1e6)] += 1
                self._one_piece[int((now - sent_at) * 1e6)] += 1
            return
        else:
            self._queue[int((sent_at - started_at) * 1e6)] += 1
        self._total[int((now - started_at) * 1e6)] += 1
        self._record_service(exchange, sent_at, now)

    def record_due(self, exchange: LoadExchange, head: ResponseHead, body: bytes, due_at: float, now: float) -> None:
        """Count a finished exchange whose response time begins when it was due."""
        self.status_codes[head.status] += 1
        self.body_bytes += len(body)
        if exchange.passed_bytes:
            self._count_in(exchange)
        sent_at = exchange.sent_at
        if exchange.opening_at:
            sent_at = self._record_opening(exchange)
        else:
            self._queue[int((sent_at - exchange.started_at) * 1e6)] += 1
        self._total[int((now - due_at) * 1e6)] += 1
        self._record_service(exchange, sent_at, now)

    def record_lag(self, seconds: float) -> None:
        """Count how late a request was given to the agent."""
        self._lag[int(seconds * 1e6)] += 1

    def record_undivided(self, status: int, body: bytes, response_s: float) -> None:
        """Count a finished exchange with one time only: the client does not tell when it sent the request."""
        self.record_reported(status, len(body), response_s)

    def record_reported(self, status: int, body_bytes: int, response_s: float) -> None:
        """Count a finished exchange that was measured elsewhere."""
        self.status_codes[status] += 1
        self.body_bytes += body_bytes
        self._total[int(response_s * 1e6)] += 1

    def _count_in(self, exchange: LoadExchange) -> None:
        self.body_bytes += exchange.passed_bytes

    def _record_service(self, exchange: LoadExchange, sent_at: float, now: float) -> None:
        service_us = int((now - sent_at) * 1e6)
        if exchange.first_byte_at == now:
            self._one_piece[service_us] += 1
        else:
            self._service[service_us] += 1
            self._first_byte[int((exchange.first_byte_at - sent_at) * 1e6)] += 1

    def _record_opening(self, exchange: LoadExchange) -> float:
        """Count the queue and connect phases of a request with a new socket; return when it was (first) sent."""
        opening_at, sent_at = exchange.opening_at, exchange.sent_at
        if exchange.first_sent_at:  # sent again on a new socket: the user has waited for it since the first time
            sent_at = exchange.first_sent_at
            opening_at = min(opening_at, sent_at)
        else:
            self._connect[int((sent_at - opening_at) * 1e6)] += 1
        self._queue[int((opening_at - exchange.started_at) * 1e6)] += 1
        return sent_at

    def record_error(self, kind: str) -> None:
        """Count an exchange that died with its socket."""
        self.errors[kind] += 1

    def take_counts(self) -> list[Counts]:
        """Return the latencies counted since the last call, and begin anew."""
        taken = [
            Counts(phases, dict(counts))
            for phases, counts in (
                (_IN_ONE_PIECE_AT_ONCE, self._at_once),
                (_IN_ONE_PIECE, self._one_piece),
                (("total",), self._total),
                (("service",), self._service),
                (("lag",), self._lag),
                (("queue",), self._queue),
                (("connect",), self._connect),
                (("first_byte",), self._first_byte),
                (("queue",), {0: sum(self._at_once.values())}),
            )
            if any(counts.values())
        ]
        self._new_second()
        return taken

    def totals(self) -> Totals:
        """Return the counts since the beginning."""
        return Totals(self.body_bytes, dict(self.status_codes), dict(self.errors), self.not_started)


class ExpectingRecorder(Recorder):
    """A recorder that also counts the answers that are not as expected."""

    __slots__ = ("_body", "_statuses")

    def __init__(self, statuses: tuple[int, ...], body: bytes | None) -> None:
        super().__init__()
        self._statuses = frozenset(statuses)
        self._body = body or b""

    def record(self, exchange: LoadExchange, head: ResponseHead, body: bytes, now: float) -> None:
        """Look at the answer, and count it."""
        self._judge(head.status, body)
        super().record(exchange, head, body, now)

    def record_due(self, exchange: LoadExchange, head: ResponseHead, body: bytes, due_at: float, now: float) -> None:
        """Look at the answer, and count it."""
        self._judge(head.status, body)
        super().record_due(exchange, head, body, due_at, now)

    def record_undivided(self, status: int, body: bytes, response_s: float) -> None:
        """Look at the answer, and count it."""
        self._judge(status, body)
        super().record_undivided(status, body, response_s)

    def _judge(self, status: int, body: bytes) -> None:
        if self._statuses and status not in self._statuses:
            self.errors[UNEXPECTED_STATUS] += 1
        elif (self._statuses or status < FIRST_FAILED_STATUS) and self._body not in body:
            self.errors[UNEXPECTED_BODY] += 1


def recorder_for(plan: LoadPlan) -> Recorder:
    """Make the recorder that a plan needs."""
    if plan.expect_status or plan.expect_body is not None:
        return ExpectingRecorder(plan.expect_status, plan.expect_body)
    return Recorder()
