"""The options about output, for all commands that have them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kabench.cli.panels import Panel

_option = partial(typer.Option, rich_help_panel=Panel.OUTPUT)

Json = Annotated[str | None, _option("--json", metavar="PATH", help="Write the record to this file, too; - is stdout.")]
Csv = Annotated[Path | None, _option("--csv", metavar="PATH", help="Write the figures of each second as CSV.")]
Hgrm = Annotated[
    Path | None,
    _option("--hgrm", metavar="PATH", help="Write percentiles in HdrHistogram's format, one file per agent."),
]
Junit = Annotated[Path | None, _option("--junit", metavar="PATH", help="Write JUnit XML for CI systems.")]
Markdown = Annotated[
    Path | None,
    _option("--markdown", metavar="PATH", help="Write GitHub's markdown; $GITHUB_STEP_SUMMARY gets it anyway."),
]
Html = Annotated[
    Path | None,
    _option("--html", metavar="PATH", help="Write a page with charts that works offline; needs the extra html."),
]
Name = Annotated[
    str,
    _option(
        "--name",
        metavar="NAME",
        help="Name the record.",
        callback=lambda text: text.encode("utf-8", "replace").decode(),  # a record is UTF-8, the shell may not be
    ),
]
NoSave = Annotated[bool, _option("--no-save", help="Save no record in results/.")]
Progress = Annotated[
    str, _option("--progress", metavar="auto|live|plain|none", help="Show progress; plain prints one line at a time.")
]
Quiet = Annotated[bool, _option("--quiet", "-q", help="Show no progress, as --progress none does.")]
Siege = Annotated[
    bool, _option("--siege", help="Show siege's lines and the published buckets, as the benchmark does anyway.")
]
