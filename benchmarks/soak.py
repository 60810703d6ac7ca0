"""Mixed requests against a server that misbehaves and restarts: does everything add up in the end?

Users of both kinds of agent send GETs, POSTs and PUTs, stream, abort, drop responses unread and run into timeouts,
while the server resets, closes too early, stalls, sends garbage and stray bytes, and is killed and started anew. Every
request asks for an answer of its own, so that a wrong one is seen. At the end nothing may be left: `created = closed +
free`, no socket active, nobody waiting, no file open that was not at the beginning.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import urllib3
import uvloop
from rich.console import Console
from rich.table import Table

from kabench.agent import AgentError, AsyncKeepAliveAgent, KeepAliveAgent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kabench.agent import AgentStatus

OPTIONS: dict[str, Any] = {
    "max_sockets": 20,
    "max_free_sockets": 10,
    "free_socket_timeout": 0.3,
    "timeout": 0.5,
    "connect_timeout": 1.0,
    "socket_active_ttl": 2.0,
    "queue_timeout": 2.0,
    "max_requests_per_socket": 200,
}
RESTART_EVERY_S = 2.0
LARGE_BYTES = 300_000


class WrongAnswerError(AssertionError):
    """A request got what was not its own."""


# -- the server --------------------------------------------------------------------------------------------------------


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random) -> None:
    """Answer with the request's own path, most of the time."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1]
        await read_body(reader, head.lower())
        size = LARGE_BYTES if path.endswith(b"large") else 0
        body = path + b"." * size
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        match chance.choices(range(9), (60, 12, 6, 4, 4, 4, 4, 3, 3))[0]:
            case 0:
                writer.write(whole)
            case 1:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await asyncio.sleep(0.001)
                writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            case 2:  # and no word of it: the keep-alive race
                writer.write(whole)
                return
            case 3:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) + 10, body))
                return
            case 4:
                reset(writer)
                return
            case 5:
                await asyncio.sleep(1.0)
                writer.write(whole)
            case 6:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\ngarbage")
            case 7:
                writer.write(whole + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
            case 8:
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
                return
        await writer.drain()


async def read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    if b"transfer-encoding: chunked" in head:
        while (size := int((await reader.readline()).strip() or b"0", 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readline()
        return
    _, found, rest = head.partition(b"content-length:")
    if found:
        await reader.readexactly(int(rest.split(b"\r\n")[0]))


def reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(port: int, seed: int) -> None:
    chance = random.Random(seed)

    async def serve_socket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, ConnectionError, RuntimeError):  # uvloop writes to no closed transport
            await serve_one(reader, writer, chance)
        writer.close()

    server = await asyncio.start_server(serve_socket, "127.0.0.1", port, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Server:
    """The server as a process that can be started anew on its port."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.restarts = -1
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, __file__, "--serve", str(self.port), "--seed", str(self._seed + self.restarts)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline() or 0)
        self.restarts += 1

    def stop(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def restart_for_ever(server: Server, over: threading.Event) -> None:
    while not over.wait(RESTART_EVERY_S):
        server.stop()
        server.start()


# -- the users ---------------------------------------------------------------------------------------------------------


def check(path: str, body: bytes) -> None:
    if not body.startswith(path.encode()):
        raise WrongAnswerError(f"{path} got {body[:60]!r}")


async def asyncio_user(
    agent: AsyncKeepAliveAgent, origin: str, number: int, over: threading.Event, seen: Counter[str]
) -> None:
    chance = random.Random(number)
    count = 0

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0)
            yield b"x" * 10_000

    while not over.is_set():
        count += 1
        path = f"/a{number}-{count}-" + chance.choice(("small", "small", "large"))
        url = origin + path
        try:
            async with asyncio.timeout(chance.choice((None, None, None, 0.001, 0.02))):
                match chance.randrange(5):
                    case 0 | 1:
                        check(path, (await agent.request("GET", url)).data)
                    case 2:
                        check(path, (await agent.request("POST", url, body=b"y" * chance.randrange(100_000))).data)
                    case 3:
                        check(path, (await agent.request("PUT", url, body=upload())).data)
                    case 4:
                        async with agent.stream("GET", url) as response:
                            async for piece in response.aiter_bytes():
                                check(path, piece)
                                break
            seen["answered"] += 1
        except TimeoutError as error:
            seen[error.kind if isinstance(error, AgentError) else "aborted"] += 1
        except AgentError as error:
            seen[error.kind] += 1
        await asyncio.sleep(chance.choice((0, 0, 0, 0.05, 0.4)))


async def asyncio_soak(origin: str, over: threading.Event, seen: Counter[str], users: int) -> AgentStatus:
    async with AsyncKeepAliveAgent(**OPTIONS) as agent:
        await asyncio.gather(*(asyncio_user(agent, origin, number, over, seen) for number in range(users)))
        await asyncio.sleep(0.1)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            raise AssertionError(f"tasks left over: {others}")
        return agent.get_current_status()


def thread_user(agent: KeepAliveAgent, origin: str, number: int, over: threading.Event, seen: Counter[str]) -> None:
    chance = random.Random(number)
    count = 0
    while not over.is_set():
        count += 1
        path = f"/t{number}-{count}-" + chance.choice(("small", "small", "large"))
        url = origin + path
        retries = chance.choice((False, urllib3.Retry(1)))
        try:
            match chance.randrange(5):
                case 0 | 1:
                    check(path, agent.request("GET", url, retries=retries).data)
                case 2:
                    check(path, agent.request("POST", url, body=b"y" * chance.randrange(100_000), retries=False).data)
                case 3:
                    check(path, agent.request("PUT", url, body=iter([b"x" * 10_000] * 5), retries=False).data)
                case 4:
                    response = agent.request("GET", url, preload_content=False, retries=retries)
                    check(path, response.read(20))
                    del response  # unread: the socket goes with it
            seen["answered"] += 1
        except urllib3.exceptions.HTTPError as error:
            seen[kind_of(error)] += 1
        sleep(chance.choice((0, 0, 0, 0.05, 0.4)))


def kind_of(error: BaseException | None) -> str:
    while error is not None and not isinstance(error, AgentError):
        error = error.__cause__ or getattr(error, "reason", None) or error.__context__
    return "other" if error is None else error.kind


# -- the verdict -------------------------------------------------------------------------------------------------------


def open_files() -> set[str]:
    """The process's open files, by number and what they are."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir() if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # the one that lists them
            found.add(f"{entry.name} {entry.readlink()}")
    return found


def left_over(status: AgentStatus) -> list[str]:
    """What does not add up."""
    free = sum(status.free_sockets.values())
    problems = []
    if status.create_socket_count != status.close_socket_count + free:
        problems.append(f"created {status.create_socket_count}, closed {status.close_socket_count}, free {free}")
    if status.sockets or status.requests:
        problems.append(f"active {status.sockets}, pending {status.requests}")
    return problems


def soak(seconds: float, users: int, seed: int) -> tuple[Table, list[str]]:
    server = Server(seed)
    origin = f"http://127.0.0.1:{server.port}"
    over = threading.Event()
    by_asyncio: Counter[str] = Counter()
    by_threads: Counter[str] = Counter()
    failures: list[BaseException] = []
    uvloop.new_event_loop().close()  # the first one leaves a pipe open, for all the others
    gc.collect()
    files_before, threads_before = open_files(), threading.active_count()
    agent = KeepAliveAgent(**OPTIONS)

    def guarded(work: Any, *arguments: Any) -> None:  # a thread's failure must not go unseen
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)
            over.set()

    threads = [
        threading.Thread(target=guarded, args=(thread_user, agent, origin, number, over, by_threads))
        for number in range(users)
    ]
    restarts = threading.Thread(target=guarded, args=(restart_for_ever, server, over))
    timer = threading.Timer(seconds, over.set)
    for thread in (*threads, restarts, timer):
        thread.start()
    statuses: dict[str, AgentStatus] = {}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            statuses["asyncio"] = runner.run(asyncio_soak(origin, over, by_asyncio, users))
        except BaseException as error:
            failures.append(error)
            over.set()
    stuck_by = monotonic() + 20
    for thread in threads:
        thread.join(max(0.0, stuck_by - monotonic()))
    timer.cancel()
    restarts.join()
    server.stop()
    problems = [f"{type(error).__name__}: {error}" for error in failures]
    problems += [f"{thread.name} is stuck" for thread in threads if thread.is_alive()]
    gc.collect()
    statuses["threads"] = agent.get_current_status()
    agent.close()
    for name, status in statuses.items():
        problems += [f"{name}: {problem}" for problem in left_over(status)]
    problems += [f"after close: {problem}" for problem in left_over(agent.get_current_status())]
    deadline = monotonic() + 5
    while (open_files() - files_before or threading.active_count() > threads_before) and monotonic() < deadline:
        sleep(0.05)
    if open_files() - files_before:
        problems.append(f"files left open: {sorted(open_files() - files_before)}")
    if threading.active_count() > threads_before:
        problems.append(f"threads left over: {[thread.name for thread in threading.enumerate()]}")
    return report(statuses, {"asyncio": by_asyncio, "threads": by_threads}, server.restarts, seconds), problems


def report(statuses: dict[str, AgentStatus], seen: dict[str, Counter[str]], restarts: int, seconds: float) -> Table:
    table = Table(
        title=f"{seconds:g} s, {restarts} restarts",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column("")
    for name in seen:
        table.add_column(name, justify="right")
    for kind in sorted({kind for counts in seen.values() for kind in counts}):
        table.add_row(kind, *(str(counts[kind]) for counts in seen.values()))
    for field in (
        "create_socket_count",
        "close_socket_count",
        "timeout_socket_count",
        "error_socket_count",
        "retry_count",
    ):
        table.add_row(field, *(str(getattr(statuses[name], field)) if name in statuses else "-" for name in seen))
    table.add_row(
        "free", *(str(sum(statuses[name].free_sockets.values())) if name in statuses else "-" for name in seen)
    )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--users", type=int, default=30, help="of each kind of agent")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        uvloop.run(serve(given.serve, given.seed))
        return 0
    table, problems = soak(given.seconds, given.users, given.seed)
    console = Console(width=100)
    console.print(table)
    console.print("\nnothing lost, nothing left over" if not problems else "\n".join(problems), highlight=False)
    return 1 if problems else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
