"""Where a run's record goes. Looked at before the load starts, so that nothing measured is lost to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kabench.cli.console import report_console
from kabench.cli.errors import CommandError
from kabench.cli.published import published_result
from kabench.report import render_result
from kabench.report.series import percentile_text, series_csv
from kabench.result import ResultError, check_writable, save_result, write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.result import RunResult

_LONGEST_NAME = 80
"""Of a run's name, in the name of its file."""


class Outputs:
    """The files that a run is written into, and the console it is reported on. Raises `CommandError`."""

    def __init__(
        self,
        name: str,
        agents: Sequence[str],
        *,
        json: str | None = None,
        csv: Path | None = None,
        hgrm: Path | None = None,
        saves: bool = False,
    ) -> None:
        self._to_stdout = json == "-"
        self._json = None if json is None or self._to_stdout else Path(json)
        self._csv = csv
        if hgrm is not None:
            _check_file("--hgrm", hgrm)
        self._hgrm = hgrm_paths(hgrm, agents)
        self._folder = Path("results") if saves else None
        self._name = name
        taken: dict[Path, str] = {}
        for option, path in (("--json", self._json), ("--csv", csv), *(("--hgrm", path) for path in self._hgrm)):
            if path is not None:
                _check_file(option, path)
                if path.resolve() in taken:
                    raise CommandError(f"{taken[path.resolve()]} and {option}: both would write {path}")
                taken[path.resolve()] = option
        if self._folder is not None:
            try:
                check_writable(self._folder)
            except ResultError as error:
                raise CommandError(f"{error}; --no-save writes none there") from None

    def write(self, result: RunResult) -> str | None:
        """Write the files, then print the report; what could not be written, and why, if anything."""
        problems = []
        records = [] if self._json is None else [self._json]
        if self._folder is not None:
            records.append(self._folder / _file_name(result))
        written = []
        for path in records:
            try:
                save_result(result, path)
                written.append(path)
            except ResultError as error:
                problems.append(str(error))
        problems += write_texts(result, self._csv, self._hgrm)
        try:
            console = report_console(stderr=self._to_stdout)
            console.print(render_result(result, published_result()))
            for path in written:
                console.print(f"\nRecord: {path}", style="dim", soft_wrap=True)
            if self._to_stdout:
                typer.echo(result.to_json(), nl=False)
        except OSError as error:
            problems.append(f"the report cannot be printed: {error.strerror}")
        return "; ".join(problems) or None


def write_texts(result: RunResult, csv: Path | None, hgrm: Sequence[Path]) -> list[str]:
    """Write a record's series, and each agent's percentiles; what could not be written, and why."""
    texts = [] if csv is None else [(csv, series_csv(result))]
    texts += [(path, percentile_text(run)) for path, run in zip(hgrm, result.runs, strict=False)]
    problems = []
    for path, text in texts:
        try:
            write_whole(path, text.encode())
        except ResultError as error:
            problems.append(str(error))
    return problems


def hgrm_paths(path: Path | None, agents: Sequence[str]) -> list[Path]:
    """A file for each agent: the one that was named where there is one agent, else with the agent's name in it."""
    if path is None:
        return []
    if len(agents) == 1:
        return [path]
    names = [_as_file_name(agent) for agent in agents]
    numbered = [
        f"{name}-{names[: index + 1].count(name)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]
    return [path.with_name(f"{path.stem}-{name}{path.suffix}") for name in numbered]


def _check_file(option: str, path: Path) -> None:
    if str(path) == "-":
        raise CommandError(f"{option} -: only the record can go to standard output; name a file")
    if path.is_dir():
        raise CommandError(f"{option} {path}: that is a folder; name a file")
    if not path.parent.is_dir():
        raise CommandError(f"{option} {path}: there is no folder {path.parent}")
    try:
        check_writable(path.parent)
    except ResultError as error:
        raise CommandError(f"{option} {error}") from None


def _as_file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".")[:_LONGEST_NAME] or "run"


def _file_name(result: RunResult) -> str:
    started = result.started_at.replace("-", "").replace(":", "")
    return f"{started}-{_as_file_name(result.name)}-{result.id[:6]}.json"
