"""A run on a terminal: a progress bar, and Ctrl-C once to stop and report, twice to leave at once."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.cli.console import is_live_terminal
from kabench.cli.errors import CommandError
from kabench.load import AgentProgress, LoadPlan, MeasurementError, RunControl, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from rich.progress import Progress, TaskID

    from kabench.result import RunResult

_CURSOR_ON_AND_A_NEW_LINE = b"\x1b[?25h\n"


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is over; `problem` is what went wrong, if anything did."""

    result: RunResult
    problem: str | None
    interrupted: bool


def run_live(plan: LoadPlan, agents: Sequence[str], name: str) -> Finished:
    """Carry a plan out."""
    control = RunControl()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _stopper(control)) for number in signals}
    try:
        if not is_live_terminal():
            return _run(plan, agents, name, control, None)
        with _progress() as progress:
            return _run(plan, agents, name, control, _Bars(progress).show)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(
    plan: LoadPlan,
    agents: Sequence[str],
    name: str,
    control: RunControl,
    on_progress: Callable[[AgentProgress], None] | None,
) -> Finished:
    try:
        result = run(plan, agents, name=name, on_progress=on_progress, control=control)
    except MeasurementError as error:
        return Finished(error.result, str(error), control.stopped)
    return Finished(result, None, control.stopped)


def _stopper(control: RunControl) -> Callable[[int, FrameType | None], None]:
    def stop(_: int, __: FrameType | None) -> None:
        if control.stopped:
            if is_live_terminal():
                os.write(sys.stderr.fileno(), _CURSOR_ON_AND_A_NEW_LINE)
            os._exit(CommandError.INTERRUPTED)  # workers and server end with their standard input
        control.stop()

    return stop


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]:>9}/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[errors]}", style="red"),
        console=Console(stderr=True),
        transient=True,
    )


class _Bars:
    """A bar an agent, moved by `AgentProgress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, at: AgentProgress) -> None:
        """Move the agent's bar."""
        if at.agent not in self._tasks:
            for task in self._progress.tasks:  # the agents before are through
                self._progress.update(task.id, completed=task.total)
            whole = at.expected_transactions or at.duration_s
            self._tasks[at.agent] = self._progress.add_task(at.agent, total=whole, rate="", errors="")
        done = at.transactions + at.socket_errors if at.expected_transactions else at.elapsed_s
        rate = f"{at.transactions / at.elapsed_s:.0f}" if at.elapsed_s else ""
        errors = f"{at.socket_errors} errors" if at.socket_errors else ""
        self._progress.update(self._tasks[at.agent], completed=done, rate=rate, errors=errors)
