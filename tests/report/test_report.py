from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from kabench.cli.published import published_result
from kabench.histogram import Distribution, LatencyStats
from kabench.report import render_result
from kabench.report.buckets import fitted_buckets, named_buckets
from kabench.report.siege import siege_lines, socket_line
from kabench.result import AgentRun, Client, Phases, Sockets
from tests.test_result import a_result, a_run

if TYPE_CHECKING:
    from kabench.result import RunResult


def printed(result: RunResult, *, colour: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=colour, color_system="standard" if colour else None).print(
        render_result(result, published_result())
    )
    return out.getvalue()


def full_run(agent: str, scale: int = 1) -> AgentRun:
    times = Distribution()
    times.add((value * scale, 1) for value in range(5_000, 20_000, 7))
    stats = times.stats()
    return a_run(
        agent=agent,
        transactions=times.count,
        transaction_rate=1234567.891 / scale,
        response_time_s=stats,
        phases=Phases(queue=stats, connect=LatencyStats(), first_byte=stats, total=stats),
        buckets=times.buckets(),
        hdr={"total": times.encoded()},
        sockets=Sockets(created=50, requests=60000, req_per_socket=1200.0, free=50, pending=0, active=0, timeouts=0),
        errors={"local_ports_exhausted": 3, "socket_timeout": 1},
        status_codes={"200": 5, "503": 2},
        client=Client(cpu_s=1.5, cpu_us_per_transaction=12.25, max_rss_mb=30.0),
        saturated=True,
        retries=4,
    )


def test_siege_s_twelve_lines() -> None:
    assert siege_lines(a_run()) == [
        "Transactions:                      100 hits",
        "Availability:                    99.01 %",
        "Elapsed time:                     2.00 secs",
        "Data transferred:                 1.00 MB",
        "Response time:                  0.0250 secs",
        "Transaction rate:                50.00 trans/sec",
        "Throughput:                       0.50 MB/sec",
        "Concurrency:                      1.25",
        "Successful transactions:            98",
        "Failed transactions:                 3",
        "Longest transaction:            0.1000 secs",
        "Shortest transaction:           0.0010 secs",
    ]


def test_the_socket_line_of_the_published_benchmark() -> None:
    run = a_run(
        transactions=60000,
        sockets=Sockets(created=50, requests=60000, req_per_socket=1200.0, free=50, pending=0, active=0, timeouts=0),
    )
    assert socket_line(run) == (
        "[kabench:60000] keepalive, 50 created, 60000 requestFinished, 1200.00 req/socket, "
        "0 requests, 0 sockets, 50 unusedSockets, 0 timeout"
    )


def test_the_report_has_its_parts_in_order() -> None:
    text = printed(a_result(full_run("keepalive"), full_run("plain", 2)))
    parts = [
        "plain/keepalive",
        "Answers by status",
        "What binds: ",
        "Transactions:",
        "Shortest transaction:",
        "Times (ms)",
        "buckets of the published benchmark",
        "buckets that fit",
        "Phases (ms)",
        "[kabench:",
        "Errors",
        "\nplain ---",
        "failed ",
    ]
    places = [text.rindex(part) if part == "failed " else text.index(part) for part in parts]
    assert places == sorted(places)
    assert "local ports exhausted" in text
    assert "ip_local_port_range" in text
    assert "status 503" in text
    assert "4 requests were sent again, so the server may have got them twice" in " ".join(text.split())


def test_the_report_fits_80_columns_and_needs_no_colour() -> None:
    result = a_result(full_run("keepalive"), full_run("plain", 2), full_run("plain-handoff", 3), name="n" * 100)
    plain = printed(result)
    assert max(len(line) for line in plain.splitlines()) <= 80
    assert "\x1b" not in plain
    coloured = printed(result, colour=True)
    assert "\x1b[" in coloured


def test_two_agents_are_compared_with_ratios() -> None:
    text = printed(a_result(full_run("keepalive"), full_run("plain", 2)))
    (rate,) = [line for line in text.splitlines() if line.startswith("Transaction rate (")]
    assert rate.split()[-3:] == ["1234567.89", "617283.95", "0.50"]


def test_many_agents_have_a_line_each() -> None:
    names = ("keepalive", "plain", "plain-handoff", "urllib3", "requests")
    text = printed(a_result(*(full_run(name, number) for number, name in enumerate(names, 1))))
    table = text.partition("keepalive against plain, ")[2].splitlines()
    assert max(map(len, table)) <= 80
    rows = [line.split() for line in table if line.startswith(names) and len(line.split()) == 10]
    assert [row[0] for row in rows] == [*names, *names[1:]]
    assert [row[2] for row in rows[:2]] == ["1234568", "617284"]
    assert rows[len(names)][2] == "0.50"


def test_a_run_of_the_published_load_is_shown_beside_the_published_one() -> None:
    load = {"url": None, "concurrency": 60, "requests": 1000, "delay_s": 0.005, "agent_options": {"max_sockets": 50}}
    text = printed(a_result(plan=load))
    assert "2020.20 trans/sec" in text
    assert "siege drove a proxy" in text
    assert "2020.20" not in printed(a_result(plan=load | {"concurrency": 61}))
    assert "2020.20" not in printed(a_result(plan=load | {"url": "http://h/"}))


def test_an_interrupted_run_says_so_and_an_empty_one_prints() -> None:
    empty = a_run(interrupted=True, transactions=0, response_time_s=LatencyStats(), buckets=Distribution().buckets())
    assert "interrupted" in printed(a_result(empty))


def test_markup_in_names_is_text() -> None:
    assert "[red]boo[/red]" in printed(a_result(a_run(agent="[red]boo[/red]"), name="[bold]x"))


@pytest.mark.parametrize(
    "values",
    [
        [5],
        [0],
        list(range(5_000, 6_000)),
        [100] * 1000 + [5_000_000],
        [1, 10**9],
        list(range(1, 100_000, 37)),
        [7, 7, 8],
    ],
)
def test_fitted_buckets_hold_everything_in_a_dozen_rows(values: list[int]) -> None:
    cells = sorted(Counter(values).items())
    rows = fitted_buckets(cells)
    assert 1 <= len(rows) <= 13
    assert sum(row.count for row in rows) == len(values)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert len({row.label for row in rows}) == len(rows)


def test_no_values_make_no_buckets() -> None:
    assert fitted_buckets([]) == []
    assert [row.share for row in named_buckets({"<10ms": 0})] == [0.0]
