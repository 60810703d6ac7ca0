"""`kabench report`: a saved record again."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import Annotated

import typer

from kabench.cli.errors import CommandError


def report(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Records that kabench run has saved.")],
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="PATH", help="Write the series, second by second; of one record.")
    ] = None,
    hgrm: Annotated[
        Path | None,
        typer.Option(
            "--hgrm", metavar="PATH", help="Write the latency percentiles as HdrHistogram has them, a file an agent."
        ),
    ] = None,
) -> None:
    """Print saved records again, several side by side."""
    if len(files) > 1 and (csv is not None or hgrm is not None):
        raise CommandError("--csv and --hgrm are for one record at a time")
    from rich.console import Group
    from rich.text import Text

    from kabench.cli.console import report_console
    from kabench.cli.outputs import hgrm_paths, write_texts
    from kabench.cli.published import published_result
    from kabench.report import render_result
    from kabench.report.terminal import render_side_by_side
    from kabench.result import ResultError, load_result

    try:
        results = [load_result(path) for path in files]
    except ResultError as error:
        raise CommandError(str(error)) from None
    problems = write_texts(results[0], csv, hgrm_paths(hgrm, [run.agent for run in results[0].runs]))
    if problems:
        raise CommandError("; ".join(problems))
    published = published_result()
    parts = [render_result(result, published) for result in results]
    if len(results) > 1:
        parts.append(Group(Text(), render_side_by_side([run for result in results for run in result.runs])))
    console = report_console()
    for part in parts:
        console.print(part)
