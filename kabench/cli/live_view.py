"""The live view of one agent's load, in place on the terminal. It shows what the load engine reports, and no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kabench.cli.console import progress_console
from kabench.cli.plain_progress import SHORTEST_SHOWN_S, milliseconds, told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from kabench.load import AgentProgress

_SECONDS_SHOWN = 40
_BAR_CELLS = 30
_LEVELS = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS = "_.-:=+*#"
_REFRESH_PER_SECOND = 4


class LiveView:
    """Shows `AgentProgress` while its context lasts, then clears itself. The report comes after it."""

    def __init__(self, agents: int, console: Console | None = None) -> None:
        self._agents = agents
        self._at: AgentProgress | None = None
        self._history: deque[_Seen] = deque(maxlen=_SECONDS_SHOWN)
        self._live = Live(
            console=console or progress_console(),
            transient=True,
            refresh_per_second=_REFRESH_PER_SECOND,
            get_renderable=self._render,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, at: AgentProgress) -> None:
        """Take an agent's progress. It is drawn a few times a second."""
        if self._at is not None and at.number != self._at.number:
            self._history.clear()
        self._at = at
        second = at.second
        last = self._history[-1] if self._history else None
        if second is not None and (last is None or second.t_s > last.t_s + SHORTEST_SHOWN_S):
            length_s = second.t_s - (last.t_s if last is not None else 0.0)
            self._history.append(
                _Seen(
                    t_s=second.t_s,
                    rate=second.transactions / length_s,
                    p50_s=second.p50_s,
                    p99_s=second.p99_s,
                    active=second.active,
                    free=second.free,
                    pending=second.pending,
                    failed=second.failed_transactions or 0,
                )
            )

    def _render(self) -> RenderableType:
        at = self._at
        return Text("starting ...", style="dim") if at is None else progress_view(at, list(self._history), self._agents)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The figures of one second, as shown."""

    t_s: float
    rate: float
    p50_s: float | None
    p99_s: float | None
    active: int | None
    free: int | None
    pending: int | None
    failed: int


def progress_view(at: AgentProgress, history: Sequence[_Seen], agents: int) -> RenderableType:
    """Return the view of a run at one moment."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading, width in (("", 10), ("last second", 11), ("overall", 11)):
        table.add_column(heading, justify="left" if not heading else "right", min_width=width)
    table.add_column(f"last {_SECONDS_SHOWN} s", style="cyan", no_wrap=True)
    last = history[-1] if history else None
    overall_rate = at.transactions / at.elapsed_s if at.elapsed_s > 0 else None

    def row(name: str, now: str, overall: str, value: Callable[[_Seen], float | None], style: str = "") -> None:
        table.add_row(
            name, now if last is not None else "-", overall, Sparkline([value(seen) for seen in history]), style=style
        )

    row("rate /s", f"{last.rate:.0f}" if last else "", _rounded(overall_rate), lambda seen: seen.rate)
    row("p50 ms", milliseconds(last.p50_s if last else None), milliseconds(at.p50_s), lambda seen: seen.p50_s)
    row("p99 ms", milliseconds(last.p99_s if last else None), milliseconds(at.p99_s), lambda seen: seen.p99_s)
    sockets = at.sockets
    failed_style = "red" if at.failed_transactions else ""
    row("failed", str(last.failed) if last else "", str(at.failed_transactions), lambda seen: seen.failed, failed_style)
    row("active", told(sockets.active), f"{told(sockets.created)} created", lambda seen: seen.active)
    row("free", told(sockets.free), "", lambda seen: seen.free)
    row("pending", told(sockets.pending), "", lambda seen: seen.pending)
    if at.not_started:
        table.add_row("not started", "", str(at.not_started), "", style="red")
    lost = [Text(f"{loss}; the others go on", style="red") for loss in at.lost]
    return Group(_heading(at, agents), table, *lost)


def _heading(at: AgentProgress, agents: int) -> RenderableType:
    line = Table.grid(padding=(0, 2, 0, 0))
    which = f" ({at.number + 1} of {agents})" if agents > 1 else ""
    share = _share_done(at)
    bar: RenderableType = Text("") if share is None else ProgressBar(total=1.0, completed=share, width=_BAR_CELLS)
    line.add_row(Text(f"{at.agent}{which}", style="bold"), bar, Text(_time_left(at, share)))
    return line


def _share_done(at: AgentProgress) -> float | None:
    if at.elapsed_s < 0:
        return None
    if at.expected_transactions:
        return min(1.0, (at.transactions + at.socket_errors + at.not_started) / at.expected_transactions)
    return min(1.0, at.elapsed_s / at.duration_s) if at.duration_s else None


def _time_left(at: AgentProgress, share: float | None) -> str:
    if at.elapsed_s < 0:
        return f"warm-up, {-at.elapsed_s:.0f} s left"
    if not share:
        return f"{at.elapsed_s:.0f} s"
    return f"{100 * share:.0f} %, {at.elapsed_s * (1 - share) / share:.0f} s left"


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


class Sparkline:
    """Values drawn as a line of blocks, or of plain characters if the terminal has no blocks."""

    def __init__(self, values: Sequence[float | None]) -> None:
        self._values = values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        levels = _PLAIN_LEVELS if options.ascii_only else _LEVELS
        yield Text(sparkline(self._values, levels))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(len(self._values), len(self._values))


def sparkline(values: Sequence[float | None], levels: str = _LEVELS) -> str:
    """Return one character of `levels` for each value, the last one for the largest; a blank if there is no value."""
    highest = max((value for value in values if value is not None), default=0.0)
    top = len(levels) - 1
    return "".join(
        " " if value is None else levels[round(top * value / highest) if highest > 0 else 0] for value in values
    )
