"""Reports as GitHub's markdown, for pull requests and job summaries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kabench.comparison.record import BETTER, CANNOT_TELL, WORSE
from kabench.comparison.thresholds import BROKEN, UNTOLD, WITHIN
from kabench.metrics import Place, shown_at
from kabench.report.binds import limit_that_binds
from kabench.report.comparison import INTERRUPTED, conclusion, ending, explanations, trials_line, verdict_tables
from kabench.report.terminal import printable
from kabench.report.words import answers_line, headline, unanswered_line, warnings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kabench.comparison.record import Comparison
    from kabench.comparison.thresholds import Outcome
    from kabench.result import RunResult

_MARKS = {BETTER: "🟢 ", WORSE: "🔴 ", CANNOT_TELL: "⚪ "}
_OUTCOMES = {WITHIN: "✅", BROKEN: "❌", UNTOLD: "⚪ cannot tell"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~@&$]|:(?=//|[\w+-]+:)|(?<=www)\.)")
_DIRECTIONS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F])
"""Characters that would reverse the order of the text after them."""


def markdown_of_run(result: RunResult, outcomes: Sequence[Outcome] = (), problem: str | None = None) -> str:
    """Return a run: its figures side by side, warnings and thresholds. `problem` says why it could not be finished."""
    rows = [[metric.label, *(metric.text_of(run) for run in result.runs)] for metric in shown_at(Place.MARKDOWN)]
    interrupted = problem is None and any(run.interrupted for run in result.runs)
    to_mind = []
    for run in result.runs:
        binding = limit_that_binds(run, result.plan)
        said = [answers_line(run), unanswered_line(run), *warnings(run, result.plan)]
        said += [] if binding is None else [f"What binds: {binding.text}"]
        to_mind += [f"{run.agent}: {each}" for each in said if each]
    parts = [
        _heading(result),
        *([f"**⚠️ Stopped: {_escaped(problem)}**"] if problem is not None else []),
        *([f"**⚠️ {INTERRUPTED}**"] if interrupted else []),
        _table(["", *(run.agent for run in result.runs)], rows),
        *(f"- {_escaped(warning)}" for warning in to_mind),
        *_outcomes(outcomes),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_of_comparison(comparison: Comparison, outcomes: Sequence[Outcome] = ()) -> str:
    """Return a comparison: a table of verdicts for each agent, and how to read it."""
    ended = ending(comparison)
    parts = [_heading(comparison), _escaped(trials_line(comparison)) + "."]
    parts += [] if ended is None else [f"**⚠️ {_escaped(ended)}**"]
    for table in verdict_tables(comparison):
        parts.append(f"**{_escaped(conclusion(table))}**")
        parts.append(
            _table(
                ["", table.base, table.agent, "ratio", "95 % interval", "verdict"],
                [
                    [r.metric, r.base, r.agent, r.ratio, r.interval, _MARKS.get(r.verdict, "") + r.verdict]
                    for r in table.rows
                ],
            )
        )
    parts += _outcomes(outcomes)
    parts += [f"<sub>{_escaped(said)}</sub>" for said in explanations(comparison)]
    return "\n\n".join(parts) + "\n"


def _heading(record: RunResult | Comparison) -> str:
    first, _, rest = headline(record).partition("\n")
    return f"### {_escaped(first)}\n\n{_escaped(rest)}"


def _outcomes(outcomes: Sequence[Outcome]) -> list[str]:
    if not outcomes:
        return []
    lines = [f"- {_OUTCOMES[outcome.verdict]} {_escaped(str(outcome))}" for outcome in outcomes]
    return ["\n".join(["**Thresholds**", "", *lines])]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(head), _row(["---", *("---:" for _ in head[1:])], escape=False)]
    return "\n".join([*lines, *(_row(row) for row in rows)])


def _row(cells: Sequence[str], *, escape: bool = True) -> str:
    return "| " + " | ".join(_escaped(cell) if escape else cell for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Escape a text, so that markdown shows it as it is."""
    return _SPECIAL.sub(r"\\\1", printable(" ".join(text.split())).translate(_DIRECTIONS))
