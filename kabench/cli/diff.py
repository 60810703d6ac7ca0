"""`kabench diff`: saved records against each other, a verdict."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli import file_options as files  # noqa: TC001  # typer reads the annotations
from kabench.cli.errors import CommandError, finish
from kabench.cli.gates import FailIf, Gates, MaxRegression, complain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.result import RunResult


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A record, or a folder of them.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A record, or a folder of them.")],
    *,
    more_old: Annotated[
        list[Path] | None, typer.Option("--old", metavar="FILE", help="Another old one; may be repeated.")
    ] = None,
    more_new: Annotated[
        list[Path] | None, typer.Option("--new", metavar="FILE", help="Another new one; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare records of different plans, and say so.")] = False,
    fail_if: FailIf = None,
    max_regression: MaxRegression = None,
    json: files.Json = None,
    junit: files.Junit = None,
    markdown: files.Markdown = None,
    html: files.Html = None,
    name: files.Name = "diff",
) -> None:
    """Compare saved records with older ones.

    The table and the verdicts are those of kabench compare. It takes five or more on each side to tell anything. The
    environments may differ, and the day of the machine does: what is measured in turn, by kabench compare, tells more.
    """
    from kabench.cli.extras import needs_extra

    needs_extra("kabench diff", "compare", ["scipy"])
    from kabench.cli.outputs import Outputs
    from kabench.cli.reports import Paths, report_of_comparison
    from kabench.comparison.saved import DifferentPlansError, NothingInCommonError
    from kabench.comparison.saved import diff as compare_saved
    from kabench.comparison.thresholds import outcomes_of_comparison

    gates = Gates.of(fail_if, max_regression)
    paths = Paths(junit=junit, markdown=markdown, html=html)
    outputs = Outputs(paths, json=json)
    try:
        comparison = compare_saved(
            _records([old, *(more_old or ())]), _records([new, *(more_new or ())]), force=force, name=name
        )
    except DifferentPlansError as error:
        raise CommandError(f"the plans differ: {error}; --force compares them all the same") from None
    except NothingInCommonError as error:
        raise CommandError(str(error)) from None
    bases = {figure.base for figures in comparison.metrics for figure in figures.agents if figure.base is not None}
    gates.check_agents(comparison.agents, bases)
    outcomes = outcomes_of_comparison(gates.thresholds, gates.regressions, comparison)
    unsaved = outputs.write(comparison, lambda: report_of_comparison(comparison, paths, outcomes))
    finish([unsaved], interrupted=False, broken=complain(outcomes))


def _records(paths: Sequence[Path]) -> list[RunResult]:
    """The records in files and folders. Raises `CommandError`."""
    from kabench.result import SCHEMA, ResultError, parse_result, read_file, schema_of

    found: list[RunResult] = []
    try:
        for path in paths:
            inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
            before = len(found)
            for file in inside:
                document = read_file(file)
                if not path.is_dir() or schema_of(document, str(file)) == SCHEMA:
                    found.append(parse_result(document, str(file)))
            if len(found) == before:
                raise CommandError(f"{path}: there is no {SCHEMA} record in this folder")
    except ResultError as error:
        raise CommandError(str(error)) from None
    return found
