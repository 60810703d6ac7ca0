"""Recording, in the worker: what a finished request costs here, every request costs, so it is a few dict increments.

Latencies are counted in whole microseconds, one dict a phase, and shipped once a second; histograms are made of them
elsewhere. Most requests need fewer than all dicts: a response that came in one piece has its first byte and its last at
the same time, and one that waited for no socket has the same response and service time. Such requests are counted once,
under the phases they stand for.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from kabench.load.messages import Counts, Totals

if TYPE_CHECKING:
    from kabench.agent.aio import Exchange, ResponseHead

_IN_ONE_PIECE_AT_ONCE = ("total", "service", "first_byte")
_IN_ONE_PIECE = ("service", "first_byte")


class Recorder:
    """Counts one worker's finished requests."""

    __slots__ = (
        "_at_once",
        "_connect",
        "_first_byte",
        "_one_piece",
        "_queue",
        "_service",
        "_total",
        "body_bytes",
        "errors",
        "status_codes",
    )

    def __init__(self) -> None:
        self.body_bytes = 0
        self.status_codes: defaultdict[int, int] = defaultdict(int)
        self.errors: defaultdict[str, int] = defaultdict(int)
        self._new_second()

    def _new_second(self) -> None:
        self._at_once: defaultdict[int, int] = defaultdict(int)
        self._one_piece: defaultdict[int, int] = defaultdict(int)
        self._total: defaultdict[int, int] = defaultdict(int)
        self._service: defaultdict[int, int] = defaultdict(int)
        self._queue: defaultdict[int, int] = defaultdict(int)
        self._connect: defaultdict[int, int] = defaultdict(int)
        self._first_byte: defaultdict[int, int] = defaultdict(int)

    @property
    def transactions(self) -> int:
        """Finished exchanges so far."""
        return sum(self.status_codes.values())

    def record(self, exchange: Exchange, head: ResponseHead, body_bytes: int, now: float) -> None:
        """Count a finished exchange."""
        self.status_codes[head.status] += 1
        self.body_bytes += body_bytes
        started_at = exchange.started_at
        sent_at = exchange.sent_at
        if exchange.opening_at:
            sent_at = self._record_opening(exchange)
        elif sent_at == started_at and exchange.first_byte_at == now:
            self._at_once[int((now - started_at) * 1e6)] += 1
            return
        else:
            self._queue[int((sent_at - started_at) * 1e6)] += 1
        self._total[int((now - started_at) * 1e6)] += 1
        service_us = int((now - sent_at) * 1e6)
        if exchange.first_byte_at == now:
            self._one_piece[service_us] += 1
        else:
            self._service[service_us] += 1
            self._first_byte[int((exchange.first_byte_at - sent_at) * 1e6)] += 1

    def _record_opening(self, exchange: Exchange) -> float:
        """Count the queue and connect phases of a request that a socket was opened for; when it was sent (first)."""
        opening_at, sent_at = exchange.opening_at, exchange.sent_at
        if exchange.first_sent_at:  # sent again on a fresh socket: for the user, it has been on its way since the first
            sent_at = exchange.first_sent_at
            opening_at = min(opening_at, sent_at)
        else:
            self._connect[int((sent_at - opening_at) * 1e6)] += 1
        self._queue[int((opening_at - exchange.started_at) * 1e6)] += 1
        exchange.opening_at = exchange.first_sent_at = 0.0
        return sent_at

    def record_error(self, kind: str) -> None:
        """Count an exchange that died with its socket."""
        self.errors[kind] += 1

    def take_counts(self) -> list[Counts]:
        """The latencies counted since the last time."""
        taken = [
            Counts(phases, dict(counts))
            for phases, counts in (
                (_IN_ONE_PIECE_AT_ONCE, self._at_once),
                (_IN_ONE_PIECE, self._one_piece),
                (("total",), self._total),
                (("service",), self._service),
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
        """What was counted since the beginning."""
        return Totals(self.body_bytes, dict(self.status_codes), dict(self.errors))
