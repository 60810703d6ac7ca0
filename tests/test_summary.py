"""What a notebook or a prompt shows of a result."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from kabench.histogram import TimesOfAll
from tests.test_result import a_result, a_run


def test_a_result_is_one_short_line() -> None:
    times = TimesOfAll(answered_pct=100.0, p99=0.0112549)
    cut_off = TimesOfAll(answered_pct=90.0, at_least_s={"p99": 2.0})
    result = a_result(
        a_run(transaction_rate=9212.41, response_time_all_s=times, failed_transactions=3),
        a_run(agent="plain", transaction_rate=0.0, response_time_all_s=TimesOfAll(), failed_transactions=0),
        a_run(agent="slow", transaction_rate=5.0, response_time_all_s=cut_off, failed_transactions=4, not_started=1),
        name="two\nlines",
    )
    assert repr(result) == (
        "<RunResult 'two\\nlines': keepalive 9212/s, p99 11.25 ms, 3 failed; plain 0/s, p99 -, 0 failed; "
        "slow 5/s, p99 > 2000 ms, 5 failed>"
    )


def test_an_agent_s_name_does_not_reach_the_terminal_as_a_command() -> None:
    assert "\x1b" not in repr(a_result(a_run(agent="\x1b[2J")))


def test_a_notebook_shows_a_table_in_which_nothing_is_html_of_its_own() -> None:
    evil = "<script>alert('&')</script>"
    result = a_result(a_run(agent=evil, transaction_rate=5.0), name=evil, started_at=evil)
    shown = result._repr_html_()
    assert "<script" not in shown
    table = ET.fromstring(shown)
    assert table.findtext("caption") == f"{evil}, {evil}"
    assert [cell.text for cell in table.iter("th")] == ["agent", "transactions", "p99", "failed"]
    assert [cell.text for cell in table.iter("td")][:2] == [evil, "5/s"]
