"""The HTML report: one page that contains all it needs, charts included, and works offline."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from kabench.comparison.record import Comparison
from kabench.metrics import Place, shown_at
from kabench.report.charts import Chart, charts_of, trials
from kabench.report.comparison import (
    INTERRUPTED,
    VerdictRow,
    conclusion,
    ending,
    explanations,
    trials_line,
    verdict_tables,
)
from kabench.report.siege import siege_lines, socket_line
from kabench.report.words import headline, warnings
from kabench.result import labels
from kabench.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.comparison.thresholds import Outcome
    from kabench.result import AgentRun, RunResult

_LEAST_REACH = math.log(1.05)
_MOST_REACH = math.log(2)
"""How far the axis of ratios reaches from 1, at least and at most. A ratio beyond is drawn as an arrow at its end."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A verdict, and the place of its interval on the axis, from 0 to 100; None if there is none to draw."""

    row: VerdictRow
    low: float | None
    high: float | None
    at: float | None
    is_beyond: bool


@dataclass(frozen=True, slots=True)
class _Verdicts:
    agent: str
    base: str
    said: str
    ends: tuple[str, str]
    rows: list[_Row]


def html_of_run(result: RunResult, outcomes: Sequence[Outcome] = ()) -> str:
    """Return a run as a page."""
    names = labels([run.agent for run in result.runs])
    return _page(
        record=result,
        names=names,
        runs=result.runs,
        charts=charts_of(names, result.runs),
        outcomes=outcomes,
        warnings=[
            f"{name}: {warning}"
            for name, run in zip(names, result.runs, strict=True)
            for warning in warnings(run, result.plan)
        ],
    )


def html_of_comparison(comparison: Comparison, outcomes: Sequence[Outcome] = ()) -> str:
    """Return a comparison as a page."""
    by_trial = trials(comparison)
    names = [run.agent for run in comparison.runs]
    return _page(
        record=comparison,
        names=names,
        runs=comparison.runs,
        charts=[*([by_trial] if by_trial is not None else []), *charts_of(names, comparison.runs)],
        outcomes=outcomes,
        verdicts=[
            _Verdicts(table.agent, table.base, conclusion(table), *_drawn(table.rows))
            for table in verdict_tables(comparison)
        ],
        explanations=explanations(comparison),
        trials=trials_line(comparison),
    )


def _drawn(rows: Sequence[VerdictRow]) -> tuple[tuple[str, str], list[_Row]]:
    """Return the ends of the axis that all rows of a table share, and each row's place on it."""
    known = [
        abs(math.log(ratio))
        for row in rows
        for ratio in (row.figure.ratio, *(row.figure.interval or ()))
        if ratio is not None and ratio > 0
    ]
    near = [distance for distance in known if distance <= _MOST_REACH]
    reach = min(_MOST_REACH, max([_LEAST_REACH, *near]) * 1.1)
    ends = (f"{math.exp(-reach):.2f}", f"{math.exp(reach):.2f}")
    return ends, [_placed(row, reach) for row in rows]


def _placed(row: VerdictRow, reach: float) -> _Row:
    def place(ratio: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, math.log(ratio) / reach)), 2) if ratio > 0 else 0.0

    ratio, interval = row.figure.ratio, row.figure.interval
    if ratio is None:
        return _Row(row, None, None, None, is_beyond=False)
    is_beyond = ratio <= 0 or abs(math.log(ratio)) > reach
    low, high = (None, None) if interval is None or is_beyond else map(place, interval)
    return _Row(row, low, high, place(ratio), is_beyond)


def _page(
    *,
    record: RunResult | Comparison,
    names: Sequence[str],
    runs: Sequence[AgentRun],
    charts: Sequence[Chart],
    outcomes: Sequence[Outcome],
    warnings: Sequence[str] = (),
    verdicts: Sequence[_Verdicts] = (),
    explanations: Sequence[str] = (),
    trials: str | None = None,
) -> str:
    title, _, rest = headline(record).partition("\n")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(resources.files("kabench.report").joinpath("templates/report.html").read_text("utf-8"))
    return template.render(
        title=title,
        rest=rest,
        trials=trials,
        ended=_ending(record),
        environment=_environment(record),
        key_figures=[[metric.label, *(metric.text(metric.of(run)) for run in runs)] for metric in shown_at(Place.PAGE)],
        names=names,
        verdicts=verdicts,
        explanations=explanations,
        outcomes=outcomes,
        warnings=warnings,
        charts=charts,
        sieges=[
            (name, "\n".join([*siege_lines(run), "", socket_line(run)])) for name, run in zip(names, runs, strict=True)
        ],
        errors=[
            (name, kind, times) for name, run in zip(names, runs, strict=True) for kind, times in run.errors.items()
        ],
        figures=_as_script({chart.id: chart.figure for chart in charts}),
        plotly=Markup(get_plotlyjs()),  # noqa: S704  # the library's own
        version=__version__,
    )


def _ending(record: RunResult | Comparison) -> str | None:
    if isinstance(record, Comparison):
        return ending(record)
    return INTERRUPTED if any(run.interrupted for run in record.runs) else None


def _environment(record: RunResult | Comparison) -> list[tuple[str, str]]:
    environment = record.environment
    return [
        ("kabench", record.kabench_version),
        ("Python", f"{environment.python} ({environment.implementation}, {environment.event_loop})"),
        ("platform", environment.platform),
        ("processor", f"{environment.cpu_model}, {environment.cpu_count} cores"),
        *sorted(environment.versions.items()),
    ]


def _as_script(figures: dict[str, Any]) -> Markup:
    """Return JSON that can stand inside a script element, whatever it contains."""
    text = json.dumps(figures, cls=PlotlyJSONEncoder, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # no character of it can end the script
