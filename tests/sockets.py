"""A real socket server that does what a test tells it to, and a way to run asyncio tests on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

import uvloop

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from types import TracebackType

T = TypeVar("T")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENCE_S = 30.0

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run_in(loop_name: str, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new loop of that kind, with a limit, so that a hanging test fails instead."""
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        return runner.run(asyncio.wait_for(main, 6 * PATIENCE_S))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # a condition on the other side of a socket sets no event
            await asyncio.sleep(0.005)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Peer:
    """The server's end of one socket. `number` counts sockets from 0."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[bytes] = field(default_factory=list)

    async def request(self) -> bytes:
        """The next request, head and body. Raises `EOFError` when the client closes instead."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        whole = head + await self.reader.readexactly(length)
        self.requests.append(whole)
        return whole

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, data: bytes = OK) -> None:
        await self.request()
        await self.send(data)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        reset(self.writer)

    async def closed_by_client(self) -> bool:
        """Wait until the client closes; True unless it sent something first."""
        return await self.reader.read(1) == b""


_STEPS_OF_ACCEPTING = 10


class ScriptedServer:
    """Runs `handler` for each accepted socket; when it returns, the socket is closed."""

    def __init__(
        self,
        handler: Callable[[Peer], Awaitable[None]],
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._handler = handler
        self._host = host
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.peers: list[Peer] = []
        self.open_now = 0
        self.open_most = 0
        self.port = 0

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}/"

    @property
    def origin(self) -> str:
        return self.url.rstrip("/")

    @property
    def sockets(self) -> int:
        return len(self.peers)

    @property
    def requests(self) -> int:
        return sum(len(peer.requests) for peer in self.peers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        peer = Peer(len(self.peers), reader, writer)
        self.peers.append(peer)
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            with contextlib.suppress(EOFError, ConnectionError, asyncio.CancelledError):
                await self._handler(peer)
        finally:
            self.open_now -= 1
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0, backlog=1024, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for _ in range(_STEPS_OF_ACCEPTING):  # what is being accepted just now has a task by then, which closes it
            await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)


async def echo_forever(peer: Peer) -> None:
    """Answer every request at once."""
    while True:
        await peer.answer()


ECHOED_BYTES = 20_000_000
"""More than the system buffers on both sides hold, so that a request of it is not sent before its answer begins."""


async def echo_at_once(peer: Peer) -> None:
    """Answer the first request before its body has come, byte by byte as it comes; then answer whatever else does."""
    if not peer.number:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ECHOED_BYTES)
        left = ECHOED_BYTES
        while left:
            data = await peer.reader.read(65_536)
            left -= len(data)
            await peer.send(data)
    await echo_forever(peer)


def answering_after(delay_s: float, response: bytes = OK) -> Callable[[Peer], Awaitable[None]]:
    """Answer every request after a delay."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(delay_s)
            await peer.send(response)

    return handler


@contextlib.contextmanager
def serving(handler: Callable[[Peer], Awaitable[None]], **options: Any) -> Iterator[ScriptedServer]:
    """A scripted server in a thread of its own, for tests of the threaded agents."""
    server = ScriptedServer(handler, **options)
    ready, done = threading.Event(), threading.Event()

    async def main() -> None:
        async with server:
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(PATIENCE_S)
    try:
        yield server
    finally:
        done.set()
        thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, in a test without an event loop."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, "the condition never came to hold"
        time.sleep(0.005)


def start(work: Callable[[], T]) -> Future[T]:
    """Do it in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # it is the outcome
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def in_threads(count: int, work: Callable[[int], T]) -> list[T | BaseException]:
    """What `count` threads return or raise, which all begin at once."""
    outcomes: list[T | BaseException] = [RuntimeError("did not end")] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = work(number)
        except BaseException as error:  # it is the outcome
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * PATIENCE_S)
    return outcomes
