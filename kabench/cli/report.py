"""`kabench report`: prints a saved record again."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli import file_options as files  # noqa: TC001  # typer reads the annotations
from kabench.cli.errors import CommandError, finish
from kabench.cli.gates import Check, FailIf, Gates, complain
from kabench.cli.panels import Panel
from kabench.cli.standard_input import is_standard_input, read_record, refuse_two_readers

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from kabench.comparison.record import Comparison
    from kabench.result import RunResult


def report(
    records: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Records that kabench run, compare or diff has saved; - is stdin.",
            rich_help_panel=Panel.RECORDS,
        ),
    ],
    csv: files.Csv = None,
    hgrm: files.Hgrm = None,
    junit: files.Junit = None,
    markdown: files.Markdown = None,
    html: files.Html = None,
    siege: files.Siege = False,
    fail_if: FailIf = None,
    check: Check = None,
) -> None:
    """Print saved records again, or make files from one."""
    if len(records) > 1 and any(path is not None for path in (csv, hgrm, junit, markdown, html)):
        raise CommandError("--csv, --hgrm, --junit, --markdown and --html are for one record at a time")
    refuse_two_readers("FILE" for path in records if is_standard_input(path))
    from rich.console import Group
    from rich.text import Text

    from kabench.cli.console import report_console
    from kabench.cli.outputs import check_paths, hgrm_paths, write_texts
    from kabench.cli.reports import Paths, report_of_comparison, report_of_run
    from kabench.comparison.thresholds import outcomes_of_comparison, outcomes_of_runs
    from kabench.report.terminal import render_side_by_side
    from kabench.result import ResultError, RunResult, labels

    try:
        read = [_read(path) for path in records]
    except ResultError as error:
        raise CommandError(str(error)) from None
    gates = Gates.of(fail_if, check=check)
    if len(records) > 1 and gates.thresholds:
        raise CommandError("--fail-if and --check are for one record at a time")
    console = report_console()
    problems: list[str] = []
    is_broken = False
    for record in read:
        if isinstance(record, RunResult):
            agents = labels([run.agent for run in record.runs])
            paths = Paths(csv=csv, hgrm=hgrm_paths(hgrm, agents), junit=junit, markdown=markdown, html=html)
            gates.check_agents(agents, agents[:1])
            outcomes = outcomes_of_runs(gates.thresholds, record.runs)
            made = report_of_run(record, paths, outcomes, siege=siege)
        elif csv is not None or hgrm is not None:
            raise CommandError("--csv and --hgrm are for the record of a run; this is a comparison")
        else:
            paths = Paths(junit=junit, markdown=markdown, html=html)
            gates.check_agents(record.agents, record.agents[:1])
            outcomes = outcomes_of_comparison(gates.thresholds, (), record)
            made = report_of_comparison(record, paths, outcomes)
        check_paths(paths)
        problems += write_texts(made)
        _print(console, made.shown)
        is_broken = complain(outcomes) or is_broken
    runs = [run for record in read if isinstance(record, RunResult) for run in record.runs]
    if sum(isinstance(record, RunResult) for record in read) > 1:
        _print(console, Group(Text(), render_side_by_side(runs)))
    if problems:
        raise CommandError("; ".join(problems))
    finish((), interrupted=False, broken=is_broken)


def _print(console: Console, shown: RenderableType) -> None:
    try:
        console.print(shown)
    except OSError as error:
        raise CommandError(f"the report cannot be printed: {error.strerror}", CommandError.COULD_NOT_MEASURE) from None


def _read(path: Path) -> RunResult | Comparison:
    """Return a record of either kind. Raises `CommandError`, or `ResultError`."""
    from kabench.comparison.record import SCHEMA, parse_comparison
    from kabench.result import parse_result, schema_of

    document, where = read_record(path)
    if schema_of(document, where) == SCHEMA:
        return parse_comparison(document, where)
    return parse_result(document, where)
