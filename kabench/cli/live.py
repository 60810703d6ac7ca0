"""A run while it lasts: what is shown of it, and Ctrl-C once to stop and report, twice to leave at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.cli.console import is_live_terminal
from kabench.cli.errors import CommandError
from kabench.cli.plain_progress import PlainProgress
from kabench.load import (
    AgentProgress,
    LoadPlan,
    MeasurementError,
    PlanError,
    RunControl,
    TargetUnreachableError,
    run,
)
from kabench.load.workers.local import LocalWorkers
from kabench.server import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from kabench.load.figures.messages import Task
    from kabench.load.workers.workers import Workers
    from kabench.result import RunResult

_CURSOR_ON_AND_A_NEW_LINE = b"\x1b[?25h\n"


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is over; `problem` is what went wrong, if anything did."""

    result: RunResult
    problem: str | None
    interrupted: bool


def run_live(
    plan: LoadPlan,
    agents: Sequence[str],
    name: str,
    progress: str,
    control: RunControl,
    workers_for: Callable[[Sequence[Task]], Workers] = LocalWorkers,
) -> Finished:
    """Carry a plan out. `progress` is as `shown_as` has it. Raises `CommandError` where nothing can be measured."""
    with could_not_begin(plan), _shown(progress, len(agents)) as show:
        try:
            result = run(plan, agents, name=name, on_progress=show, control=control, workers_for=workers_for)
        except MeasurementError as error:
            return Finished(error.result, str(error), control.stopped)
        return Finished(result, None, control.stopped)


@contextlib.contextmanager
def stoppable() -> Iterator[RunControl]:
    """What Ctrl-C and SIGTERM stop while the context lasts: the load, and not what is done with what it measured."""
    control = RunControl()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _stopper(control)) for number in signals}
    try:
        yield control
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def could_not_begin(plan: LoadPlan) -> Iterator[None]:
    """Say what the load engine could not even begin with as a command does."""
    try:
        yield
    except (ServerError, PlanError) as error:
        raise CommandError(str(error)) from None
    except TargetUnreachableError as error:
        is_unknown = plan.cacert is None and "the certificate was not accepted" in str(error)
        advice = "; name its authority with --cacert FILE" if is_unknown else ""
        raise CommandError(f"cannot reach the target: {error}{advice}", CommandError.COULD_NOT_MEASURE) from None


def shown_as(progress: str) -> str:
    """`live`, `plain` or `none`; of `auto`, live on a terminal and plain elsewhere. Raises `CommandError`."""
    if progress not in ("auto", "live", "plain", "none"):
        raise CommandError(f"--progress {progress}: there are auto, live, plain and none")
    if progress == "auto":
        return "live" if is_live_terminal() else "plain"
    return progress


@contextlib.contextmanager
def _shown(progress: str, agents: int) -> Iterator[Callable[[AgentProgress], None] | None]:
    """What shows the progress while the context lasts; None shows nothing."""
    if progress == "none":
        yield None
    elif progress == "plain":
        yield PlainProgress(sys.stderr).show
    else:
        from kabench.cli.live_view import LiveView

        with LiveView(agents) as view:
            yield view.show


def _stopper(control: RunControl) -> Callable[[int, FrameType | None], None]:
    def stop(_: int, __: FrameType | None) -> None:
        if control.stopped:
            if is_live_terminal():
                os.write(sys.stderr.fileno(), _CURSOR_ON_AND_A_NEW_LINE)
            os._exit(CommandError.INTERRUPTED)  # workers and server end with their standard input
        control.stop()

    return stop
