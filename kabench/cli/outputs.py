"""Writes a command's files and prints its report. Files are checked before the load starts, so no result is lost.

The record is saved first, then the files made from it are written, then the report is printed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kabench.cli.console import report_console
from kabench.cli.errors import CommandError
from kabench.cli.extras import needs_extra
from kabench.result import ResultError, as_file_name, check_writable, record_file_name, save_result, write_whole
from kabench.system.streams import STANDARD_OUTPUT, was_closed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kabench.cli.reports import Paths, Report
    from kabench.comparison.record import Comparison
    from kabench.result import RunResult

_FOR_HTML = ("plotly", "jinja2")


class Outputs:
    """The places where a record and the files made from it go. Raises `CommandError` if one cannot be written."""

    def __init__(
        self,
        paths: Paths,
        *,
        json: str | None = None,
        saves: bool = False,
    ) -> None:
        self._to_stdout = json == "-"
        self._json = None if json is None or self._to_stdout else Path(json)
        self._folder = Path("results") if saves else None
        if self._to_stdout:
            check_standard_output("--json")
        check_paths(paths, self._json)
        if self._folder is not None:
            try:
                check_writable(self._folder)
            except ResultError as error:
                raise CommandError(f"{error}; with --no-save, no record is saved there") from None

    def write(
        self,
        record: RunResult | Comparison,
        make_report: Callable[[], Report],
    ) -> str | None:
        """Save the record, then write and print what is made from it. Return what failed and why, or None."""
        problems = []
        written = []
        for path in self._records(record):
            try:
                save_result(record, path)
                written.append(path)
            except ResultError as error:
                problems.append(str(error))
        report = make_report()
        problems += write_texts(report)
        try:
            console = report_console(stderr=self._to_stdout)
            console.print(report.shown)
            console.print()
            for path in written:
                console.print(f"Record: {path}", style="dim", soft_wrap=True, markup=False)
            if self._to_stdout:
                typer.echo(record.to_json(), nl=False)
        except OSError as error:
            problems.append(f"the report cannot be printed: {error.strerror}")
        return "; ".join(problems) or None

    def _records(self, record: RunResult | Comparison) -> list[Path]:
        paths = [] if self._json is None else [self._json]
        if self._folder is not None:
            paths.append(self._folder / record_file_name(record))
        return paths


def check_paths(paths: Paths, json: Path | None = None) -> None:
    """Raise `CommandError` if a file cannot be written, or two are the same."""
    taken: dict[Path, str] = {}
    for option, path in [*([] if json is None else [("--json", json)]), *paths.by_option()]:
        check_file(option, path)
        if path.resolve() in taken:
            raise CommandError(f"{taken[path.resolve()]} and {option}: both would write {path}")
        taken[path.resolve()] = option
    if paths.html is not None:
        needs_extra("--html", "html", _FOR_HTML)


def write_texts(report: Report) -> list[str]:
    """Write the files of a report, and GitHub's job summary. Return what could not be written and why."""
    problems = []
    for path, text in report.texts:
        try:
            write_whole(path, text().encode())
        except ResultError as error:
            problems.append(str(error))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(report.markdown() + "\n")
        except OSError as error:
            problems.append(f"$GITHUB_STEP_SUMMARY: {summary}: {error.strerror}")
    return problems


def hgrm_paths(path: Path | None, agents: Sequence[str]) -> list[Path]:
    """Return a path for each agent: `path` itself if there is one agent, else with the agent's name in it."""
    if path is None:
        return []
    _check_is_file("--hgrm", path)
    if len(agents) == 1:
        return [path]
    names = [as_file_name(agent) for agent in agents]
    numbered = [
        f"{name}-{names[: index + 1].count(name)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]
    return [path.with_name(f"{path.stem}-{name}{path.suffix}") for name in numbered]


def check_file(option: str, path: Path) -> None:
    """Raise `CommandError` if a file cannot be written."""
    if str(path) == "-":
        raise CommandError(f"{option} -: only the record can go to standard output; name a file")
    _check_is_file(option, path)
    if not path.parent.is_dir():
        raise CommandError(f"{option} {path}: there is no folder {path.parent}")
    check_folder(option, path.parent)


def check_standard_output(option: str) -> None:
    """Raise `CommandError` if nothing can be written to standard output."""
    if was_closed(STANDARD_OUTPUT):
        raise CommandError(f"{option} -: standard output is closed; name a file")


def _check_is_file(option: str, path: Path) -> None:
    if path.is_dir():
        raise CommandError(f"{option} {path}: this is a folder; name a file")


def check_folder(option: str, folder: Path) -> None:
    """Make a folder. Raise `CommandError` if no file can be written there."""
    try:
        check_writable(folder)
    except ResultError as error:
        raise CommandError(f"{option} {error}") from None
