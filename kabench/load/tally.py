"""From what workers say to an `AgentRun`: counts are added up exactly, and figures are made of them at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kabench.histogram import Distribution, percentile_of
from kabench.load.messages import Counts, Second, SocketCounts, Totals
from kabench.result import AgentRun, Client, Phases, SeriesPoint, Sockets, WorkerRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

_PHASES = ("total", "service", "lag", "queue", "connect", "first_byte")
_FIRST_FAILED_STATUS = 400
_BUSY_SHARE = 0.9
_BYTES_PER_MB = 2**20


class Tally:
    """Adds up what one worker measured of one agent."""

    def __init__(self, agent: str, worker: WorkerRecord) -> None:
        self._agent = agent
        self._worker = worker
        self._phases = {phase: Distribution() for phase in _PHASES}
        self._of_this_second: list[Counts] = []
        self._series: list[SeriesPoint] = []
        self._last: Second | None = None

    def add_counts(self, message: Counts) -> None:
        """Take latencies of the second under way; they count once it has ended, together with its totals."""
        self._of_this_second.append(message)

    def end_second(self, message: Second) -> None:
        """Take the totals at the end of a second."""
        seen: Counter[int] = Counter()
        for counts in self._of_this_second:
            for phase in counts.phases:
                self._phases[phase].add(counts.counts.items())
            if "total" in counts.phases:
                seen.update(counts.counts)
        self._of_this_second.clear()
        self._series.append(
            SeriesPoint(
                t_s=round(message.elapsed_s, 6),
                transactions=seen.total(),
                p50_s=percentile_of(seen, 50) / 1e6 if seen else None,
                p99_s=percentile_of(seen, 99) / 1e6 if seen else None,
                created=message.sockets.created,
                free=message.sockets.free,
                active=message.sockets.active,
                pending=message.sockets.pending,
            )
        )
        self._last = message

    @property
    def transactions(self) -> int:
        """Finished exchanges so far, as of the last whole second."""
        return 0 if self._last is None else sum(self._last.totals.status_codes.values())

    def agent_run(self, *, interrupted: bool, lost_at_s: float | None = None) -> AgentRun:
        """The record of what was measured."""
        last = self._last or Second(0.0, Totals(), SocketCounts(), 0.0, 0.0)
        statuses, errors = last.totals.status_codes, last.totals.errors
        elapsed_s = last.elapsed_s
        transactions = sum(statuses.values())
        socket_errors = sum(errors.values())
        bad_answers = sum(times for status, times in statuses.items() if status >= _FIRST_FAILED_STATUS)
        total = self._phases["total"]
        megabytes = last.totals.body_bytes / _BYTES_PER_MB
        stats = {phase: distribution.stats() for phase, distribution in self._phases.items()}
        return AgentRun(
            agent=self._agent,
            elapsed_s=round(elapsed_s, 6),
            interrupted=interrupted,
            saturated=elapsed_s > 0 and last.cpu_s / elapsed_s >= _BUSY_SHARE,
            transactions=transactions,
            successful_transactions=transactions - bad_answers,
            failed_transactions=bad_answers + socket_errors,
            socket_errors=socket_errors,
            retries=last.sockets.retries,
            availability_pct=_share(100 * transactions, transactions + socket_errors),
            data_transferred_bytes=last.totals.body_bytes,
            transaction_rate=_share(transactions, elapsed_s),
            throughput_mb_s=_share(megabytes, elapsed_s),
            concurrency=_share(total.sum_us / 1e6, elapsed_s),
            response_time_s=stats["total"],
            service_time_s=stats["service"],
            lag_s=stats["lag"],
            phases=Phases(
                queue=stats["queue"], connect=stats["connect"], first_byte=stats["first_byte"], total=stats["total"]
            ),
            buckets=total.buckets(),
            hdr={phase: distribution.encoded() for phase, distribution in self._phases.items() if distribution.count},
            sockets=_sockets(last.sockets),
            status_codes=_sorted_by_key(statuses),
            errors=dict(sorted(errors.items())),
            series=self._series,
            client=Client(
                cpu_s=round(last.cpu_s, 6),
                cpu_us_per_transaction=round(last.cpu_s * 1e6 / transactions, 3) if transactions else None,
                max_rss_mb=round(last.max_rss_mb, 1),
                workers=[
                    WorkerRecord(
                        name=self._worker.name,
                        host=self._worker.host,
                        transactions=transactions,
                        lost_at_s=lost_at_s,
                    )
                ],
            ),
        )


def _sockets(counts: SocketCounts) -> Sockets:
    return Sockets(
        created=counts.created,
        create_errors=counts.create_errors,
        closed=counts.closed,
        errors=counts.errors,
        timeouts=counts.timeouts,
        requests=counts.requests,
        req_per_socket=_share(counts.requests, counts.created),
        free=counts.free,
        active=counts.active,
        pending=counts.pending,
        tls_handshakes=counts.tls_handshakes,
        tls_resumed=counts.tls_resumed,
    )


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


def _sorted_by_key(statuses: Mapping[int, int]) -> dict[str, int]:
    return {str(status): times for status, times in sorted(statuses.items())}
