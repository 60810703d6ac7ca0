"""Measures the cost of a checkout and the memory of a free socket, with 10 000 free sockets over 10 origins.

The baseline is the same number of origins with 10 free sockets. It opens two files a socket: if the limit is lower,
raise it with `ulimit -n 25000`. The servers are bare: they answer and keep the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import resource
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import uvloop
from rich.console import Console
from rich.table import Table

from kabench.agent import AsyncKeepAliveAgent, KeepAliveAgent

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ORIGINS = 10
TIMED_REQUESTS = 2000
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Answering(asyncio.Protocol):
    """A server that answers anything."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(ANSWER)  # type: ignore[attr-defined]  # it is a Transport


def serve(ports: Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(Answering, "127.0.0.1", 0, backlog=4096) for _ in range(ORIGINS)]
        ports.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.Event().wait()

    allow_files()
    uvloop.run(main())


def allow_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def memory_kb() -> float:
    """Return resident memory now, in KB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


async def asyncio_agent(urls: list[str], free: int) -> tuple[float, float]:
    """Return the cost of a checkout in us, and that of a free socket in KB."""
    options = {"max_sockets": None, "max_free_sockets": free, "free_socket_timeout": 300, "timeout": 300}
    async with AsyncKeepAliveAgent(**options) as agent:  # type: ignore[arg-type]  # options by name
        await agent.request("GET", urls[0])
        gc.collect()
        before = memory_kb()
        for url in urls:
            await asyncio.gather(*(agent.request("GET", url) for _ in range(free // ORIGINS)))
        assert sum(agent.get_current_status().free_sockets.values()) == free
        gc.collect()
        each_kb = (memory_kb() - before) / free
        prepared = [agent.prepare("GET", url) for url in urls]
        took = []
        for number in range(TIMED_REQUESTS):
            begun_at = perf_counter()
            await agent.send(prepared[number % ORIGINS])
            took.append(perf_counter() - begun_at)
        return statistics.median(took) * 1e6, each_kb


def threaded_agent(urls: list[str], free: int) -> tuple[float, float]:
    with KeepAliveAgent(max_free_sockets=free, free_socket_timeout=300) as agent:
        agent.request("GET", urls[0])
        gc.collect()
        before = memory_kb()
        for url in urls:
            held = [agent.request("GET", url, preload_content=False) for _ in range(free // ORIGINS)]
            with ThreadPoolExecutor(1) as pool:
                list(pool.map(lambda response: response.read(), held))
            del held
        assert sum(agent.get_current_status().free_sockets.values()) == free
        gc.collect()
        each_kb = (memory_kb() - before) / free
        took = []
        for number in range(TIMED_REQUESTS):
            begun_at = perf_counter()
            agent.request("GET", urls[number % ORIGINS])
            took.append(perf_counter() - begun_at)
        return statistics.median(took) * 1e6, each_kb


def measure(kind: str, urls: list[str], free: int, answer: Connection) -> None:
    allow_files()
    if kind == "asyncio":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            answer.send(runner.run(asyncio_agent(urls, free)))
    else:
        answer.send(threaded_agent(urls, free))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("memory is read from /proc, which only Linux has")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    urls = [f"http://127.0.0.1:{port}/" for port in here.recv()]
    table = Table(title=f"{ORIGINS} origins", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    columns = ("agent", "free sockets", "us a request", "against 10", "KB a free socket")
    for column in columns:
        table.add_column(column, justify="right" if column != "agent" else "left")
    for kind in ("asyncio", "threads"):
        costs: dict[int, list[float]] = {ORIGINS: [], given.sockets: []}
        memory: dict[int, list[float]] = {ORIGINS: [], given.sockets: []}
        for _ in range(given.rounds):
            for free in costs:
                process = context.Process(target=measure, args=(kind, urls, free, there))
                process.start()
                us, each_kb = here.recv()
                process.join()
                costs[free].append(us)
                memory[free].append(each_kb)
        ratio = statistics.median(many / few for few, many in zip(*costs.values(), strict=True))
        for free, seen in costs.items():
            shown = "1.00" if free == ORIGINS else f"{ratio:.2f}"
            each = "" if free == ORIGINS else f"{statistics.median(memory[free]):.1f}"
            table.add_row(kind, str(free), f"{statistics.median(seen):.1f}", shown, each)
    server.terminate()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
