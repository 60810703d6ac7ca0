"""The options that name files to write, as several commands have them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[str | None, typer.Option("--json", metavar="PATH", help="Write the record there too; - is stdout.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="PATH", help="Write the series, second by second.")]
Hgrm = Annotated[
    Path | None,
    typer.Option(
        "--hgrm", metavar="PATH", help="Write the latency percentiles as HdrHistogram has them, a file an agent."
    ),
]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="PATH", help="Write JUnit XML, for CI systems.")]
Markdown = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="PATH", help="Write GitHub's markdown; $GITHUB_STEP_SUMMARY gets it as well."),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="PATH", help="Write a page with charts that works offline (kabench[html])."),
]
Name = Annotated[
    str,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What to call it in its record.",
        callback=lambda text: text.encode("utf-8", "replace").decode(),  # a record is UTF-8, whatever the shell's is
    ),
]
NoSave = Annotated[bool, typer.Option("--no-save", help="Write no record into results/.")]
