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
    from typing import TextIO

    from kabench.load.figures.messages import Task
    from kabench.load.workers.workers import Workers
    from kabench.result import RunResult

SHORTEST_SHOWN_S = 0.5
"""What is left of a run after its last whole second is not shown as one."""

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


class PlainProgress:
    """A line a second, for logs."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._said: tuple[int, float] | None = None
        self._lost = 0

    def show(self, at: AgentProgress) -> None:
        """Say the last second, once, and who was lost."""
        for loss in at.lost[self._lost :]:
            self._say(f"{at.agent} {max(0.0, at.elapsed_s):.0f} s: {loss}; the others go on")
        self._lost = len(at.lost)
        second = at.second
        if second is None:
            return
        before_s = self._said[1] if self._said is not None and self._said[0] == at.number else 0.0
        if second.t_s - before_s < SHORTEST_SHOWN_S:
            return
        self._said = (at.number, second.t_s)
        parts = [
            f"{second.transactions / (second.t_s - before_s):.0f}/s",
            f"p50 {milliseconds(second.p50_s)} ms",
            f"p99 {milliseconds(second.p99_s)} ms",
            f"{second.active} active",
            f"{second.free} free",
            f"{second.pending} pending",
            f"{at.socket_errors} errors",
        ]
        if at.not_started:
            parts.append(f"{at.not_started} not started")
        self._say(f"{at.agent} {second.t_s:.0f} s: {', '.join(parts)}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more, and the record is what counts
            self._out.write(f"{line}\n")
            self._out.flush()


def milliseconds(seconds: float | None) -> str:
    """A time as it is shown."""
    return "-" if seconds is None else f"{seconds * 1000:.2f}"
