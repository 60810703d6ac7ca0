"""Measures each design choice on the hot path: the load engine unchanged, and with one choice undone, in turn.

The load is 60 users on 50 sockets against one nginx worker that answers at once, client and server on a core each. Then
it measures the echo server with and without its choices, under wrk and by the delay that a client sees.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from limits import delays_seen
from peers import PINNED, Job, nginx, pin_client, pin_server, wrk
from rich.console import Console
from rich.table import Table

from kabench.agent import AgentOptions, reader
from kabench.agent.aio import AsyncAgent, Exchange
from kabench.agent.aio.request import prepare
from kabench.load import LoadPlan
from kabench.load.figures import recorder
from kabench.load.figures.messages import Go, Ready, Second, Task, decode, encode
from kabench.load.schedules import agent_users as users
from kabench.load.workers import worker
from kabench.server import EmbeddedServer, ServerOptions, answers
from kabench.system import alarm, loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# -- choices undone, each in a process of its own ------------------------------------------------------------------


def nothing() -> None:
    """Change nothing."""


def no_known_heads() -> None:
    """Parse every response with the reader."""
    reader.HeadCache.learn = lambda *_: None  # type: ignore[method-assign]


def a_future_and_a_task() -> None:
    """Run a task for each user that awaits agent.send(), as users of the library do."""

    def start(self: users.AgentUser, now: float) -> None:
        del now
        asyncio.get_running_loop().create_task(_user(self))

    async def _user(user: users.AgentUser) -> None:
        while next(user._tickets, None) is not None:
            exchange = users.AgentUser(user._agent, user.prepared, user._finished)
            exchange.started_at = perf_counter()
            response = await user._agent.send(user.prepared)
            exchange.sent_at = exchange.first_byte_at = exchange.started_at
            user._recorder.record(exchange, response._head, response.data, perf_counter())
        user._finish(perf_counter())

    users.AgentUser._start = start  # type: ignore[method-assign]


def no_recording() -> None:
    """Count finished requests and nothing else."""

    def record(self: recorder.Recorder, *_: object) -> None:
        self.status_codes[200] += 1

    recorder.Recorder.record = record  # type: ignore[method-assign, assignment]


def a_timer_a_request() -> None:
    """Set a timer for each request and cancel it when the response is there."""
    start = AsyncAgent.start
    timers: dict[Exchange, asyncio.TimerHandle] = {}

    def start_with_timer(self: AsyncAgent, exchange: Exchange, now: float) -> None:
        if exchange in timers:
            timers[exchange].cancel()
        timers[exchange] = asyncio.get_running_loop().call_later(60, print)
        start(self, exchange, now)

    AsyncAgent.start = start_with_timer  # type: ignore[method-assign]


def encode_every_request() -> None:
    """Check and encode a request each time it is sent."""
    start = AsyncAgent.start

    def start_encoding(self: AsyncAgent, exchange: Exchange, now: float) -> None:
        origin = exchange.prepared.origin
        exchange.prepared = prepare(
            "GET", f"http://{origin.host}:{origin.port}/", {"Accept": "*/*"}, None, keep_alive=True
        )
        start(self, exchange, now)

    AsyncAgent.start = start_encoding  # type: ignore[method-assign]


def asyncio_s_own_loop() -> None:
    """Use asyncio's loop instead of uvloop."""
    worker.run = asyncio.run  # type: ignore[attr-defined]


CLIENT_CHOICES: dict[str, Callable[[], None]] = {
    "as it is": nothing,
    "every response through the reader": no_known_heads,
    "a future and a task a request": a_future_and_a_task,
    "no recording": no_recording,
    "a timer a request": a_timer_a_request,
    "every request encoded anew": encode_every_request,
    "asyncio's own loop": asyncio_s_own_loop,
}


def no_known_requests() -> None:
    """Parse every request with httptools, and make every answer anew."""
    answers.AnswerBook.learn = lambda *_: None  # type: ignore[method-assign]


def loop_timers() -> None:
    """Use the event loop's timers instead of a timerfd."""

    def missing(*_: object) -> None:
        raise OSError

    alarm._TimerFdAlarm = missing  # type: ignore[assignment, misc]


SERVER_CHOICES: dict[str, Callable[[], None]] = {
    "as it is": nothing,
    "requests parsed, answers made anew": no_known_requests,
    "the event loop's timers": loop_timers,
    "asyncio's own loop": lambda: setattr(loop, "run", asyncio.run),
}

QUIET_RATE = 500
"""A rate (requests/s) at which the loop sleeps between requests. At thousands a second, its own timers spin."""

# -- measuring -----------------------------------------------------------------------------------------------------


def load_with(choice: str, url: str, seconds: float) -> tuple[float, float]:
    """Return requests/s and CPU us a request of the load engine with a choice undone."""
    plan = LoadPlan(url=url, concurrency=60, duration_s=seconds, agent_options=AgentOptions(max_sockets=50))
    process = subprocess.Popen(
        [sys.executable, __file__, "--as-worker", choice],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=pin_client,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(encode(Task(plan, "keepalive", url)))
    process.stdin.flush()
    last: Second | None = None
    for line in process.stdout:
        message = decode(line)
        if isinstance(message, Ready):
            process.stdin.write(encode(Go(monotonic())))
            process.stdin.flush()
        if isinstance(message, Second):
            last = message
    process.stdin.close()
    process.wait()
    assert last is not None
    requests = sum(last.totals.status_codes.values())
    return requests / last.elapsed_s, last.cpu_s / requests * 1e6


class ServerWith(EmbeddedServer):
    """An echo server with a choice undone."""

    def __init__(self, choice: str, options: ServerOptions) -> None:
        self._choice = choice
        super().__init__(options)

    def _command(self) -> list[str]:
        return [sys.executable, __file__, "--as-server", self._choice]


def rounds_of(count: int, choices: dict[str, Callable[[], None]]) -> Iterator[str]:
    for _ in range(count):
        yield from choices


def client_table(rounds: int, seconds: float, only: list[str] | None) -> Table:
    choices = {name: undo for name, undo in CLIENT_CHOICES.items() if only is None or name in ("as it is", *only)}
    seen: dict[str, list[tuple[float, float]]] = {choice: [] for choice in choices}
    with nginx() as url:
        for choice in rounds_of(rounds, choices):
            seen[choice].append(load_with(choice, url, seconds))
    table = Table(title="the load engine, one choice undone", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "requests/s", "CPU us/request", "of as it is"):
        table.add_column(column, justify="right" if column else "left")
    for choice, figures in seen.items():
        ratios = [rate / base for (rate, _), (base, _) in zip(figures, seen["as it is"], strict=True)]
        table.add_row(
            choice,
            f"{statistics.median(rate for rate, _ in figures):.0f}",
            f"{statistics.median(cpu for _, cpu in figures):.1f}",
            f"{statistics.median(ratios):.2f}",
        )
    return table


def server_table(rounds: int, seconds: float) -> Table:
    rates: dict[str, list[float]] = {choice: [] for choice in SERVER_CHOICES}
    delays: dict[str, list[float]] = {choice: [] for choice in SERVER_CHOICES}
    for choice in rounds_of(rounds, SERVER_CHOICES):
        with ServerWith(choice, ServerOptions(delay_s=0.0)) as server:
            pin_server(server.process.pid)
            rates[choice].append(wrk(Job(server.url, "GET", "", seconds)).rate)
            delays[choice].append(statistics.median(loop.run(delays_seen(server.url + "5", QUIET_RATE))))
    table = Table(title="the echo server, one choice undone", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "requests/s at 0 ms (wrk)", "of as it is", f"p50 of 5 ms at {QUIET_RATE}/s"):
        table.add_column(column, justify="right" if column else "left")
    for choice in SERVER_CHOICES:
        ratios = [rate / base for rate, base in zip(rates[choice], rates["as it is"], strict=True)]
        table.add_row(
            choice,
            f"{statistics.median(rates[choice]):.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{statistics.median(delays[choice]):.3f} ms",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", choices=CLIENT_CHOICES, help="these choices, and none of the server's")
    parser.add_argument("--as-worker", choices=CLIENT_CHOICES)
    parser.add_argument("--as-server", choices=SERVER_CHOICES)
    given = parser.parse_args()
    if given.as_worker is not None:
        CLIENT_CHOICES[given.as_worker]()
        worker.main()
    elif given.as_server is not None:
        from kabench.server import process

        SERVER_CHOICES[given.as_server]()
        process.run = loop.run  # type: ignore[attr-defined]
        process.main()
    else:
        PINNED.set()
        console = Console(width=100)
        console.print(client_table(given.rounds, given.seconds, given.only))
        if given.only is None:
            console.print()
            console.print(server_table(given.rounds, given.seconds))


if __name__ == "__main__":
    main()
