"""A comparison as rows and sentences, which its terminal, markdown and HTML reports share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.comparison.record import BETTER, CANNOT_TELL, NO_DIFFERENCE, WORSE
from kabench.metrics import METRICS

if TYPE_CHECKING:
    from kabench.comparison.record import AgentFigure, Comparison


INTERRUPTED = "Interrupted: the figures are those measured until then."


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One metric of an agent and its base, as text. `figure` has the numbers."""

    metric: str
    base: str
    agent: str
    ratio: str
    interval: str
    verdict: str
    figure: AgentFigure


@dataclass(frozen=True, slots=True)
class VerdictTable:
    """All metrics of an agent compared with its base."""

    agent: str
    base: str
    rows: list[VerdictRow]


def verdict_tables(comparison: Comparison) -> list[VerdictTable]:
    """Return a table for each agent that is compared with another."""
    tables: dict[str, VerdictTable] = {}
    for figures in comparison.metrics:
        by_agent = {figure.agent: figure for figure in figures.agents}
        for figure in figures.agents:
            if figure.base is None or figure.verdict is None:
                continue
            table = tables.setdefault(figure.agent, VerdictTable(figure.agent, figure.base, []))
            base = by_agent.get(figure.base)
            table.rows.append(
                VerdictRow(
                    metric=figures.metric,
                    base=figure_text(figures.metric, None if base is None else base.median),
                    agent=figure_text(figures.metric, figure.median),
                    ratio=figure.ratio_text,
                    interval=figure.interval_text,
                    verdict=figure.verdict,
                    figure=figure,
                )
            )
    return list(tables.values())


def figure_text(metric: str, value: float | None) -> str:
    """Return a figure with its unit, or only the number for a metric of a later version."""
    if metric in METRICS:
        return METRICS[metric].text(value)
    return "-" if value is None else f"{value:g}"


def conclusion(table: VerdictTable) -> str:
    """Return a sentence that sums a table up."""
    said = []
    for verdict, words in (
        (BETTER, "is better than {base} in {metrics}"),
        (WORSE, "is worse than {base} in {metrics}"),
        (NO_DIFFERENCE, "no difference found in {metrics}"),
        (CANNOT_TELL, "cannot tell about {metrics}"),
    ):
        metrics = [row.metric for row in table.rows if row.verdict == verdict]
        if metrics:
            said.append(words.format(base=table.base, metrics=", ".join(metrics)))
    if not said:
        return f"{table.agent}: nothing to compare."
    return f"{table.agent}{' ' if said[0].startswith('is ') else ': '}{'; '.join(said)}."


def trials_line(comparison: Comparison) -> str:
    """Return a line that says how many trials there were, and how they were made."""
    complete = comparison.complete_trials
    if comparison.paired:
        trials = f"{len(complete)} trial{'' if len(complete) == 1 else 's'} of each agent"
        unfinished = ", and one that was not finished" if len(complete) < len(comparison.trials) else ""
        return f"{trials} in turn, in {comparison.elapsed_s:.0f} s{unfinished}"
    counts = [sum(run.agent == agent for trial in complete for run in trial.runs) for agent in comparison.agents]
    return "saved records: " + ", ".join(
        f"{count} of {agent}" for count, agent in zip(counts, comparison.agents, strict=True)
    )


def ending(comparison: Comparison) -> str | None:
    """Return why the comparison ended before it was finished, or None."""
    if comparison.problem is not None:
        return f"Stopped: {comparison.problem}. The figures are those measured until then."
    return INTERRUPTED if comparison.interrupted else None


def explanations(comparison: Comparison) -> list[str]:
    """Return how to read the tables, and what to mind, in a sentence or two each."""
    test = (
        "the signed-rank test of trials that ran in turn"
        if comparison.paired
        else "the rank-sum test of records that were made apart"
    )
    said = [
        (
            "Figures are medians of trials. The ratio is the agent's figure divided by its base's, estimated from the "
            f"trials (not from the medians), with a 95 % interval, by {test}. Verdicts are corrected for the number of "
            "figures and of looks: at most one in 20 comparisons of equal agents finds a difference in any figure."
        )
    ]
    figures = [(f.metric, each) for f in comparison.metrics for each in f.agents if each.base is not None]
    needed = [each.trials_needed for _, each in figures if each.trials_needed is not None]
    if needed:
        said.append(f"Cannot tell: a verdict needs at least {max(needed)} trials of each agent.")
    if any(each.verdict == CANNOT_TELL and each.trials_needed is None for _, each in figures):
        said.append("Cannot tell: some trials do not have this figure.")
    alone = [metric for metric, each in figures if each.verdict == NO_DIFFERENCE and _leaves_one_out(each)]
    if alone:
        said.append(
            f"The interval of {', '.join(dict.fromkeys(alone))} does not contain 1, but with several figures that "
            "happens by chance now and then."
        )
    return said + [note[:1].upper() + note[1:] for note in comparison.notes]


def _leaves_one_out(figure: AgentFigure) -> bool:
    return figure.interval is not None and not figure.interval[0] <= 1 <= figure.interval[1]
