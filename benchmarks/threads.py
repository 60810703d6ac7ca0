"""Compares the urllib3 agent with a stock `urllib3.PoolManager(maxsize=50, block=True)`: one thread, and 60.

Both send the same GETs from one process to kabench's echo server with no delay, in turn, round after round; ratios are
within a round. `--tls` uses https.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import urllib3
from against import add_option, against_table
from peers import PINNED, Figures, pin_client, pin_server, timed
from rich.console import Console
from rich.table import Table

from kabench.agent import KeepAliveAgent
from kabench.server import EmbeddedServer, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SOCKETS = 50
THREADS = 60


def one_thread(manager: urllib3.PoolManager, url: str, requests: int) -> float:
    """Return the requests/s of one thread."""
    manager.request("GET", url)
    begun_at = perf_counter()
    for _ in range(requests):
        manager.request("GET", url)
    return requests / (perf_counter() - begun_at)


def many_threads(manager: urllib3.PoolManager, url: str, requests: int) -> float:
    """Return the requests/s of 60 threads together."""

    def user() -> None:
        for _ in range(requests // THREADS):
            manager.request("GET", url)

    threads = [threading.Thread(target=user) for _ in range(THREADS)]
    begun_at = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return requests // THREADS * THREADS / (perf_counter() - begun_at)


def measure_one(given: argparse.Namespace) -> None:
    """Print one row of one build as a line of JSON. `--against` starts this in that build's environment."""
    pin_client()
    loads = {"one thread": one_thread, "60 threads": many_threads}
    with KeepAliveAgent(max_sockets=SOCKETS, ca_certs=given.ca_file) as agent:
        begun_at, cpu_before = perf_counter(), process_time()
        rate = loads[given.row](agent, given.url, given.requests)
        elapsed_s = perf_counter() - begun_at
        print(json.dumps({"rate": rate, "cpu_us": (process_time() - cpu_before) / (rate * elapsed_s) * 1e6}))


def row(name: str, url: str, ca_file: str | None, requests: int) -> Callable[[dict[str, str]], Figures]:
    def measure(environment: dict[str, str]) -> Figures:
        command = [sys.executable, __file__, "--row", name, "--url", url, "--requests", str(requests)]
        printed, _ = timed([*command, *(["--ca-file", ca_file] if ca_file else [])], **environment)
        return Figures(**json.loads(printed))

    return measure


def compare(
    title: str,
    load: Callable[[urllib3.PoolManager, str, int], float],
    managers: Mapping[str, urllib3.PoolManager],
    url: str,
    given: argparse.Namespace,
) -> Table:
    rates: dict[str, list[float]] = {name: [] for name in managers}
    for number in range(given.rounds):
        names = sorted(managers, reverse=bool(number % 2))
        for name in names:
            rates[name].append(load(managers[name], url, given.requests))
    ours, stock = rates["KeepAliveAgent"], rates["PoolManager"]
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, stock, strict=True))
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("", "requests/s", "min", "max", "us a request", "it / PoolManager"):
        table.add_column(column, justify="right" if column else "left")
    for name, seen in rates.items():
        rate = statistics.median(seen)
        shown = f"{ratio:.2f}" if name == "KeepAliveAgent" else "1.00"
        table.add_row(name, f"{rate:.0f}", f"{min(seen):.0f}", f"{max(seen):.0f}", f"{1e6 / rate:.0f}", shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=3000, help="a round")
    parser.add_argument("--tls", action="store_true")
    for internal in ("--row", "--url", "--ca-file"):
        parser.add_argument(internal, default=None, help=argparse.SUPPRESS)
    add_option(parser)
    given = parser.parse_args()
    PINNED.set()
    if given.row is not None:
        measure_one(given)
        return
    console = Console(width=120)
    with EmbeddedServer(ServerOptions(delay_s=0, tls=given.tls)) as server, tempfile.TemporaryDirectory() as folder:
        pin_server(server.process.pid)
        ca_file = None
        if server.ca_data is not None:
            Path(folder, "ca.pem").write_text(server.ca_data)
            ca_file = f"{folder}/ca.pem"
        if given.against is not None:
            rows = {name: row(name, server.url, ca_file, given.requests) for name in ("one thread", "60 threads")}
            console.print(against_table("KeepAliveAgent", rows, given.against, given.rounds, console))
            return
        pin_client()
        managers: dict[str, urllib3.PoolManager] = {
            "PoolManager": urllib3.PoolManager(maxsize=SOCKETS, block=True, ca_certs=ca_file),
            "KeepAliveAgent": KeepAliveAgent(max_sockets=SOCKETS, ca_certs=ca_file),
        }
        for title, load in (("one thread", one_thread), (f"{THREADS} threads, {SOCKETS} sockets", many_threads)):
            console.print(compare(title, load, managers, server.url, given))
            console.print()


if __name__ == "__main__":
    main()
