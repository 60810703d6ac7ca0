"""Measures large loads: two workers against two nginx workers, ten million requests, ten thousand sockets.

Two workers against two of nginx need four cores. With fewer, the ratio shows the cores' limit, and the table says so.
"""

from __future__ import annotations

import argparse
import os
import statistics

from peers import nginx
from rich.console import Console
from rich.table import Table

from kabench import LoadPlan, run
from kabench.agent import AgentOptions
from kabench.system.limits import allow_open_sockets

CORES_OF_A_PAIR = 2


def rate_of(workers: int, seconds: float) -> float:
    """Return the requests/s of `workers` workers against as many of nginx."""
    with nginx(workers=workers) as url:
        plan = LoadPlan(
            url=url,
            method="GET",
            data=b"",
            duration_s=seconds,
            workers=workers,
            concurrency=60 * workers,
            agent_options=AgentOptions(max_sockets=50 * workers, free_socket_timeout=30),
        )
        return run(plan, ["keepalive"]).runs[0].transaction_rate


def workers_row(rounds: int, seconds: float) -> tuple[str, str, str]:
    pairs = [(rate_of(1, seconds), rate_of(2, seconds)) for _ in range(rounds)]
    one, two = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(second / first for first, second in pairs)
    cores = os.cpu_count() or 1
    enough = "" if cores >= 2 * CORES_OF_A_PAIR else f"; this machine has {cores}"
    return (
        "two workers against two of nginx, one against one",
        f"{two:.0f}/s, {one:.0f}/s: {ratio:.2f}",
        f"at least 1.6, with 4 cores{enough}",
    )


def many_requests_row() -> tuple[str, str, str]:
    few, many = (run(LoadPlan(total=total, delay_s=0.0), ["keepalive"]).runs[0] for total in (1_000_000, 10_000_000))
    return (
        "memory, 1 million requests and 10 million",
        f"{few.client.max_rss_mb:.1f} MB, {many.client.max_rss_mb:.1f} MB ({many.elapsed_s:.0f} s)",
        "constant",
    )


def many_sockets_row() -> tuple[str, str, str]:
    sockets = 10_000
    options = AgentOptions(max_sockets=sockets, max_free_sockets=sockets, free_socket_timeout=30)
    plan = LoadPlan(concurrency=sockets, duration_s=15.0, delay_s=1.0, agent_options=options)
    seen = run(plan, ["keepalive"]).runs[0]
    return (
        f"{sockets} sockets, an answer after 1 s, 15 s",
        f"{seen.sockets.created} created, {seen.transactions} answers, {seen.availability_pct:.2f} %",
        "100 %",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    allow_open_sockets()
    table = Table(title="large loads", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("what", "measured", "required"):
        table.add_column(column)
    table.add_row(*workers_row(given.rounds, given.seconds))
    table.add_row(*many_sockets_row())
    table.add_row(*many_requests_row())
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
