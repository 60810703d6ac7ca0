"""A run while it lasts: lines for logs, and the view on a terminal, from made-up progress."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from kabench.cli.live_view import LiveView, sparkline
from kabench.cli.plain_progress import PlainProgress
from kabench.load import AgentProgress
from kabench.load.figures.messages import SocketCounts
from kabench.result import SeriesPoint
from tests.cli.test_command_line import kabench

if TYPE_CHECKING:
    from pathlib import Path


def second(t_s: float, transactions: int = 1000, **given: Any) -> SeriesPoint:
    fields: dict[str, Any] = {"p50_s": 0.0051, "p99_s": 0.0123, "active": 5, "free": 45, "pending": 2}
    return SeriesPoint(t_s=t_s, transactions=transactions, **(fields | given))


def progress(**given: Any) -> AgentProgress:
    fields: dict[str, Any] = {
        "agent": "keepalive",
        "number": 0,
        "elapsed_s": 1.0,
        "transactions": 1000,
        "failed_transactions": 0,
        "socket_errors": 0,
        "not_started": 0,
        "expected_transactions": None,
        "duration_s": 10.0,
        "sockets": SocketCounts(created=50, active=5, free=45, pending=2),
        "second": None,
        "p50_s": None,
        "p99_s": None,
    }
    return AgentProgress(**(fields | given))


# -- lines


def lines_of(*news: AgentProgress) -> list[str]:
    out = io.StringIO()
    plain = PlainProgress(out)
    for at in news:
        plain.show(at)
    return out.getvalue().splitlines()


def test_a_line_a_second_and_no_more() -> None:
    news = [progress(elapsed_s=at / 10, second=second(float(at // 10)) if at >= 10 else None) for at in range(35)]
    assert lines_of(*news) == [
        f"keepalive {number} s: 1000/s, p50 5.10 ms, p99 12.30 ms, 5 active, 45 free, 2 pending, 0 failed"
        for number in (1, 2, 3)
    ]


def test_a_line_speaks_of_what_was_not_started_if_anything_was_not() -> None:
    (line,) = lines_of(progress(second=second(1.0), not_started=7, failed_transactions=3))
    assert line.endswith("3 failed, 7 not started")


def test_a_second_without_an_answer_has_no_percentiles() -> None:
    (line,) = lines_of(progress(second=second(1.0, 0, p50_s=None, p99_s=None)))
    assert line.startswith("keepalive 1 s: 0/s, p50 - ms, p99 - ms")


def test_the_next_agent_begins_anew() -> None:
    lines = lines_of(
        progress(second=second(1.0)),
        progress(second=second(2.0)),
        progress(agent="plain", number=1, second=second(1.0, 9)),
    )
    assert [line.split(":")[0] for line in lines] == ["keepalive 1 s", "keepalive 2 s", "plain 1 s"]
    assert "9/s" in lines[2]


def test_a_rate_is_of_a_second_however_long_it_took() -> None:
    lines = lines_of(progress(second=second(1.0, 1000)), progress(second=second(3.0, 1000)))
    assert "500/s" in lines[1]


def test_a_short_rest_that_joins_the_last_second_is_no_line() -> None:
    lines = lines_of(progress(second=second(1.0)), progress(second=second(2.0)), progress(second=second(2.05, 1050)))
    assert len(lines) == 2


def test_a_reader_who_has_gone_does_no_harm() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    PlainProgress(Gone()).show(progress(second=second(1.0)))


# -- as a process


def test_plain_progress_goes_to_standard_error_and_quiet_is_silent(tmp_path: Path) -> None:
    load = ("--agent", "keepalive", "--rate", "200/s", "--no-save", "--delay", "1ms")
    plain = kabench("run", *load, "--duration", "3.2s", "--progress", "plain", cwd=tmp_path)
    assert plain.returncode == 0
    lines = plain.stderr.splitlines()
    assert 1 <= len(lines) <= 3  # a line a second; a busy machine may be late with the last
    assert all(re.fullmatch(r"keepalive [123] s: .*/s, p50 .* 0 failed", line) for line in lines)
    assert "keepalive 1 s" not in plain.stdout
    quiet = kabench("run", *load, "--total", "20", "--quiet", cwd=tmp_path)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "Transactions:" in quiet.stdout


# -- the view


class NoBlocks(io.StringIO):
    """A terminal whose encoding has no blocks."""

    encoding = "ascii"


def shown(*news: AgentProgress, agents: int = 1, ascii_only: bool = False) -> str:
    """What the view shows after some news."""
    out = NoBlocks() if ascii_only else io.StringIO()
    console = Console(file=out, width=80, force_terminal=False, color_system=None)
    view = LiveView(agents, console)
    for at in news:
        view.show(at)
    console.print(view._render())
    text = out.getvalue()
    assert max((len(line) for line in text.splitlines()), default=0) <= 80
    return text


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return line.removeprefix(name).split()


def five_seconds(**given: Any) -> list[AgentProgress]:
    return [
        progress(
            elapsed_s=float(number),
            transactions=1000 * number,
            second=second(float(number), 200 * number, failed_transactions=number % 2),
            p50_s=0.005,
            p99_s=0.02,
            **given,
        )
        for number in range(1, 6)
    ]


def test_before_the_first_news_it_says_that_it_starts() -> None:
    assert "starting" in shown()


def test_it_shows_rate_percentiles_sockets_and_errors() -> None:
    text = shown(*five_seconds(failed_transactions=3))
    assert row(text, "rate /s")[:2] == ["1000", "1000"]
    assert row(text, "p50 ms")[:2] == ["5.10", "5.00"]
    assert row(text, "p99 ms")[:2] == ["12.30", "20.00"]
    assert row(text, "active")[:2] == ["5", "50"]
    assert row(text, "free")[0] == "45"
    assert row(text, "pending")[0] == "2"
    assert row(text, "failed")[:2] == ["1", "3"]
    assert "not started" not in text
    assert "keepalive" in text
    assert "50 %, 5 s left" in text


def test_it_shows_the_last_seconds_as_a_line() -> None:
    assert row(shown(*five_seconds()), "rate /s")[2] == "▂▄▅▇█"
    text = shown(*five_seconds(), ascii_only=True)
    assert text.isascii()
    assert row(text, "rate /s")[2] == ".:=*#"


def test_no_more_seconds_are_shown_than_fit() -> None:
    news = [progress(elapsed_s=float(t), second=second(float(t), 5)) for t in range(1, 200)]
    assert row(shown(*news), "rate /s")[2] == "█" * 40


def test_it_says_which_agent_of_how_many_and_begins_anew_with_each() -> None:
    text = shown(*five_seconds(), progress(agent="plain", number=1, elapsed_s=0.5, transactions=5), agents=2)
    assert "plain (2 of 2)" in text
    assert row(text, "rate /s")[:2] == ["-", "10"]


def test_a_warm_up_is_counted_down() -> None:
    assert "warm-up, 3 s left" in shown(progress(elapsed_s=-3.0, transactions=40))


def test_the_share_is_of_requests_where_they_end_it() -> None:
    text = shown(
        progress(elapsed_s=2.0, transactions=240, socket_errors=10, expected_transactions=1000, duration_s=None)
    )
    assert "25 %, 6 s left" in text


def test_what_was_not_started_is_done_with_too() -> None:
    """Of 1000 that were due in all, 500 were not started: the run is over, not half done."""
    text = shown(
        progress(elapsed_s=2.0, transactions=500, not_started=500, expected_transactions=1000, duration_s=None)
    )
    assert row(text, "not started") == ["500"]
    assert "100 %" in text


def test_a_short_rest_that_joins_the_last_second_is_no_second_of_its_own() -> None:
    news = [*five_seconds(), progress(elapsed_s=5.05, transactions=5050, second=second(5.05, 1050))]
    rate, _, line = row(shown(*news), "rate /s")
    assert 900 < int(rate) < 1100
    assert len(line) == 5


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([0, 0], "▁▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([5], "█"),
        ([None, 4, None, 8], " ▅ █"),
        ([None], " "),
        ([0.001, 1000.0], "▁█"),
    ],
)
def test_a_sparkline(values: list[float | None], line: str) -> None:
    assert sparkline(values) == line
