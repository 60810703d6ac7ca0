"""A comparison on a terminal: at most 80 columns, and complete without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kabench.comparison.record import BETTER, CANNOT_TELL, WORSE
from kabench.metrics import METRICS
from kabench.report.comparison import VerdictTable, conclusion, ending, explanations, trials_line, verdict_tables
from kabench.report.terminal import WIDTH, printable, rule
from kabench.report.words import headline, wrapped

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kabench.comparison.record import Comparison

_STYLES = {BETTER: "green", WORSE: "red", CANNOT_TELL: "yellow"}
_NAME_WIDTH = 9


def render_comparison(comparison: Comparison) -> RenderableType:
    """Return the report of a comparison: a table for each agent compared with another, and how to read it."""
    parts: list[RenderableType] = [
        Text(printable(headline(comparison)), style="bold"),
        Text(wrapped(printable(trials_line(comparison)), WIDTH)),
    ]
    ended = ending(comparison)
    if ended is not None:
        parts.append(Text(wrapped(printable(ended), WIDTH), style="yellow"))
    tables = verdict_tables(comparison)
    for table in tables:
        parts += [Text(), rule(printable(f"{table.agent} against {table.base}")), _table(table)]
    parts.append(Text())
    parts += [Text(wrapped(printable(conclusion(table)), WIDTH), style="bold") for table in tables]
    for said in explanations(comparison):
        parts.append(Text(wrapped(printable(said), WIDTH), style="dim"))
    return Group(*parts)


def _table(verdicts: VerdictTable) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("")
    for name in (verdicts.base, verdicts.agent):
        table.add_column(Text(printable(name)), justify="right", min_width=_NAME_WIDTH, overflow="fold")
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in verdicts.rows:
        verdict = Text(row.verdict, style=_STYLES.get(row.verdict, ""))
        label = METRICS[row.metric].label if row.metric in METRICS else printable(row.metric)
        table.add_row(Text(label), row.base, row.agent, row.ratio, row.interval, verdict)
    return table
