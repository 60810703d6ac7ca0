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

import msgspec

from kabench.load.figures.content import decoded_content
from kabench.load.figures.messages import Counts, Totals
from kabench.load.plan.target_names import MOST_TARGETS, OTHER
from kabench.result import (
    ANSWERED_KINDS,
    FAILED,
    FIRST_FAILED_STATUS,
    FIRST_FINAL_STATUS,
    INTERRUPTED,
    LAST_STATUS,
    NO_FINAL_STATUS,
    UNEXPECTED_BODY,
    UNEXPECTED_STATUS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from kabench.agent.aio import ResponseHead
    from kabench.load.figures.answer import Answer
    from kabench.load.figures.load_exchange import LoadExchange
    from kabench.load.plan.plan import LoadPlan

_IN_ONE_PIECE_AT_ONCE = ("total", "service", "first_byte")
_IN_ONE_PIECE = ("service", "first_byte")
_SUCCESSFUL = range(FIRST_FINAL_STATUS, FIRST_FAILED_STATUS)
_OF_HTTP = range(FIRST_FINAL_STATUS, LAST_STATUS + 1)


class Recorder:
    """Counts the finished requests of one worker to one target, or to all.

    Take the `lock` to record from threads, or to read while they do. `unsent` is None if the client does not tell what
    it has sent, and `tells_wire_bytes` says whether it tells how many bytes came.
    """

    __slots__ = (
        "_at_once",
        "_body",
        "_connect",
        "_failed",
        "_first_byte",
        "_lag",
        "_one_piece",
        "_queue",
        "_service",
        "_total",
        "_waits",
        "body_bytes",
        "errors",
        "failed_answers",
        "interrupted",
        "lock",
        "not_started",
        "status_codes",
        "tells_wire_bytes",
        "unsent",
    )

    _accepted: Container[int] = _SUCCESSFUL
    """Answers with these statuses are not looked at any further."""

    def __init__(self) -> None:
        self.body_bytes = self.failed_answers = self.interrupted = self.not_started = 0
        self.status_codes: defaultdict[int, int] = defaultdict(int)
        self.errors: defaultdict[str, int] = defaultdict(int)
        self.unsent: defaultdict[str, int] | None = defaultdict(int)
        self.tells_wire_bytes = True
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
        self._body: defaultdict[int, int] = defaultdict(int)
        self._failed: defaultdict[int, int] = defaultdict(int)
        self._waits: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))

    @property
    def transactions(self) -> int:
        """The finished exchanges so far."""
        return sum(self.status_codes.values())

    @property
    def socket_errors(self) -> int:
        """The exchanges so far that died with their socket."""
        return sum(times for kind, times in self.errors.items() if kind not in ANSWERED_KINDS)

    def record(self, exchange: LoadExchange, head: ResponseHead, body: bytes, now: float) -> None:
        """Count a finished exchange of a user."""
        status = head.status
        self.status_codes[status] += 1
        self.body_bytes += len(body)
        if exchange.passed_bytes:
            self._count_in(exchange)
        started_at = exchange.started_at
        if status not in self._accepted:
            self._judge(status, head, body, now - started_at)
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
        status = head.status
        self.status_codes[status] += 1
        self.body_bytes += len(body)
        if exchange.passed_bytes:
            self._count_in(exchange)
        if status not in self._accepted:
            self._judge(status, head, body, now - due_at)
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

    def record_undivided(self, answer: Answer, response_s: float, target: int = 0) -> None:  # noqa: ARG002
        """Count an answer with one time only: the client does not tell when it sent the request."""
        status = answer.status
        self.status_codes[status] += 1
        if answer.wire_bytes is None:
            self.tells_wire_bytes = False
            self.body_bytes += len(answer.body)
        else:
            self.body_bytes += answer.wire_bytes
        if status not in self._accepted:
            self._judge(status, None, answer.body, response_s)
        self._total[int(response_s * 1e6)] += 1

    def record_reported(self, status: int, body_bytes: int, response_s: float, failure: str | None) -> None:
        """Count an answer that was measured elsewhere. `failure` is its kind of failure; None: it is none."""
        self.status_codes[status] += 1
        self.tells_wire_bytes = False
        self.body_bytes += body_bytes
        self._total[int(response_s * 1e6)] += 1
        if failure is not None:
            self._count_failed(failure, response_s)

    def _judge(self, status: int, head: ResponseHead | None, body: bytes, response_s: float) -> None:  # noqa: ARG002
        """Count the answer as failed if it is a failure. `head` is None if the client has decoded the body."""
        self._count_failed(None if status in _OF_HTTP else NO_FINAL_STATUS, response_s)

    def _count_failed(self, kind: str | None, response_s: float) -> None:
        """Count a failed answer. `kind` is None if its status says enough."""
        self.failed_answers += 1
        self._failed[int(response_s * 1e6)] += 1
        if kind is not None:
            self.errors[kind] += 1

    def _count_in(self, exchange: LoadExchange) -> None:
        self.body_bytes += exchange.passed_bytes

    def _record_service(self, exchange: LoadExchange, sent_at: float, now: float) -> None:
        service_us = int((now - sent_at) * 1e6)
        if exchange.first_byte_at == now:
            self._one_piece[service_us] += 1
        else:
            self._service[service_us] += 1
            self._first_byte[int((exchange.first_byte_at - sent_at) * 1e6)] += 1
            self._body[int((now - exchange.first_byte_at) * 1e6)] += 1

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

    def record_unanswered(self, kind: str, waited_s: float, *, was_sent: bool | None, target: int = 0) -> None:  # noqa: ARG002
        """Count a request that got no answer, and how long it has waited. `was_sent` is None if that is unknown."""
        if kind == INTERRUPTED:
            self.interrupted += 1
        else:
            self.errors[kind] += 1
        self._waits[kind][int(waited_s * 1e6)] += 1
        if was_sent is None:
            self.unsent = None
        elif self.unsent is not None and not was_sent:
            self.unsent[kind] += 1

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
                (("body",), self._body),
                ((FAILED,), self._failed),
                (("queue",), {0: sum(self._at_once.values())}),
                (("body",), {0: sum(self._at_once.values()) + sum(self._one_piece.values())}),
            )
            if any(counts.values())
        ]
        taken += [Counts((), dict(counts), waited=kind) for kind, counts in self._waits.items()]
        self._new_second()
        return taken

    def totals(self) -> Totals:
        """Return the counts since the beginning."""
        return Totals(
            body_bytes=self.body_bytes,
            wire_bytes=self.body_bytes if self.tells_wire_bytes else None,
            failed_answers=self.failed_answers,
            status_codes=dict(self.status_codes),
            errors=dict(self.errors),
            unsent=None if self.unsent is None else dict(self.unsent),
            interrupted=self.interrupted,
            not_started=self.not_started,
        )

    def totals_of_targets(self) -> dict[str, Totals]:
        """Return the counts of each target by its name; none, because there is only one."""
        return {}


class ExpectingRecorder(Recorder):
    """A recorder that looks at each answer: whether it is as expected."""

    __slots__ = ("_expected_body", "_statuses")

    _accepted = ()

    def __init__(self, statuses: tuple[int, ...], body: bytes | None) -> None:
        super().__init__()
        self._statuses = frozenset(statuses)
        self._expected_body = body or b""

    def _judge(self, status: int, head: ResponseHead | None, body: bytes, response_s: float) -> None:
        failure = self._failure(status, head, body)
        if failure is not None:
            self._count_failed(failure or None, response_s)

    def _failure(self, status: int, head: ResponseHead | None, body: bytes) -> str | None:
        """Return the kind of failure that an answer is, empty if its status says enough; None if it is as expected."""
        if status not in _OF_HTTP and status not in self._statuses:
            return NO_FINAL_STATUS
        if self._statuses and status not in self._statuses:
            return UNEXPECTED_STATUS
        if not self._statuses and status >= FIRST_FAILED_STATUS:
            return ""
        content = body if head is None or not self._expected_body else decoded_content(head, body)
        return None if self._expected_body in content else UNEXPECTED_BODY


class TargetRecorders(Recorder):
    """A recorder of several targets: it has one for each, and adds them up when it is read.

    What belongs to no target it counts itself: lag, and requests that were not started.
    """

    __slots__ = ("_names", "_of")

    def __init__(self, names: Sequence[str], make: Callable[[], Recorder]) -> None:
        self._names = list(names)
        self._of = [make() for _ in names]
        super().__init__()

    def record(self, exchange: LoadExchange, head: ResponseHead, body: bytes, now: float) -> None:
        """Count a finished exchange of a user with its target."""
        self._of[exchange.target].record(exchange, head, body, now)

    def record_due(self, exchange: LoadExchange, head: ResponseHead, body: bytes, due_at: float, now: float) -> None:
        """Count a finished exchange whose response time begins when it was due with its target."""
        self._of[exchange.target].record_due(exchange, head, body, due_at, now)

    def record_undivided(self, answer: Answer, response_s: float, target: int = 0) -> None:
        """Count an answer with its target."""
        self._of[target].record_undivided(answer, response_s)

    def record_unanswered(self, kind: str, waited_s: float, *, was_sent: bool | None, target: int = 0) -> None:
        """Count a request without an answer with its target."""
        self._of[target].record_unanswered(kind, waited_s, was_sent=was_sent)

    def of(self, name: str) -> Recorder:
        """Return the recorder of the target with this name, made anew if need be, or that of all further targets."""
        if name not in self._names:
            name = name if len(self._names) < MOST_TARGETS else OTHER
        if name not in self._names:
            self._names.append(name)
            self._of.append(Recorder())
        return self._of[self._names.index(name)]

    @property
    def transactions(self) -> int:
        """The finished exchanges so far."""
        return sum(each.transactions for each in self._of)

    @property
    def socket_errors(self) -> int:
        """The exchanges so far that died with their socket."""
        return sum(each.socket_errors for each in self._of)

    def take_counts(self) -> list[Counts]:
        """Return the latencies counted since the last call, with the names of their targets, and begin anew."""
        return super().take_counts() + [
            msgspec.structs.replace(counts, target=name)
            for name, each in zip(self._names, self._of, strict=True)
            for counts in each.take_counts()
        ]

    def totals(self) -> Totals:
        """Return the counts since the beginning, of all targets together."""
        return Totals.sum_of((super().totals(), *(each.totals() for each in self._of)))

    def totals_of_targets(self) -> dict[str, Totals]:
        """Return the counts of each target by its name."""
        return {name: each.totals() for name, each in zip(self._names, self._of, strict=True)}


def recorder_for(plan: LoadPlan, names: Sequence[str] = ()) -> Recorder:
    """Make the recorder that a plan needs, with the names of its targets."""

    def make() -> Recorder:
        if plan.expect_status or plan.expect_body is not None:
            return ExpectingRecorder(plan.expect_status, plan.expect_body)
        return Recorder()

    return make() if len(names) <= 1 else TargetRecorders(names, make)
