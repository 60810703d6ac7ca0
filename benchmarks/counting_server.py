"""A server that counts: how long each answer took, and what it did to its sockets.

`python benchmarks/counting_server.py` reads its orders as a line of JSON and prints its port. When its input ends, it
prints its counts. Times run from when a request had been read until its answer was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, cast

from kabench.server.delay import DelayQueue
from kabench.system.loop import run

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD_END = b"\r\n\r\n"
_BODY = b"x" * 100
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + _BODY
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_SWEEPS_PER_IDLE_TIME = 10


@dataclass(frozen=True)
class Orders:
    """The server's orders. Delays are drawn from `delays_s` with `weights`, or exponential with `exponential_mean_s`.

    Every `reset_every`-th request is read, and its socket reset without an answer. A socket that has been idle for
    `reset_idle_s` is reset.
    """

    delays_s: tuple[float, ...] = (0.0,)
    weights: tuple[float, ...] | None = None
    exponential_mean_s: float | None = None
    reset_every: int | None = None
    reset_idle_s: float | None = None
    seed: int = 1


@dataclass
class Seen:
    """The server's counts of what it has seen and done."""

    sockets: int = 0
    requests: int = 0
    answers: int = 0
    body_bytes: int = 0
    resets_after_request: int = 0
    resets_idle: int = 0
    delays_s: list[float] = field(default_factory=list)


class CountingServer:
    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.seen = Seen()
        self.random = random.Random(orders.seed)
        self.sockets: set[CountingSocket] = set()
        loop = asyncio.get_running_loop()
        self.delays: DelayQueue[CountingSocket] = DelayQueue(loop, CountingSocket.answer)
        if orders.reset_idle_s is not None:
            self._sweep(loop, orders.reset_idle_s)

    def delay_s(self) -> float:
        orders = self.orders
        if orders.exponential_mean_s is not None:
            return self.random.expovariate(1 / orders.exponential_mean_s)
        return self.random.choices(orders.delays_s, orders.weights)[0]

    def _sweep(self, loop: asyncio.AbstractEventLoop, idle_s: float) -> None:
        before = perf_counter() - idle_s
        for each in [each for each in self.sockets if not each.waiting and each.idle_since <= before]:
            self.seen.resets_idle += 1
            each.reset()
        loop.call_later(idle_s / _SWEEPS_PER_IDLE_TIME, self._sweep, loop, idle_s)


class CountingSocket(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, server: CountingServer) -> None:
        self._server = server
        self._unread = b""
        self.waiting: deque[float] = deque()
        self.idle_since = perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server.seen.sockets += 1
        self._server.sockets.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.sockets.discard(self)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while _HEAD_END in self._unread:
            self._unread = self._unread.partition(_HEAD_END)[2]
            self._take()

    def _take(self) -> None:
        server = self._server
        server.seen.requests += 1
        every = server.orders.reset_every
        if every is not None and server.seen.requests % every == 0:
            server.seen.resets_after_request += 1
            self.reset()
            return
        now = perf_counter()
        self.waiting.append(now)
        server.delays.push(now + server.delay_s(), self)

    def answer(self) -> None:
        if not self.waiting or self.transport.is_closing():
            return
        received_at = self.waiting.popleft()
        self.transport.write(_ANSWER)
        self.idle_since = perf_counter()
        seen = self._server.seen
        seen.answers += 1
        seen.body_bytes += len(_BODY)
        seen.delays_s.append(self.idle_since - received_at)

    def reset(self) -> None:
        """Close the socket so that the other side gets a reset."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.transport.abort()
        self._server.sockets.discard(self)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    server = CountingServer(Orders(**json.loads(await reader.readline())))
    listening = await loop.create_server(lambda: CountingSocket(server), "127.0.0.1", 0, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await reader.read()
    print(json.dumps(asdict(server.seen)), flush=True)


class RunningServer:
    """A counting server in a process of its own."""

    def __init__(self, orders: Orders) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(orders)) + "\n")
        self.process.stdin.flush()
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/"

    def finish(self) -> Seen:
        """End the server and return its counts."""
        out, _ = self.process.communicate(timeout=30)
        return Seen(**json.loads(out))


@contextlib.contextmanager
def counting_server(orders: Orders) -> Iterator[RunningServer]:
    """Yield a running counting server, and end it in any case."""
    running = RunningServer(orders)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


if __name__ == "__main__":
    run(_serve())
