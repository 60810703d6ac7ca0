"""Measures the cost of `kabench run --distributed` and its master, CPU and memory, with more and more workers.

All workers are on this machine and send little each, so the figures are the master's, not the workers'.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from kabench.result import load_result
from kabench.server import EmbeddedServer, ServerOptions

SETTLING_S = 2.0


def cost(workers: int, rate: float, seconds: float, url: str) -> tuple[float, float, float, float]:
    """Return CPU seconds a second and MB of the command, and the same of its master process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "kabench", "run", url, "--distributed", "--workers", str(workers)),
            *("--rate", f"{rate * workers:g}", "-d", f"{seconds + SETTLING_S + 1:g}s", "-a", "keepalive"),
            *("--max-sockets", str(10 * workers), "--no-save", "--json", "record.json", "--progress", "plain"),
        ]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("keepalive 1 s"):
                    break
            both = [psutil.Process(process.pid)]
            both += [p for p in both[0].children() if p.cmdline()[-1] == "kabench.distributed"]
            time.sleep(SETTLING_S)
            before = [sum(p.cpu_times()[:2]) for p in both]
            began_at = time.monotonic()
            time.sleep(seconds - 1)
            took_s = time.monotonic() - began_at
            used = [(sum(p.cpu_times()[:2]) - was) / took_s for p, was in zip(both, before, strict=True)]
            memory = [p.memory_info().rss / 2**20 for p in both]
            for _ in process.stderr:
                pass
        (run,) = load_result(Path(folder, "record.json")).runs
        assert run.transactions + run.not_started == rate * workers * (seconds + SETTLING_S + 1)
        assert len(run.client.workers) == workers
    return used[0], memory[0], used[1], memory[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rate", type=float, default=500.0, help="requests/s of each worker")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    table = Table(title=f"the master's cost, {arguments.rate:g} requests/s a worker", box=None)
    for column in ("workers", "command: CPU ms/s", "MB", "master: CPU ms/s", "MB"):
        table.add_column(column, justify="right")
    with EmbeddedServer(ServerOptions(delay_s=0.001)) as server:
        for workers in arguments.workers:
            command_cpu, command_mb, master_cpu, master_mb = cost(
                workers, arguments.rate, arguments.seconds, server.url
            )
            table.add_row(
                str(workers),
                *(f"{command_cpu * 1000:.0f}", f"{command_mb:.0f}", f"{master_cpu * 1000:.0f}", f"{master_mb:.0f}"),
            )
    Console(width=100, highlight=False).print(table)


if __name__ == "__main__":
    main()
