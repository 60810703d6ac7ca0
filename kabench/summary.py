"""A run at a glance, in one line or as a small table of a notebook. The whole report is `kabench report`'s."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class AgentSummary:
    """One agent's part of a run: transactions a second, the p99 of response times in seconds, failed requests.

    `p99_above_s` is what the p99 is above, if it falls among requests without an answer.
    """

    agent: str
    rate: float
    p99_s: float | None
    failed: int
    p99_above_s: float | None = None

    @property
    def p99_text(self) -> str:
        """The p99 with its unit, or `-`."""
        if self.p99_s is None and self.p99_above_s is not None:
            return f"> {self.p99_above_s * 1000:.4g} ms"
        return "-" if self.p99_s is None else f"{self.p99_s * 1000:.4g} ms"


def summary_line(name: str, agents: Sequence[AgentSummary]) -> str:
    """Return a run in one line."""
    parts = [
        f"{_printable(each.agent)} {each.rate:.0f}/s, p99 {each.p99_text}, {each.failed} failed" for each in agents
    ]
    return f"<RunResult {name!r}: {'; '.join(parts)}>"


def _printable(text: str) -> str:
    """Return a text of a record that no terminal takes for a command."""
    return text if text.isprintable() else repr(text)


def summary_html(name: str, started_at: str, agents: Sequence[AgentSummary]) -> str:
    """Return a run as a table in HTML."""
    rows = [(each.agent, f"{each.rate:.0f}/s", each.p99_text, str(each.failed)) for each in agents]
    head = "".join(f"<th>{heading}</th>" for heading in ("agent", "transactions", "p99", "failed"))
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    caption = f"<caption>{escape(name)}, {escape(started_at)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
