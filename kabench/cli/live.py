"""Runs a plan, and shows its progress. A signal to stop ends the load, and what was measured is reported."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.cli.console import is_live_terminal, leave
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
from kabench.system.signals import stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kabench.load.figures.messages import Task
    from kabench.load.workers.workers import Workers
    from kabench.result import RunResult


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run. `problem` says what went wrong, if anything did."""

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
    """Carry out a plan. `progress` is a result of `shown_as`. Raises `CommandError` if nothing can be measured."""
    with could_not_begin(plan), _shown(progress, len(agents)) as show:
        try:
            result = run(plan, agents, name=name, on_progress=show, control=control, workers_for=workers_for)
        except MeasurementError as error:
            return Finished(error.result, str(error), control.stopped)
        return Finished(result, None, control.stopped)


@contextlib.contextmanager
def stoppable() -> Iterator[RunControl]:
    """Yield a control that signals stop. They end the load, but not the report of what it measured."""
    control = RunControl()
    with stopping(control.stop, leave):
        yield control


@contextlib.contextmanager
def could_not_begin(plan: LoadPlan) -> Iterator[None]:
    """Turn errors of a load that could not begin into a `CommandError`."""
    try:
        yield
    except (ServerError, PlanError) as error:
        raise CommandError(str(error)) from None
    except TargetUnreachableError as error:
        is_unknown = plan.cacert is None and "the certificate was not accepted" in str(error)
        advice = "; name its authority with --cacert FILE" if is_unknown else ""
        raise CommandError(f"cannot reach the target: {error}{advice}", CommandError.COULD_NOT_MEASURE) from None


def shown_as(progress: str) -> str:
    """Return `live`, `plain` or `none`; for `auto`, live on a terminal and plain elsewhere. Raises `CommandError`."""
    if progress not in ("auto", "live", "plain", "none"):
        raise CommandError(f"--progress {progress}: there are auto, live, plain and none")
    if progress == "auto":
        return "live" if is_live_terminal() else "plain"
    return progress


@contextlib.contextmanager
def _shown(progress: str, agents: int) -> Iterator[Callable[[AgentProgress], None] | None]:
    """Yield the function that shows progress; None shows nothing."""
    if progress == "none":
        yield None
    elif progress == "plain":
        yield PlainProgress(sys.stderr).show
    else:
        from kabench.cli.live_view import LiveView

        with LiveView(agents) as view:
            yield view.show
