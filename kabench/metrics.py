"""The figures of a run, each defined once: its name, label, unit, better direction, and where it shows.

Thresholds, comparisons and all reports loop over these; none has a list of its own. The order here is the order
in every report, except for siege's twelve lines, which have siege's order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from kabench.result import BYTES_PER_MB

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.result import AgentRun

Unit = Literal["", "s", "/s", "us", "%", "MB", "MB/s"]

_DECIMALS = {"": 0, "s": 3}
_UNITS_IN_HEADINGS = {"s": "ms", "/s": "trans/sec"}


class Place(Enum):
    """The places where a figure shows, besides thresholds."""

    SIDE_BY_SIDE = "side_by_side"
    """The table of the terminal's report that shows agents side by side."""
    PAGE = "page"
    """The table at the top of an HTML page."""
    MARKDOWN = "markdown"
    COMPARED = "compared"
    """The verdicts of a comparison. They are few, because each one more makes all others less certain."""


_EVERYWHERE = frozenset(Place)
_UNJUDGED = _EVERYWHERE - {Place.COMPARED}


@dataclass(frozen=True, slots=True)
class SiegeLine:
    """A line of siege's report: its place, siege's label and unit, and decimals. Its times are seconds."""

    place: int
    label: str
    unit: str = ""
    decimals: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure of an `AgentRun`. `of` returns it, or None if the run does not have it; times are seconds.

    `short` is the heading if there is little room. `has_threshold` says whether thresholds may name it.
    """

    name: str
    label: str
    unit: Unit
    better: Literal["higher", "lower"]
    of: Callable[[AgentRun], float | None]
    shows: frozenset[Place] = frozenset()
    short: str = ""
    decimals: int | None = None
    siege: SiegeLine | None = None
    has_threshold: bool = True

    def text(self, value: float | None) -> str:
        """Return the figure with its unit, as a report shows it."""
        if value is None:
            return "-"
        if self.unit == "s":
            return f"{value * 1000:.3f} ms"
        if self.unit == "":
            return f"{value:.0f}" if value == int(value) else f"{value:.2f}"
        if self.unit == "%":
            return f"{math.floor(value * 100) / 100:.2f}%"  # rounded down, so that 99.999 % does not show as 100
        return f"{value:.2f}{self.unit}" if self.unit == "/s" else f"{value:.2f} {self.unit}"

    @property
    def heading(self) -> str:
        """The label with the unit of `number`."""
        unit = _UNITS_IN_HEADINGS.get(self.unit, self.unit)
        return f"{self.label} ({unit})" if unit else self.label

    def number(self, value: float | None) -> float | None:
        """Return the figure in the unit of the heading: times in milliseconds."""
        return value * 1000 if value is not None and self.unit == "s" else value

    @property
    def number_decimals(self) -> int:
        """The number of decimals with which reports show `number`."""
        return _DECIMALS.get(self.unit, 2) if self.decimals is None else self.decimals


STATISTICS = {
    "mean": "mean",
    "stdev": "deviation",
    "p50": "p50",
    "p75": "p75",
    "p90": "p90",
    "p95": "p95",
    "p99": "p99",
    "p99_9": "p99.9",
    "p99_99": "p99.99",
    "max": "max",
}
"""The statistics that reports show of a distribution of times: names in `LatencyStats`, and labels."""


def _time(
    name: str,
    label: str | None = None,
    *,
    shows: frozenset[Place] = frozenset(),
    siege: SiegeLine | None = None,
    has_threshold: bool = True,
) -> Metric:
    label = STATISTICS[name] if label is None else label
    return Metric(
        name=name,
        label=f"Response time, {label}",
        unit="s",
        better="lower",
        of=lambda run: getattr(run.response_time_s, name),
        shows=shows,
        short=f"{label} (ms)",
        siege=siege,
        has_threshold=has_threshold,
    )


def _service_time(name: str) -> Metric:
    return Metric(
        name=f"service_{name}",
        label=f"Service time, {STATISTICS[name]}",
        unit="s",
        better="lower",
        of=lambda run: getattr(run.service_time_s, name),
    )


def _count(
    name: str,
    label: str,
    better: Literal["higher", "lower"] = "lower",
    *,
    shows: frozenset[Place] = frozenset(),
    siege: SiegeLine | None = None,
) -> Metric:
    return Metric(
        name=name, label=label, unit="", better=better, of=lambda run: getattr(run, name), shows=shows, siege=siege
    )


_SECONDS, _RATE, _MB = ("secs", 4), ("trans/sec", 2), ("MB", 2)

FIGURES = (
    Metric(
        name="transaction_rate",
        label="Transaction rate",
        unit="/s",
        better="higher",
        of=lambda run: run.transaction_rate,
        shows=_EVERYWHERE,
        short="rate (/s)",
        siege=SiegeLine(6, "Transaction rate", *_RATE),
    ),
    _time(
        "mean",
        shows=frozenset({Place.SIDE_BY_SIDE, Place.MARKDOWN}),
        siege=SiegeLine(5, "Response time", *_SECONDS),
    ),
    _time("p50", shows=_EVERYWHERE),
    _time("p75"),
    _time("p90", shows=frozenset({Place.MARKDOWN})),
    _time("p95"),
    _time("p99", shows=_EVERYWHERE),
    _time("p99_9", shows=frozenset({Place.MARKDOWN})),
    _time("p99_99"),
    _time("max", "longest", siege=SiegeLine(11, "Longest transaction", *_SECONDS)),
    _time("min", "shortest", siege=SiegeLine(12, "Shortest transaction", *_SECONDS), has_threshold=False),
    _service_time("p50"),
    _service_time("p90"),
    _service_time("p99"),
    Metric(name="lag_p99", label="Lag, p99", unit="s", better="lower", of=lambda run: run.lag_s.p99),
    Metric(
        name="queue_p99",
        label="Waiting for a socket, p99",
        unit="s",
        better="lower",
        of=lambda run: run.phases.queue.p99,
    ),
    Metric(
        name="sockets_created",
        label="Sockets created",
        unit="",
        better="lower",
        of=lambda run: run.sockets.created,
        shows=_UNJUDGED,
        short="sockets",
    ),
    Metric(
        name="req_per_socket",
        label="Requests a socket",
        unit="",
        better="higher",
        of=lambda run: run.sockets.req_per_socket,
        shows=_EVERYWHERE,
        short="req / socket",
        decimals=2,
    ),
    Metric(
        name="stale_sockets",
        label="Requests that met a stale socket",
        unit="",
        better="lower",
        of=lambda run: run.sockets.stale,
    ),
    Metric(
        name="cpu_us_per_transaction",
        label="CPU a transaction",
        unit="us",
        better="lower",
        of=lambda run: run.client.cpu_us_per_transaction,
        shows=_EVERYWHERE,
        short="CPU (us)",
    ),
    Metric(
        name="availability",
        label="Availability",
        unit="%",
        better="higher",
        of=lambda run: run.availability_pct,
        shows=_EVERYWHERE,
        short="avail. (%)",
        siege=SiegeLine(2, "Availability", "%", 2),
    ),
    _count("transactions", "Transactions", "higher", siege=SiegeLine(1, "Transactions", "hits")),
    _count(
        "successful_transactions",
        "Successful transactions",
        "higher",
        siege=SiegeLine(9, "Successful transactions"),
    ),
    _count(
        "failed_transactions",
        "Failed transactions",
        shows=frozenset({Place.MARKDOWN}),
        siege=SiegeLine(10, "Failed transactions"),
    ),
    _count("socket_errors", "Socket errors"),
    _count("retries", "Retries"),
    _count("not_started", "Not started"),
    Metric(
        name="elapsed_s",
        label="Elapsed time",
        unit="s",
        better="lower",
        of=lambda run: run.elapsed_s,
        siege=SiegeLine(3, "Elapsed time", "secs", 2),
        has_threshold=False,
    ),
    Metric(
        name="data_transferred_mb",
        label="Data transferred",
        unit="MB",
        better="higher",
        of=lambda run: run.data_transferred_bytes / BYTES_PER_MB,
        siege=SiegeLine(4, "Data transferred", *_MB),
        has_threshold=False,
    ),
    Metric(
        name="throughput_mb_s",
        label="Throughput",
        unit="MB/s",
        better="higher",
        of=lambda run: run.throughput_mb_s,
        siege=SiegeLine(7, "Throughput", "MB/sec", 2),
    ),
    Metric(
        name="concurrency",
        label="Concurrency",
        unit="",
        better="lower",
        of=lambda run: run.concurrency,
        siege=SiegeLine(8, "Concurrency", "", 2),
        has_threshold=False,
    ),
    Metric(name="max_rss_mb", label="Memory", unit="MB", better="lower", of=lambda run: run.client.max_rss_mb),
)
"""All figures, in the order of the reports."""

METRICS = {metric.name: metric for metric in FIGURES if metric.has_threshold}
"""The figures that thresholds may name and comparisons record, by name."""


def shown_at(place: Place) -> tuple[Metric, ...]:
    """Return the figures that show at a place, in order."""
    return tuple(metric for metric in FIGURES if place in metric.shows)


COMPARED = shown_at(Place.COMPARED)
"""The figures that a comparison judges."""

SIEGE_LINES = tuple(
    (metric, line)
    for metric, line in sorted(
        ((metric, metric.siege) for metric in FIGURES if metric.siege is not None), key=lambda pair: pair[1].place
    )
)
"""siege's twelve lines, in siege's order, with the figure of each."""
