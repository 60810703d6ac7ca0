"""The charts of the HTML report: plotly figures, each with a table of its data.

The page has the colours of text, grid and background, for light and for dark. This module has the colours of agents,
which can be told apart on both, and without colour by their dashes and symbols.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kabench.histogram import decoded_cells
from kabench.report.buckets import buckets_between, fitted_edges
from kabench.report.comparison import figure_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kabench.comparison.record import Comparison
    from kabench.histogram import LatencyStats
    from kabench.result import AgentRun, SeriesPoint

_COLOURS = ("#3b82c4", "#e8833a", "#3fa266", "#c75450", "#8e6bbf", "#2f9fa8", "#b58900", "#c65d9b")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up")

_PERCENTILES = (
    ("p50", 50.0),
    ("p75", 75.0),
    ("p90", 90.0),
    ("p95", 95.0),
    ("p99", 99.0),
    ("p99_9", 99.9),
    ("p99_99", 99.99),
)
_PHASES = ("queue", "connect", "first_byte", "total")
_MOST_POINTS = 300
_MOST_BARS = 24
_LOG_ABOVE = 30
_SHORTEST_SECOND_S = 0.2
_FEWEST_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Table:
    """A chart's data as text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure of the page. `figure` is plotly's JSON; `says` explains how to read it."""

    id: str
    title: str
    says: str
    figure: dict[str, Any]
    table: Table


def charts_of(names: Sequence[str], runs: Sequence[AgentRun]) -> list[Chart]:
    """Return all charts of these runs that have something to show."""
    made = (percentiles(names, runs), over_time(names, runs), histogram(names, runs), phases(names, runs))
    return [chart for chart in made if chart is not None]


def percentiles(names: Sequence[str], runs: Sequence[AgentRun]) -> Chart | None:
    """Return a chart of response times by percentile, on a log axis that stretches out the slowest."""
    figure = go.Figure()
    longest_ms, shortest_ms, rarest = 0.0, float("inf"), 10.0
    for index, (name, run) in enumerate(zip(names, runs, strict=True)):
        cells = _cells(run)
        if not cells:
            continue
        whole = sum(times for _, times in cells)
        below, points = 0, []
        for value_us, times in cells:
            points.append((whole / (whole - below), value_us / 1000, 100 * below / whole))
            below += times
        longest_ms = max(longest_ms, cells[-1][0] / 1000)
        shortest_ms = min(shortest_ms, cells[0][0] / 1000)
        rarest = max(rarest, float(whole))
        points = _thinned(points)
        figure.add_scatter(
            x=[x for x, _, _ in points],
            y=[y for _, y, _ in points],
            customdata=[percent for _, _, percent in points],
            name=_plain(name),
            mode="lines",
            line={"color": _colour(index), "dash": _DASHES[index % len(_DASHES)], "shape": "hv", "width": 2.5},
            hovertemplate="%{y:.3f} ms, longer than %{customdata:.3f} %<extra>%{fullData.name}</extra>",
        )
    if not figure.data:
        return None
    ticks = [(1.0, "0"), (2.0, "50"), (10.0, "90"), (100.0, "99"), (1e3, "99.9"), (1e4, "99.99"), (1e5, "99.999")]
    shown = [(at, text) for at, text in ticks if at <= rarest * 1.01]
    is_wide = longest_ms > _LOG_ABOVE * shortest_ms
    figure.update_xaxes(
        type="log",
        tickvals=[at for at, _ in shown],
        ticktext=[f"{text} %" for _, text in shown],
        title="of all requests are faster",
    )
    figure.update_yaxes(title="response time, ms", **({"type": "log"} if is_wide else {"rangemode": "tozero"}))
    rows = [
        [
            name,
            *(_ms(getattr(run.response_time_s, figure_name)) for figure_name, _ in _PERCENTILES),
            _ms(run.response_time_s.max),
        ]
        for name, run in zip(names, runs, strict=True)
    ]
    return _chart(
        "percentiles",
        "Response time by percentile",
        "Requests further to the right are rarer: at 99 %, one request in a hundred took longer.",
        figure,
        Table(["agent", *(f"p{percent:g}" for _, percent in _PERCENTILES), "longest"], rows),
    )


def over_time(names: Sequence[str], runs: Sequence[AgentRun]) -> Chart | None:
    """Return a chart of rate, p99 and sockets, second by second."""
    if all(len(list(_seconds(run.series))) < _FEWEST_SECONDS for run in runs):
        return None
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    rows: list[list[str]] = []
    for index, (name, run) in enumerate(zip(names, runs, strict=True)):
        seconds = list(_seconds(run.series))
        at = [point.t_s for point, _ in seconds]
        rates = [rate for _, rate in seconds]
        p99_ms = [None if point.p99_s is None else point.p99_s * 1000 for point, _ in seconds]
        line = {"color": _colour(index), "width": 2}
        common = {"x": at, "legendgroup": str(index), "mode": "lines+markers", "marker": {"size": 4}}
        figure.add_scatter(y=rates, name=_plain(name), line=line, row=1, col=1, **common)
        figure.add_scatter(y=p99_ms, name=_plain(name), line=line, showlegend=False, row=2, col=1, **common)
        for kind, dash in (("active", "solid"), ("free", "dot"), ("pending", "dash")):
            counts = [getattr(point, kind) for point, _ in seconds]
            if any(counts):
                figure.add_scatter(
                    y=counts,
                    name=f"{_plain(name)}, {kind}",
                    line={**line, "dash": dash},
                    row=3,
                    col=1,
                    **{**common, "mode": "lines"},
                )
        rows += [
            [
                name,
                f"{point.t_s:g}",
                f"{rate:.0f}",
                _ms(point.p50_s),
                _ms(point.p99_s),
                *(str(getattr(point, kind)) for kind in ("active", "free", "pending", "created", "socket_errors")),
            ]
            for point, rate in seconds
        ]
    figure.update_yaxes(title="requests/s", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="p99, ms", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(title="sockets", rangemode="tozero", row=3, col=1)
    figure.update_xaxes(rangemode="tozero")
    figure.update_xaxes(title="seconds", row=3, col=1)
    head = ["agent", "second", "requests/s", "p50 ms", "p99 ms", "active", "free", "pending", "created", "errors"]
    return _chart(
        "over-time",
        "Second by second",
        "Active sockets carry a request, free sockets are idle, and pending requests wait for a socket.",
        figure,
        Table(head, rows),
        height=640,
    )


def histogram(names: Sequence[str], runs: Sequence[AgentRun]) -> Chart | None:
    """Return a chart of how many requests took how long, with the same buckets for all agents."""
    cells = [_cells(run) for run in runs]
    edges = fitted_edges(sorted(cell for each in cells for cell in each), _MOST_BARS)
    if not edges:
        return None
    figure = go.Figure()
    columns = [buckets_between(edges, each) for each in cells]
    labels = [bucket.label for bucket in columns[0]]
    for index, (name, buckets) in enumerate(zip(names, columns, strict=True)):
        figure.add_bar(
            x=labels,
            y=[100 * bucket.share for bucket in buckets],
            name=_plain(name),
            marker={"color": _colour(index)},
            hovertemplate="%{x}: %{y:.2f} %<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(barmode="group", bargap=0.15)
    figure.update_xaxes(title="response time", type="category", tickangle=-40)
    figure.update_yaxes(title="% of requests")
    head = ["response time", *(name for name in names)]
    rows = [
        [label, *(f"{buckets[row].count} ({100 * buckets[row].share:.2f} %)" for buckets in columns)]
        for row, label in enumerate(labels)
    ]
    return _chart(
        "histogram",
        "How long requests took",
        "Each bar is the share of requests in a bucket; the last bucket holds all longer ones.",
        figure,
        Table(head, rows),
    )


def phases(names: Sequence[str], runs: Sequence[AgentRun]) -> Chart | None:
    """Return a chart of the phases of requests."""
    figure = go.Figure()
    rows: list[list[str]] = []
    labels = [phase.replace("_", " ") for phase in _PHASES]
    for index, (name, run) in enumerate(zip(names, runs, strict=True)):
        stats: list[LatencyStats] = [getattr(run.phases, phase) for phase in _PHASES]
        if all(each.mean is None for each in stats[:-1]):
            continue
        p99_ms = [(each.p99 or 0.0) * 1000 for each in stats]
        figure.add_bar(
            x=labels,
            y=[(each.p50 or 0.0) * 1000 for each in stats],
            name=_plain(name),
            marker={"color": _colour(index)},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - (each.p50 or 0.0) * 1000 for high, each in zip(p99_ms, stats, strict=True)],
                "arrayminus": [0.0] * len(stats),
                "thickness": 1.5,
            },
            customdata=p99_ms,
            hovertemplate="%{x}: p50 %{y:.3f} ms, p99 %{customdata:.3f} ms<extra>%{fullData.name}</extra>",
        )
        rows += [
            [name, label, *(_ms(getattr(each, figure_name)) for figure_name in ("mean", "p50", "p90", "p99", "max"))]
            for label, each in zip(labels, stats, strict=True)
        ]
    if not figure.data:
        return None
    figure.update_layout(barmode="group")
    figure.update_yaxes(title="ms", rangemode="tozero")
    return _chart(
        "phases",
        "Where the time went",
        "Bars are p50, whiskers reach to p99. Queue is the wait for a socket, connect is the time of requests that "
        "opened one, and first byte counts from sending.",
        figure,
        Table(["agent", "phase", "mean", "p50", "p90", "p99", "longest"], rows),
    )


def trials(comparison: Comparison) -> Chart | None:
    """Return a chart of the rate of each trial, in order. It shows the noise, and changes of the machine."""
    figure = go.Figure()
    numbered = list(enumerate(comparison.complete_trials, 1))
    if not numbered:
        return None
    for index, agent in enumerate(comparison.agents):
        points = [
            (number, each.figures.get("transaction_rate"))
            for number, trial in numbered
            for each in trial.runs
            if each.agent == agent
        ]
        figure.add_scatter(
            x=[number for number, _ in points],
            y=[rate for _, rate in points],
            name=_plain(agent),
            mode="lines+markers",
            line={"color": _colour(index), "width": 1.5, "dash": "dot"},
            marker={"size": 8, "symbol": _SYMBOLS[index % len(_SYMBOLS)]},
        )
    figure.update_xaxes(title="trial", dtick=1 if len(numbered) <= 20 else None)
    figure.update_yaxes(title="requests/s")
    metrics = [figures.metric for figures in comparison.metrics]
    rows = [
        [str(number), each.agent, *(figure_text(metric, each.figures.get(metric)) for metric in metrics), each.id]
        for number, trial in numbered
        for each in trial.runs
    ]
    return _chart(
        "trials",
        "Trial by trial",
        "Ups and downs that both agents share come from the machine; the gap between the lines is the difference.",
        figure,
        Table(["trial", "agent", *metrics, "record"], rows),
    )


def _chart(id_: str, title: str, says: str, figure: go.Figure, table: Table, height: int = 420) -> Chart:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 16, "b": 56},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    made: dict[str, Any] = figure.to_plotly_json()
    return Chart(id_, title, says, made, table)


def _cells(run: AgentRun) -> list[tuple[int, int]]:
    return list(decoded_cells(run.hdr["total"])) if "total" in run.hdr else []


def _thinned(points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Return fewer points, at most `_MOST_POINTS`, spaced evenly on the log axis. Rare points at its end are kept."""
    kept: list[tuple[float, float, float]] = []
    last = 0.0
    step = (points[-1][0] / points[0][0]) ** (1 / _MOST_POINTS)
    for point in points:
        if not kept or point[0] >= last * step or point is points[-1]:
            kept.append(point)
            last = point[0]
    return kept


def _seconds(series: Iterable[SeriesPoint]) -> Iterable[tuple[SeriesPoint, float]]:
    """Yield each second with its rate. A short rest at the end is left out: its rate would say little."""
    before_s = 0.0
    for point in series:
        length_s = point.t_s - before_s
        if length_s >= _SHORTEST_SECOND_S:
            yield point, point.transactions / length_s
        before_s = point.t_s


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _plain(text: str) -> str:
    """Escape a text, so that plotly shows it as it is."""
    return html.escape(text)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3f}"
