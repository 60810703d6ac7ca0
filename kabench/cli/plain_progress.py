"""The progress of a run in plain lines, one a second, and what it shares with the live view."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from kabench.load import AgentProgress

SHORTEST_SHOWN_S = 0.5
"""The rest of a run after its last whole second is not shown if it is shorter than this."""


class PlainProgress:
    """Prints a line each second, for logs."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._said: tuple[int, float] | None = None
        self._lost = 0

    def show(self, at: AgentProgress) -> None:
        """Print the last second, once, and the workers that were lost."""
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
            f"{told(second.active)} active",
            f"{told(second.free)} free",
            f"{told(second.pending)} pending",
            f"{at.failed_transactions} failed",
        ]
        if at.not_started:
            parts.append(f"{at.not_started} not started")
        self._say(f"{at.agent} {second.t_s:.0f} s: {', '.join(parts)}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the reader has gone, and the record is what counts
            self._out.write(f"{line}\n")
            self._out.flush()


def told(count: int | None) -> str:
    """Return a count as progress shows it."""
    return "-" if count is None else str(count)


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds, as progress shows it."""
    return "-" if seconds is None else f"{seconds * 1000:.2f}"
