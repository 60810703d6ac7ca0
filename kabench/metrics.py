"""The figures of a run, each defined once: its name, label, unit, better direction, and where it shows.

Thresholds, comparisons and all reports loop over these; none has a list of its own. The order here is the order
in every report, except for siege's twelve lines, which have siege's order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from kabench.histogram import PERCENTILES
from kabench.result import BYTES_PER_MB

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.result import AgentRun, LoadFigures

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

    `of_target` returns the same of one target; it is None if only a whole run has the figure. `at_least` returns what
    the figure is above, if it has no value because some requests were not answered. `alias` is another name for
    thresholds, and `short` the heading if there is little room. `has_threshold` says whether thresholds may name it.
    """

    name: str
    label: str
    unit: Unit
    better: Literal["higher", "lower"]
    of: Callable[[AgentRun], float | None]
    of_target: Callable[[LoadFigures], float | None] | None = None
    at_least: Callable[[LoadFigures], float | None] | None = None
    alias: str = ""
    shows: frozenset[Place] = frozenset()
    short: str = ""
    decimals: int | None = None
    siege: SiegeLine | None = None
    has_threshold: bool = True

    def text_of(self, run: AgentRun) -> str:
        """Return the figure of a run with its unit; where requests were not answered, what it is above."""
        return self._text(self.of(run), run)

    def text_of_target(self, target: LoadFigures) -> str:
        """Return the figure of a target, as `text_of` does; - if only a whole run has it."""
        return self._text(None if self.of_target is None else self.of_target(target), target)

    def _text(self, value: float | None, figures: LoadFigures) -> str:
        bound = self.at_least(figures) if value is None and self.at_least is not None else None
        return self.text(value) if bound is None else f"> {self.text(bound)}, unanswered"

    def text(self, value: float | None) -> str:
        """Return the figure with its unit, as a report shows it."""
        if value is None:
            return "-"
        if self.unit == "s":
            return f"{value * 1000:.3f} ms"
        if self.unit == "":
            return f"{value:.0f}" if value == int(value) else f"{value:.2f}"
        if self.unit == "%":
            to = math.floor if self.better == "higher" else math.ceil  # so that 99.999 % does not show as 100
            return f"{to(round(value * 100, 6)) / 100:.2f}%"
        return f"{value:.2f}{self.unit}" if self.unit == "/s" else f"{value:.2f} {self.unit}"

    @property
    def spoken(self) -> str:
        """The name in a sentence: the shortest that thresholds may use."""
        return self.alias or self.name

    def limit_text(self, limit: float) -> str:
        """Return a limit of this figure, no longer than it must be."""
        if self.unit == "s":
            return f"{limit * 1000:g} ms" if limit < 1 else f"{limit:g} s"
        return f"{limit:g}{'' if self.unit in {'%', '/s', ''} else ' '}{self.unit}"

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


def _time_of_all(name: str, *, shows: frozenset[Place] = frozenset()) -> Metric:
    """Return a percentile of all requests that were due, or their maximum."""

    def of(figures: LoadFigures) -> float | None:
        return None if figures.response_time_all_s is None else getattr(figures.response_time_all_s, name)

    def at_least(figures: LoadFigures) -> float | None:
        return None if figures.response_time_all_s is None else figures.response_time_all_s.at_least_s.get(name)

    label = STATISTICS[name]
    return Metric(
        name=name,
        label=f"Response time, {label}",
        unit="s",
        better="lower",
        of=of,
        of_target=of,
        at_least=at_least,
        shows=shows,
        short=f"{label} (ms)",
    )


def _time(
    name: str,
    label: str | None = None,
    *,
    prefix: str = "answered_",
    shows: frozenset[Place] = frozenset(),
    siege: SiegeLine | None = None,
    has_threshold: bool = True,
) -> Metric:
    """Return a figure of the response times of all answers."""

    def of(figures: LoadFigures) -> float | None:
        value: float | None = getattr(figures.response_time_s, name)
        return value

    label = STATISTICS[name] if label is None else label
    return Metric(
        name=f"{prefix}{name}",
        label=f"Response time of answers, {label}",
        unit="s",
        better="lower",
        of=of,
        of_target=of,
        shows=shows,
        short=f"{label} (ms)",
        siege=siege,
        has_threshold=has_threshold,
    )


def _successful_time(name: str) -> Metric:
    def of(figures: LoadFigures) -> float | None:
        stats = figures.successful_response_time_s
        return None if stats is None else getattr(stats, name)

    return Metric(
        name=f"successful_{name}",
        label=f"Response time of successful answers, {STATISTICS[name]}",
        unit="s",
        better="lower",
        of=of,
        of_target=of,
    )


def _service_time(name: str) -> Metric:
    def of(figures: LoadFigures) -> float | None:
        value: float | None = getattr(figures.service_time_s, name)
        return value

    return Metric(
        name=f"service_{name}",
        label=f"Service time, {STATISTICS[name]}",
        unit="s",
        better="lower",
        of=of,
        of_target=of,
    )


def _count(
    name: str,
    label: str,
    better: Literal["higher", "lower"] = "lower",
    *,
    of_run_only: bool = False,
    shows: frozenset[Place] = frozenset(),
    siege: SiegeLine | None = None,
) -> Metric:
    def of(figures: LoadFigures) -> float | None:
        value: float | None = getattr(figures, name)
        return value

    return Metric(
        name=name,
        label=label,
        unit="",
        better=better,
        of=of,
        of_target=None if of_run_only else of,
        shows=shows,
        siege=siege,
    )


_FAILED_FOR_SIEGE = frozenset({"408", *map(str, range(500, 506))})
"""The statuses that siege 4.0.7 was seen to count as failures of the server (`findings/`). Its manual names none."""


def _availability_of_siege(figures: LoadFigures) -> float | None:
    """Return the availability that siege 4.0.7 itself prints."""
    failed = sum(times for status, times in figures.status_codes.items() if status in _FAILED_FOR_SIEGE)
    due = figures.transactions + figures.socket_errors
    return 100 * (figures.transactions - failed) / due if due else None


_SECONDS, _RATE, _MB = ("secs", 4), ("trans/sec", 2), ("MB", 2)

FIGURES = (
    Metric(
        name="failed_pct",
        label="Failed",
        unit="%",
        better="lower",
        of=lambda run: run.failed_pct,
        of_target=lambda target: target.failed_pct,
        alias="failed",
        shows=_UNJUDGED,
        short="failed (%)",
    ),
    Metric(
        name="transaction_rate",
        label="Transaction rate",
        unit="/s",
        better="higher",
        of=lambda run: run.transaction_rate,
        of_target=lambda target: target.transaction_rate,
        shows=_EVERYWHERE,
        short="rate (/s)",
        siege=SiegeLine(6, "Transaction rate", *_RATE),
    ),
    _time(
        "mean",
        prefix="",
        shows=frozenset({Place.MARKDOWN}),
        siege=SiegeLine(5, "Response time", *_SECONDS),
    ),
    _time_of_all("p50", shows=_EVERYWHERE),
    _time_of_all("p75"),
    _time_of_all("p90", shows=frozenset({Place.MARKDOWN})),
    _time_of_all("p95"),
    _time_of_all("p99", shows=_EVERYWHERE),
    _time_of_all("p99_9", shows=frozenset({Place.MARKDOWN})),
    _time_of_all("p99_99"),
    _time_of_all("max", shows=frozenset({Place.SIDE_BY_SIDE})),
    *(_time(name) for name in PERCENTILES),
    _time("max", "longest", siege=SiegeLine(11, "Longest transaction", *_SECONDS)),
    _time("min", "shortest", siege=SiegeLine(12, "Shortest transaction", *_SECONDS), has_threshold=False),
    _successful_time("p50"),
    _successful_time("p99"),
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
        label="Requests per socket",
        unit="",
        better="higher",
        of=lambda run: run.sockets.req_per_socket,
        shows=_EVERYWHERE,
        short="req / socket",
        decimals=2,
    ),
    Metric(
        name="stale_sockets",
        label="Reused sockets lost before an answer",
        unit="",
        better="lower",
        of=lambda run: run.sockets.stale,
    ),
    Metric(
        name="cpu_us_per_transaction",
        label="CPU per transaction",
        unit="us",
        better="lower",
        of=lambda run: run.client.cpu_us_per_transaction,
        shows=_EVERYWHERE,
        short="CPU (us)",
    ),
    Metric(
        name="succeeded_pct",
        label="Succeeded",
        unit="%",
        better="higher",
        of=lambda run: None if run.failed_pct is None else 100 - run.failed_pct,
        shows=frozenset({Place.COMPARED}),
        short="succeeded (%)",
    ),
    Metric(
        name="availability",
        label="Availability",
        unit="%",
        better="higher",
        of=lambda run: run.availability_pct,
        of_target=lambda target: target.availability_pct,
        shows=frozenset({Place.PAGE, Place.MARKDOWN}),
        short="avail. (%)",
        siege=SiegeLine(2, "Availability", "%", 2),
    ),
    Metric(
        name="siege_availability",
        label="Availability as siege 4.0.7 counts",
        unit="%",
        better="higher",
        of=_availability_of_siege,
        of_target=_availability_of_siege,
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
    _count("retries", "Retries", of_run_only=True, shows=frozenset({Place.SIDE_BY_SIDE, Place.MARKDOWN})),
    _count("not_started", "Not started", of_run_only=True),
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

ALIASES = {metric.alias: metric for metric in METRICS.values() if metric.alias}
"""Other names of figures in thresholds."""


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
