"""Compares locust's users with kabench's: the rates of `HttpUser`, `FastHttpUser` and `KabenchUser` on one worker,
whether locust and kabench agree on what was sent, and how soon users come and go when a shape changes their number.

They take turns, round after round, with a master and one worker, against a server that answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kabench.result import load_result
from kabench.server import EmbeddedServer, ServerOptions

USERS = 60
KINDS = ("HttpUser", "FastHttpUser", "KabenchUser")

FILE = """
from locust import FastHttpUser, HttpUser, constant, events, task
import kabench.distributed
from kabench.distributed import KabenchUser
{install}

BODY = "x" * 128

class Echo({kind}):
    wait_time = constant(0)
"""
TASK = """
    @task
    def post(self):
        self.client.post("/", data=BODY)
"""
SENDS_BY_ITSELF = """
    path = "/"
    data = BODY
"""
INSTALL = "events.init.add_listener(kabench.distributed.install)"

SHAPE = (
    FILE
    + SENDS_BY_ITSELF.replace('"/"', '"/{delay_ms}"')
    + """
import time
from locust import LoadTestShape
from kabench.distributed import sender
from kabench.load.figures.messages import Progress

class Steps(LoadTestShape):
    def tick(self):
        passed_s = self.get_run_time()
        users = 10 if passed_s < 4 else 1000 if passed_s < 8 else 10 if passed_s < 12 else None
        if users is None:
            return None
        if users != getattr(self, "wanted", None):
            self.wanted = users
            print("WANTED", time.time(), users, flush=True)
        return users, 1000

heard = sender.decode

def decode(line):
    message = heard(line)
    if isinstance(message, Progress):
        print("BUSY", time.time(), message.sockets.active + message.sockets.pending, flush=True)
    return message

sender.decode = decode
"""
)


@dataclass
class Measured:
    """One turn: locust's figures, and kabench's if its reporter was installed."""

    rate: float
    requests: int
    mean_ms: float
    percentiles_ms: dict[float, int]
    kabench: tuple[float, int, float, dict[float, float]] | None


def percentile(response_times: dict[str, int], percent: float) -> int:
    times = {int(ms): count for ms, count in response_times.items()}
    seen = 0
    for ms in sorted(times):
        seen += times[ms]
        if seen >= percent / 100 * sum(times.values()):
            return ms
    return 0


def turn(kind: str, url: str, seconds: float) -> Measured:
    """Run a test of `seconds`, with a master and one worker."""
    with tempfile.TemporaryDirectory() as folder:
        is_ours = kind == "KabenchUser"
        text = FILE.format(kind=kind, install=INSTALL if is_ours else "") + (SENDS_BY_ITSELF if is_ours else TASK)
        Path(folder, "locustfile.py").write_text(text)
        done = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-m", "locust", "--headless", "--processes", "1", "--json"),
                *("-u", str(USERS), "-r", str(USERS), "-t", f"{seconds:g}s", "--host", url),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"^\[$", done.stdout, re.MULTILINE)
        if found is None:
            sys.exit(done.stderr)
        (stats,), _ = json.JSONDecoder().raw_decode(done.stdout[found.start() :])
        kabench = None
        if is_ours:
            (record,) = Path(folder, "results").glob("*.json")
            (run,) = load_result(record).runs
            times = run.response_time_s
            in_ms = {50.0: times.p50, 95.0: times.p95, 99.0: times.p99, 99.9: times.p99_9}
            kabench = (
                run.transaction_rate,
                run.transactions,
                1000 * (times.mean or 0),
                {percent: 1000 * (value or 0) for percent, value in in_ms.items()},
            )
    return Measured(
        rate=stats["num_requests"] / (stats["last_request_timestamp"] - stats["start_time"]),
        requests=stats["num_requests"],
        mean_ms=stats["total_response_time"] / stats["num_requests"],
        percentiles_ms={p: percentile(stats["response_times"], p) for p in (50.0, 95.0, 99.0, 99.9)},
        kabench=kabench,
    )


def rates(console: Console, rounds: int, seconds: float) -> None:
    measured: dict[str, list[Measured]] = {kind: [] for kind in KINDS}
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        for _ in range(rounds):
            for kind in KINDS:
                measured[kind].append(turn(kind, server.url.rstrip("/"), seconds))
    table = Table(title=f"{USERS} users, one worker, 0 ms, {rounds} rounds of {seconds:g} s", box=None)
    for column in ("user", "requests/s", "min", "max", "KabenchUser / it", "mean ms"):
        table.add_column(column, justify="left" if column == "user" else "right")
    ours = [each.rate for each in measured["KabenchUser"]]
    for kind in KINDS:
        its = [each.rate for each in measured[kind]]
        ratio = statistics.median(our / other for our, other in zip(ours, its, strict=True))
        mean_ms = statistics.median(each.mean_ms for each in measured[kind])
        table.add_row(
            kind,
            *(f"{figure:.0f}" for figure in (statistics.median(its), min(its), max(its))),
            f"{ratio:.1f}",
            f"{mean_ms:.2f}",
        )
    console.print(table)
    console.print()
    agreement(console, measured["KabenchUser"])


def agreement(console: Console, turns: list[Measured]) -> None:
    """Print how far locust's figures of `KabenchUser` are from kabench's, at worst over all rounds."""
    table = Table(title="locust's figures of KabenchUser against kabench's, the worst round", box=None)
    for column in ("figure", "apart", "required"):
        table.add_column(column)
    rate = requests = mean = apart_ms = 0.0
    for each in turns:
        if each.kabench is None:
            continue
        our_rate, our_requests, our_mean_ms, ours_ms = each.kabench
        rate = max(rate, abs(each.rate / our_rate - 1))
        requests = max(requests, abs(each.requests / our_requests - 1))
        mean = max(mean, abs(each.mean_ms / our_mean_ms - 1))
        apart_ms = max(apart_ms, *(abs(each.percentiles_ms[p] - ours_ms[p]) for p in ours_ms))
    table.add_row("requests", f"{100 * requests:.3f} %", "at most 1 %")
    table.add_row("rate", f"{100 * rate:.3f} %", "at most 1 %")
    table.add_row("mean", f"{100 * mean:.3f} %", "at most 1 %")
    table.add_row("p50, p95, p99, p99.9", f"{apart_ms:.2f} ms", "its rounding: 0.5 ms")
    console.print(table)


def steps(console: Console, rounds: int) -> None:
    """Print how long it takes from a shape's new number until that many users have a request under way."""
    lags: dict[str, list[float]] = {"10 to 1000": [], "1000 to 10": []}
    with EmbeddedServer(ServerOptions(delay_s=0)) as server, tempfile.TemporaryDirectory() as folder:
        text = SHAPE.replace("{delay_ms}", "100").format(kind="KabenchUser", install="")
        Path(folder, "locustfile.py").write_text(text)
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "locust", "--headless", "--host", server.url.rstrip("/")],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            said = [line.split() for line in done.stdout.splitlines() if line.startswith(("WANTED", "BUSY"))]
            wanted = [(float(at), int(users)) for what, at, users in said if what == "WANTED"]
            busy = [(float(at), int(users)) for what, at, users in said if what == "BUSY"]
            for (at, users), name in zip(wanted[1:], lags, strict=True):
                lags[name].append(next(then for then, count in busy if then > at and count == users) - at)
    table = Table(title=f"users of a shape, {rounds} rounds", box=None)
    for column in ("users", "there after s, median", "at most", "required"):
        table.add_column(column)
    for name, seconds in lags.items():
        table.add_row(name, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}", "at most 1 s")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    console = Console(width=120, highlight=False)
    os.environ["PYTHONUNBUFFERED"] = "1"
    rates(console, arguments.rounds, arguments.seconds)
    console.print()
    steps(console, arguments.rounds)


if __name__ == "__main__":
    main()
