"""Adds what kabench's senders measured to locust's own statistics.

locust counts each finished request, failed ones too, and rounds response times to two digits. Each second of kabench
becomes one entry that is added to locust's. Requests that died with their socket have no response time in it, because
kabench has none for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from locust import stats as locust_stats
from locust.stats import RequestStats, StatsEntry, StatsError

from kabench.result import ANSWERED_KINDS, FIRST_FAILED_STATUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.load.figures.messages import Counts, Totals


def add_second(
    stats: RequestStats, method: str, name: str, counts: Sequence[Counts], totals: Totals, began_at: float, at: float
) -> None:
    """Add one second, from `began_at` to `at` (time since the epoch). `totals` are those of this second alone.

    locust's charts show it in the second that contains most of it.
    """
    requests = sum(totals.status_codes.values()) + totals.socket_errors
    if not requests:
        return
    failures = {f"status {status}": n for status, n in totals.status_codes.items() if status >= FIRST_FAILED_STATUS}
    failures |= {kind.replace("_", " "): n for kind, n in totals.errors.items() if kind not in ANSWERED_KINDS}
    entry = StatsEntry(stats, name, method)
    entry.start_time = began_at
    entry.last_request_timestamp = at
    entry.num_requests = requests
    entry.num_none_requests = totals.socket_errors
    entry.num_failures = sum(failures.values())
    entry.total_content_length = totals.body_bytes
    second = int((began_at + at) / 2)
    entry.num_reqs_per_sec[second] = requests
    if entry.num_failures:
        entry.num_fail_per_sec[second] = entry.num_failures
    _add_latencies(entry, counts)
    stats.entries[(name, method)].extend(entry)
    stats.total.extend(entry)
    for error, times in failures.items():
        _add_error(stats, method, name, error, times)


def _add_latencies(entry: StatsEntry, counts: Sequence[Counts]) -> None:
    total_us = 0
    shortest_us: int | None = None
    longest_us = 0
    for each in counts:
        if "total" not in each.phases:
            continue
        for value_us, times in each.counts.items():
            total_us += value_us * times
            entry.response_times[_rounded(value_us / 1000)] += times
        shortest_us = min(each.counts) if shortest_us is None else min(shortest_us, *each.counts)
        longest_us = max(longest_us, *each.counts)
    entry.total_response_time = total_us / 1000  # type: ignore[assignment]  # locust's own are floats, too
    entry.min_response_time = None if shortest_us is None else shortest_us / 1000  # type: ignore[assignment]
    entry.max_response_time = longest_us / 1000  # type: ignore[assignment]


def _rounded(milliseconds: float) -> int:
    """Round as locust does, also where a locust file has replaced locust's rounding."""
    by_locust = getattr(locust_stats, "bucket_response_time", None)
    if by_locust is not None:
        rounded: int = by_locust(milliseconds)
        return rounded
    digits = 0 if milliseconds < 100 else -1 if milliseconds < 1000 else -2 if milliseconds < 10000 else -3
    return int(round(milliseconds, digits))


def _add_error(stats: RequestStats, method: str, name: str, error: str, times: int) -> None:
    key = StatsError.create_key(method, name, error)
    known = stats.errors.get(key)
    if known is None:
        known = stats.errors[key] = StatsError(method, name, error)
    known.occurrences += times - 1
    known.occurred()
