"""Makes the report on the terminal, and the files that other programs read, from a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from kabench.cli.published import published_result
from kabench.report import render_result
from kabench.report.markdown import markdown_of_comparison, markdown_of_run
from kabench.report.series import percentile_text, series_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import ModuleType

    from rich.console import RenderableType

    from kabench.comparison.record import Comparison
    from kabench.comparison.thresholds import Outcome
    from kabench.result import RunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The paths of the files to write; None, or an empty list, if not wanted. `hgrm` has one for each agent."""

    csv: Path | None = None
    hgrm: Sequence[Path] = ()
    junit: Path | None = None
    markdown: Path | None = None
    html: Path | None = None

    def by_option(self) -> list[tuple[str, Path]]:
        """Return the paths that are given, each with its option."""
        named = (
            ("--csv", self.csv),
            *(("--hgrm", path) for path in self.hgrm),
            ("--junit", self.junit),
            ("--markdown", self.markdown),
            ("--html", self.html),
        )
        return [(option, path) for option, path in named if path is not None]


@dataclass(frozen=True, slots=True)
class Report:
    """A report: what is printed, the texts of the files, and the markdown for a job's summary."""

    shown: RenderableType
    markdown: Callable[[], str]
    texts: list[tuple[Path, Callable[[], str]]] = field(default_factory=list)


def report_of_run(
    result: RunResult,
    paths: Paths,
    outcomes: Sequence[Outcome],
    problem: str | None = None,
    *,
    siege: bool = False,
) -> Report:
    """Return a run's report with all wanted files. `problem` says why the run could not be finished."""
    markdown = partial(markdown_of_run, result, outcomes, problem)
    report = Report(_with_outcomes(render_result(result, published_result(), siege=siege), outcomes), markdown)
    if paths.csv is not None:
        report.texts.append((paths.csv, partial(series_csv, result)))
    report.texts.extend(
        (path, partial(percentile_text, run)) for path, run in zip(paths.hgrm, result.runs, strict=False)
    )
    if paths.junit is not None:
        report.texts.append((paths.junit, lambda: _junit().junit_of_run(result, outcomes, problem)))
    if paths.markdown is not None:
        report.texts.append((paths.markdown, markdown))
    if paths.html is not None:
        report.texts.append((paths.html, lambda: _html().html_of_run(result, outcomes)))
    return report


def report_of_comparison(comparison: Comparison, paths: Paths, outcomes: Sequence[Outcome]) -> Report:
    """Return a comparison's report with all wanted files."""
    from kabench.report.terminal_comparison import render_comparison

    markdown = partial(markdown_of_comparison, comparison, outcomes)
    report = Report(_with_outcomes(render_comparison(comparison), outcomes), markdown)
    if paths.junit is not None:
        report.texts.append((paths.junit, lambda: _junit().junit_of_comparison(comparison, outcomes)))
    if paths.markdown is not None:
        report.texts.append((paths.markdown, markdown))
    if paths.html is not None:
        report.texts.append((paths.html, lambda: _html().html_of_comparison(comparison, outcomes)))
    return report


def _junit() -> ModuleType:
    from kabench.report import junit

    return junit


def _html() -> ModuleType:
    from kabench.report import html

    return html


def _with_outcomes(shown: RenderableType, outcomes: Sequence[Outcome]) -> RenderableType:
    if not outcomes:
        return shown
    from rich.console import Group
    from rich.text import Text

    from kabench.report.terminal import render_outcomes

    return Group(shown, Text(), render_outcomes(outcomes))
