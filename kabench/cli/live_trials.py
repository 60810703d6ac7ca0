"""Runs a comparison, and shows its progress: a bar on a terminal, else a line for each trial."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kabench.cli.console import progress_console
from kabench.cli.errors import CommandError
from kabench.cli.live import could_not_begin
from kabench.cli.plain_progress import milliseconds
from kabench.comparison.trials import ComparisonError, ComparisonStoppedError, TrialProgress, compare
from kabench.result import ResultError, record_file_name, save_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kabench.comparison.record import Comparison
    from kabench.load import AgentProgress, LoadPlan, RunControl
    from kabench.result import RunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOptions:
    """When to stop. The fields are arguments of `kabench.compare`."""

    trials: int | None
    max_time_s: float | None
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedComparison:
    """A finished comparison. `unsaved` says why records of trials could not be saved."""

    comparison: Comparison
    interrupted: bool
    unsaved: list[str] = field(default_factory=list)


def compare_live(
    plan: LoadPlan,
    agents: Sequence[str],
    stop: StopOptions,
    name: str,
    progress: str,
    records: Path | None,
    control: RunControl,
) -> FinishedComparison:
    """Compare agents, and show progress: `live`, `plain` or `none`. The records of trials go into the folder `records`.

    Raises `CommandError` if nothing can be measured.
    """
    unsaved: list[str] = []

    def keep(result: RunResult) -> None:
        if records is not None and not unsaved:
            try:
                save_result(result, records / record_file_name(result))
            except ResultError as error:
                unsaved.append(str(error))

    with could_not_begin(plan), _shown(progress, stop) as show:
        try:
            comparison = compare(
                plan,
                agents,
                trials=stop.trials,
                max_time_s=stop.max_time_s,
                margin=stop.margin,
                name=name,
                on_trial=show.trial,
                on_progress=show.agent,
                keep=keep,
                control=control,
            )
        except ComparisonStoppedError as error:
            comparison = error.comparison
        except ComparisonError as error:
            raise CommandError(str(error), CommandError.INTERRUPTED if control.stopped else 2) from None
    return FinishedComparison(comparison=comparison, interrupted=control.stopped, unsaved=unsaved)


@dataclass(frozen=True, slots=True)
class _Shown:
    """The functions that show a trial, and an agent's progress. None shows nothing."""

    trial: Callable[[TrialProgress], None] | None = None
    agent: Callable[[AgentProgress], None] | None = None


@contextlib.contextmanager
def _shown(progress: str, stop: StopOptions) -> Iterator[_Shown]:
    if progress == "none":
        yield _Shown()
    elif progress == "plain":
        yield _Shown(_say)
    else:
        most = "" if stop.max_time_s is None else f" of at most {stop.max_time_s:g} s"
        with _bar(most) as bar:
            task = bar.add_task("", total=None)

            def on_trial(done: TrialProgress) -> None:
                bar.update(task, total=done.most_trials, completed=done.number)
                bar.console.print(_line(done), style="dim", markup=False)

            def on_agent(at: AgentProgress) -> None:
                rate = "" if at.second is None else f" {at.second.transactions}/s"
                bar.update(task, description=f"{at.agent}{rate}")

            yield _Shown(on_trial, on_agent)


def _bar(most: str) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trials,", markup=False),
        TimeElapsedColumn(),
        TextColumn(f"so far{most}", markup=False),
        console=progress_console(),
        transient=True,
    )


def _line(done: TrialProgress) -> str:
    parts = [
        f"{each.agent} {each.figures['transaction_rate'] or 0:.0f}/s, p99 {milliseconds(each.figures['p99'])} ms"
        for each in done.trial.runs
    ]
    return f"trial {done.number} of {done.most_trials}: {'; '.join(parts)}"


def _say(done: TrialProgress) -> None:
    with contextlib.suppress(OSError):  # the reader has gone, and the record is what counts
        sys.stderr.write(_line(done) + "\n")
        sys.stderr.flush()
