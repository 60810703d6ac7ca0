"""From what was found out to settings, reasons, words and JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from rich.console import Console

from kabench.agent import AgentOptions
from kabench.agent.hints import KeepAliveHint
from kabench.probe import Findings, advice_for
from kabench.probe.findings import CountFinding, RaceFinding, TlsFinding
from kabench.probe.idle import End, IdleFinding
from kabench.probe.record import to_json
from kabench.report.probe import code_of, render_probe, rows_of

FOUND = Findings(
    url="http://user:secret@127.0.0.1:8080/",
    method="GET",
    status=200,
    http_version="1.1",
    server="server/1.0",
    keeps_alive=True,
    response_time_s=0.001,
    hint=None,
    idle=IdleFinding(3.0, 3.02, 3.01, End.FIN, 3),
    count=CountFinding(150, closed=False),
    race=RaceFinding(6, 4),
    tls=None,
    requests=190,
    elapsed_s=6.1,
)


def found(**changes: Any) -> Findings:
    return dataclasses.replace(FOUND, **changes)


def text_of(findings: Findings) -> str:
    console = Console(width=80, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(render_probe(findings, "http://127.0.0.1:8080/"))
    return captured.get()


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {"free_socket_timeout": 2.0}),
        ({"idle": IdleFinding(0.4, 0.41, 0.4, End.FIN, 3)}, {"free_socket_timeout": 0.2}),
        ({"idle": IdleFinding(75.0, 75.1, 75.0, End.FIN, 3)}, {"free_socket_timeout": 74.0}),
        ({"idle": IdleFinding(1.9, 2.1, 2.0, End.SILENCE, 2)}, {"free_socket_timeout": 0.95}),
        ({"idle": IdleFinding(89.6, None, None, None, 9)}, {"free_socket_timeout": 88.0}),
        ({"idle": IdleFinding(0.0, None, None, None, 0)}, {}),
        ({"idle": None}, {}),
        ({"keeps_alive": False, "idle": None}, {"keep_alive": False}),
        (
            {"count": CountFinding(100, closed=True, announced=False)},
            {"free_socket_timeout": 2.0, "max_requests_per_socket": 100},
        ),
        ({"count": CountFinding(100, closed=True, announced=True)}, {"free_socket_timeout": 2.0}),
    ],
)
def test_the_settings_that_fit(changes: dict[str, Any], options: dict[str, Any]) -> None:
    advice = advice_for(found(**changes))
    assert advice.options == options
    AgentOptions(**options)
    exec(compile(code_of(found(**changes)), "pasted", "exec"), {})
    assert advice.reasons or not options


@pytest.mark.parametrize(
    ("hint", "idle", "is_true"),
    [
        (None, FOUND.idle, None),
        (KeepAliveHint(3.0), FOUND.idle, True),
        (KeepAliveHint(5.0), FOUND.idle, False),
        (KeepAliveHint(1.0), FOUND.idle, False),
        (KeepAliveHint(None, 5), FOUND.idle, None),
        (KeepAliveHint(5.0), None, None),
        (KeepAliveHint(60.0), IdleFinding(30.0, None, None, None, 5), None),
        (KeepAliveHint(20.0), IdleFinding(30.0, None, None, None, 5), False),
        (KeepAliveHint(60.0), IdleFinding(57.9, 58.1, 58.0, End.FIN, 3), True),
    ],
)
def test_whether_the_hint_is_true(hint: KeepAliveHint | None, idle: IdleFinding | None, is_true: bool | None) -> None:
    assert found(hint=hint, idle=idle).hint_is_true is is_true


def test_a_hint_that_promises_too_much_is_called_dangerous_and_a_modest_one_is_not() -> None:
    bold = advice_for(found(hint=KeepAliveHint(5.0)))
    assert any("closes earlier, so its word alone would lose requests" in reason for reason in bold.reasons)
    modest = advice_for(found(hint=KeepAliveHint(2.0)))
    assert any("does no harm" in reason for reason in modest.reasons)


@pytest.mark.parametrize(
    ("hint", "count", "is_true"),
    [
        (KeepAliveHint(5.0, 99), CountFinding(100, closed=True), True),
        (KeepAliveHint(5.0, 99), CountFinding(50, closed=True), False),
        (KeepAliveHint(5.0, 99), CountFinding(80, closed=False), None),
        (KeepAliveHint(5.0, 99), CountFinding(150, closed=False), False),
        (KeepAliveHint(5.0), CountFinding(100, closed=True), None),
    ],
)
def test_whether_the_hint_s_number_is_true(hint: KeepAliveHint, count: CountFinding, is_true: bool | None) -> None:
    assert found(hint=hint, count=count).max_hint_is_true is is_true


def test_what_is_printed_says_all_of_it_in_80_columns() -> None:
    text = text_of(found(hint=KeepAliveHint(5.0, 99), count=CountFinding(100, closed=True, announced=True)))
    assert "3.01 s (3 sockets: 3.00 s to 3.02 s)" in text
    assert "FIN: it closes" in text
    assert "timeout=5: not true, max=99: true" in text
    assert "100, then the server closes it; it says so" in text
    assert "2 of 6 requests lost" in text
    assert "AgentOptions(free_socket_timeout=2.0)" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"idle": IdleFinding(89.6, None, None, None, 9)}, "longer than 90 s"),
        ({"idle": IdleFinding(30.0, 45.0, 36.7, End.SILENCE, 1)}, "between 30.0 s and 45.0 s; a longer --max-time"),
        ({"count": CountFinding(150, closed=False)}, "150 at least"),
        ({"count": None, "race": None}, "not found out"),
        ({"idle": IdleFinding(1.9, 2.1, 2.0, End.SILENCE, 2)}, "silence: it forgets them, and never answers"),
        ({"idle": IdleFinding(1.9, 2.1, 2.0, End.SILENCE, 2, is_reset_later=True)}, "answers the next bytes with RST"),
        ({"keeps_alive": False, "idle": None}, "none: the server keeps no sockets"),
        ({"tls": TlsFinding("TLSv1.3", resumed=False), "url": "https://h/"}, "TLSv1.3, not resumed"),
        ({"interrupted": True}, "interrupted"),
        ({"server": "\x1b[31mred\r\n"}, "?[31mred"),
    ],
)
def test_what_was_not_reached_is_said_as_such(changes: dict[str, Any], said: str) -> None:
    assert said in " ".join(text_of(found(**changes)).split())
    assert "\x1b" not in text_of(found(**changes))


def test_the_record_is_json_without_secrets() -> None:
    record = json.loads(to_json(found(hint=KeepAliveHint(5.0))))
    assert record["schema"] == "kabench/probe/1"
    assert record["url"] == "http://[redacted]@127.0.0.1:8080/"
    assert "secret" not in str(record)
    assert record["idle"]["end"] == "FIN"
    assert record["options"] == {"free_socket_timeout": 2.0}
    assert record["hint_is_true"] is False
    assert len(rows_of(FOUND)) == 6
