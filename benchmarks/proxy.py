"""The published benchmark as it was: siege drives a proxy whose requests to the target go through an agent.

It measures `kabench proxy` with its keep-alive agent and its normal one, and, if Node and agentkeepalive are installed,
a proxy of the same kind there. Then it measures `kabench proxy` alone: at full speed under wrk, and in front of a
target with every fault, with its memory before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from kabench.faults import parse_fault
from kabench.published import PUBLISHED_BODY
from kabench.server import EmbeddedServer, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Callable

SIEGE_SETTINGS = "connection = keep-alive\nlogging = false\nlimit = 255\n"
"""As in the published benchmark, siege keeps its own sockets."""

USERS, REQUESTS, SOCKETS, DELAY_MS = 60, 500, 50, 5
NODE_PROXY = Path(__file__).parent / "agentkeepalive_proxy.js"
FAULTS = ("reset:1%", "close-mid-body:1%", "garbage:1%", "extra-bytes:1%", "no-length:1%", "stall:50ms:1%", "refuse:1%")

WRK_SAYS = "wrk says"

Status = dict[str, dict[str, Any]]


class Proxy:
    """A proxy in a process. The first line it prints says that it listens."""

    def __init__(self, command: list[str], port: int, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        if self.process.stdout is None or not self.process.stdout.readline():
            raise RuntimeError(f"{command[0]} did not start")
        self.url = f"http://127.0.0.1:{port}"

    def status(self) -> Status:
        with urllib.request.urlopen(f"{self.url}/-/status", timeout=10) as response:
            status: Status = json.loads(response.read())
            return status

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        if self.process.stdout is not None:
            self.process.stdout.read()
        return self.process.wait(20)


def kabench_proxy(target: EmbeddedServer, port: int, *options: str) -> Proxy:
    command = [sys.executable, "-m", "kabench", "proxy", target.url, "--port", str(port), "--every", "0"]
    return Proxy([*command, "--max-sockets", str(SOCKETS), *options], port)


def node_proxy(target: EmbeddedServer, port: int, node_modules: str) -> Proxy:
    body = PUBLISHED_BODY.decode()
    command = ["node", str(NODE_PROXY), str(port), str(target.port), str(SOCKETS), body]
    return Proxy(command, port, {**os.environ, "NODE_PATH": node_modules})


def siege(url: str) -> dict[str, float]:
    """Run siege with `-c 60 -r 500 -b`, and return its own figures."""
    with tempfile.NamedTemporaryFile("w", suffix=".siegerc") as settings:
        settings.write(SIEGE_SETTINGS)
        settings.flush()
        command = ["siege", "-R", settings.name, "-q", "-j", "-b", "-c", str(USERS), "-r", str(REQUESTS), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in re.findall(r'"(\w+)":\s*([\d.]+)', done.stdout)}


def wrk(url: str, seconds: float) -> tuple[float, str]:
    """Run wrk, and return its rate and its complaints."""
    command = ["wrk", "-t1", f"-c{USERS}", f"-d{seconds:g}s", url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s*([\d.]+)", out)
    complaints = [line.strip() for line in out.splitlines() if "Socket errors" in line or "Non-2xx" in line]
    return float(rate[1]) if rate is not None else 0.0, "; ".join(complaints) or "-"


def published(start: Callable[[], Proxy], name: str, rounds: int, table: Table) -> list[str]:
    problems = []
    for _ in range(rounds):
        proxy = start()
        try:
            for agent, path in (("keepalive", f"/post/k/{DELAY_MS}"), ("normal", f"/post/{DELAY_MS}")):
                seen = siege(proxy.url + path)
                status = proxy.status()[agent]
                created, requests = status["create_socket_count"], status["request_count"]
                failed = int(seen["failed_transactions"])
                rate, took_ms = seen["transaction_rate"], 1000 * seen["response_time"]
                table.add_row(
                    f"{name}, {agent}",
                    f"{seen['transactions']:.0f}",
                    str(failed),
                    f"{rate:.0f}",
                    f"{took_ms:.1f}",
                    str(created),
                    f"{requests / created:.2f}",
                )
                if failed:
                    problems.append(f"{name}, {agent}: {failed} failed")
                if name == "kabench proxy" and agent == "keepalive" and created != SOCKETS:
                    problems.append(f"{name}, {agent}: {created} sockets")
        finally:
            proxy.end()
    return problems


def at_full_speed(seconds: float, table: Table) -> list[str]:
    """Measure memory under wrk, with a healthy target and with a faulty one. Return the problems."""
    problems = []
    for what, faults in (("all is well", ()), ("faults at 1 %", FAULTS)):
        given = ServerOptions(delay_s=0, faults=tuple(map(parse_fault, faults)))
        with EmbeddedServer(given) as target:
            proxy = kabench_proxy(target, 1986)
            wrk(proxy.url + "/k/0", 2)
            wrk(proxy.url + "/0", 2)
            for agent, path in (("keepalive", "/k/0"), ("normal", "/0")):
                before_mb = proxy.rss_mb()
                rate, complaints = wrk(proxy.url + path, seconds)
                after_mb = proxy.rss_mb()
                table.add_row(f"{agent}, {what}", f"{rate:.0f}", f"{before_mb:.1f}", f"{after_mb:.1f}", complaints)
                if after_mb > before_mb + 5:
                    problems.append(f"{agent}, {what}: memory has grown by {after_mb - before_mb:.1f} MB")
            code = proxy.end()
            if code:
                problems.append(f"{what}: the proxy ended with {code}")
    return problems


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    made.add_column()
    for column in columns:
        made.add_column(column, justify="left" if column == WRK_SAYS else "right", overflow="fold")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-modules", default=None, help="a node_modules folder with agentkeepalive")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="under wrk")
    given = parser.parse_args()
    console = Console(width=110, highlight=False)
    problems = []
    for program in ("siege", "wrk"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed")
    title = f"siege -b -c {USERS} -r {REQUESTS}, {DELAY_MS} ms, {SOCKETS} sockets"
    by_siege = table(title, "transactions", "failed", "rate", "ms", "sockets", "req/socket")
    with EmbeddedServer(ServerOptions(delay_s=0)) as target:
        problems += published(lambda: kabench_proxy(target, 1985), "kabench proxy", given.rounds, by_siege)
        if given.node_modules and shutil.which("node"):
            node_modules = given.node_modules
            problems += published(lambda: node_proxy(target, 1987, node_modules), "Node", given.rounds, by_siege)
    console.print(by_siege)
    title = f"kabench proxy under wrk, {USERS} connections, {given.seconds:g} s"
    by_wrk = table(title, "requests/s", "MB before", "MB after", WRK_SAYS)
    problems += at_full_speed(given.seconds, by_wrk)
    console.print(by_wrk)
    console.print("as it should be" if not problems else "\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
