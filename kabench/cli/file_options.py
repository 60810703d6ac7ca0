"""The options that name files to write, for all commands that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    str | None, typer.Option("--json", metavar="PATH", help="Write the record to this file, too; - is stdout.")
]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="PATH", help="Write the figures of each second as CSV.")]
Hgrm = Annotated[
    Path | None,
    typer.Option(
        "--hgrm", metavar="PATH", help="Write latency percentiles in HdrHistogram's format, one file for each agent."
    ),
]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="PATH", help="Write JUnit XML for CI systems.")]
Markdown = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="PATH", help="Write GitHub's markdown; $GITHUB_STEP_SUMMARY always gets it."),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="PATH", help="Write a page with charts that works offline; needs the extra html."),
]
Name = Annotated[
    str,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Name the record.",
        callback=lambda text: text.encode("utf-8", "replace").decode(),  # a record is UTF-8, the shell may not be
    ),
]
NoSave = Annotated[bool, typer.Option("--no-save", help="Save no record in results/.")]
