"""`kabench diff`: compares saved records, and gives a verdict."""

from __future__ import annotations

from functools import partial
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli import file_options as files  # noqa: TC001  # typer reads the annotations
from kabench.cli.errors import CommandError, finish
from kabench.cli.gates import Check, FailIf, Gates, MaxRegression, complain
from kabench.cli.panels import Panel
from kabench.cli.standard_input import is_standard_input, read_record, refuse_two_readers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.result import RunResult

_argument = partial(typer.Argument, rich_help_panel=Panel.RECORDS)
_option = partial(typer.Option, rich_help_panel=Panel.RECORDS)


def diff(
    old: Annotated[Path, _argument(metavar="OLD", help="The old record, or a folder of them; - is stdin.")],
    new: Annotated[Path, _argument(metavar="NEW", help="The new record, or a folder of them; - is stdin.")],
    *,
    more_old: Annotated[
        list[Path] | None, _option("--old", metavar="FILE", help="Add another old record; may be repeated.")
    ] = None,
    more_new: Annotated[
        list[Path] | None, _option("--new", metavar="FILE", help="Add another new record; may be repeated.")
    ] = None,
    force: Annotated[
        bool, _option("--force", help="Compare records even if their plans differ; the report says so.")
    ] = False,
    fail_if: FailIf = None,
    check: Check = None,
    max_regression: MaxRegression = None,
    json: files.Json = None,
    junit: files.Junit = None,
    markdown: files.Markdown = None,
    html: files.Html = None,
    name: files.Name = "diff",
) -> None:
    """Compare saved records with older ones.

    The table and the verdicts are like those of kabench compare. A verdict needs at least five records on each side.
    Records come from different times and maybe different environments, so kabench compare, which measures the agents
    in turn, tells more.
    """
    from kabench.cli.extras import needs_extra

    needs_extra("kabench diff", "compare", ["scipy"])
    from kabench.cli.outputs import Outputs
    from kabench.cli.reports import Paths, report_of_comparison
    from kabench.comparison.saved import DifferentPlansError, NothingInCommonError
    from kabench.comparison.saved import diff as compare_saved
    from kabench.comparison.thresholds import outcomes_of_comparison

    olds, news = [old, *(more_old or ())], [new, *(more_new or ())]
    refuse_two_readers(
        side for side, paths in (("OLD", olds), ("NEW", news)) for path in paths if is_standard_input(path)
    )
    gates = Gates.of(fail_if, max_regression, check)
    paths = Paths(junit=junit, markdown=markdown, html=html)
    outputs = Outputs(paths, json=json)
    try:
        comparison = compare_saved(_records(olds), _records(news), force=force, name=name)
    except DifferentPlansError as error:
        raise CommandError(f"the plans differ: {error}; to compare them anyway, use --force") from None
    except NothingInCommonError as error:
        raise CommandError(str(error)) from None
    bases = {figure.base for figures in comparison.metrics for figure in figures.agents if figure.base is not None}
    gates.check_agents(comparison.agents, bases)
    outcomes = outcomes_of_comparison(gates.thresholds, gates.regressions, comparison)
    unsaved = outputs.write(comparison, lambda: report_of_comparison(comparison, paths, outcomes))
    finish([unsaved], interrupted=False, broken=complain(outcomes))


def _records(paths: Sequence[Path]) -> list[RunResult]:
    """Return the records in files and folders. Raises `CommandError`."""
    from kabench.result import SCHEMA, ResultError, parse_result, schema_of

    found: list[RunResult] = []
    try:
        for path in paths:
            inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
            before = len(found)
            for file in inside:
                document, where = read_record(file)
                if not path.is_dir() or schema_of(document, where) == SCHEMA:
                    found.append(parse_result(document, where))
            if len(found) == before:
                raise CommandError(f"{path}: there is no {SCHEMA} record in this folder")
    except ResultError as error:
        raise CommandError(str(error)) from None
    return found
