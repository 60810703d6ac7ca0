"""Measures kabench's budgets that are not a rate: memory, the start of the command, how exact the delay is.

It prints each figure beside its limit. The server's delay is measured from outside, by requests that are sent on a
schedule and not in answer to one another, so a client that falls behind does not bunch them.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from kabench.agent import AsyncKeepAliveAgent
from kabench.agent.aio import Exchange
from kabench.server import EmbeddedServer, ServerOptions
from kabench.server.delay import DelayQueue
from kabench.system.loop import run

if TYPE_CHECKING:
    from kabench.agent.aio import PreparedRequest, ResponseHead

DELAY_MS = 5.0
RATE = 9_000
SECONDS = 3
ROUNDS = 3


class Timed(Exchange):
    """A request that notes how long its answer took from the moment it was sent."""

    def __init__(self, prepared: PreparedRequest, took_ms: list[float]) -> None:
        super().__init__(prepared, 10.0)
        self._took_ms = took_ms

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:  # noqa: ARG002
        self._took_ms.append((now - self.sent_at) * 1000)

    def failed(self, error: Exception, now: float) -> None:  # noqa: ARG002
        raise error


async def delays_seen(url: str, rate: int = RATE) -> list[float]:
    """Send at a constant rate, and return the delays in ms."""
    took_ms: list[float] = []
    loop = asyncio.get_running_loop()
    async with AsyncKeepAliveAgent(max_sockets=100, free_socket_timeout=30) as agent:
        prepared = agent.prepare("POST", url, body=b"x" * 128)
        queue: DelayQueue[None] = DelayQueue(loop, lambda _: agent.start(Timed(prepared, took_ms), perf_counter()))
        begin_at = perf_counter() + 0.1
        for number in range(rate * SECONDS):
            queue.push(begin_at + number / rate, None)
        while len(took_ms) < rate * SECONDS:  # noqa: ASYNC110  # an event a request would cost in what is timed
            await asyncio.sleep(0.1)
        queue.close()
    return sorted(took_ms[rate // 2 :])


def delay_at_rate() -> tuple[float, float]:
    """Return p50 and p99 of the server's delay in ms, at `RATE`, with server and client on a core each."""
    cores = sorted(os.sched_getaffinity(0))
    with EmbeddedServer(ServerOptions(delay_s=DELAY_MS / 1000)) as server:
        os.sched_setaffinity(server.process.pid, cores[-1:])
        os.sched_setaffinity(0, cores[:-1] or cores)
        try:
            seen = run(delays_seen(server.url))
        finally:
            os.sched_setaffinity(0, cores)
    return statistics.median(seen), seen[int(len(seen) * 0.99)]


def worker_memory_mb(agent: str, requests: int) -> float:
    command = [sys.executable, "-m", "kabench", "run", "--agent", agent, "--delay", "0", "--no-save", "--json", "-"]
    out = subprocess.run([*command, "--requests", str(requests)], capture_output=True, check=True).stdout
    return float(json.loads(out)["runs"][0]["client"]["max_rss_mb"])


def seconds_of(*command: str) -> float:
    begun_at = perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return perf_counter() - begun_at


def main() -> None:
    table = Table(title="kabench's own limits", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("what", "measured", "required"):
        table.add_column(column)
    delays = [delay_at_rate() for _ in range(ROUNDS)]
    table.add_row(
        f"delay of {DELAY_MS:g} ms at {RATE}/s, p50",
        f"{statistics.median(p50 for p50, _ in delays):.3f} ms",
        f"at most {DELAY_MS + 0.3:.1f} ms",
    )
    slow_end = statistics.median(p99 for _, p99 in delays)
    table.add_row(f"delay of {DELAY_MS:g} ms at {RATE}/s, p99", f"{slow_end:.3f} ms", "")
    for agent, requests in (("keepalive", 2000), ("plain", 200)):
        few, many = worker_memory_mb(agent, requests), worker_memory_mb(agent, 10 * requests)
        table.add_row(
            f"memory, {agent}, {60 * requests} requests and ten times as many",
            f"{few:.1f} MB, {many:.1f} MB: {many - few:+.1f}",
            "at most +5 MB",
        )
    starts = [seconds_of(sys.executable, "-m", "kabench", "--help") for _ in range(9)]
    table.add_row("kabench --help", f"{statistics.median(starts):.3f} s", "at most 0.25 s")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
