"""Sends load with every fault at once to servers that are killed, and checks that nothing is lost, left or unexplained.

Three loads run at the same time, each against its own echo server with all faults at 1 %, whose counts survive a kill:
users of the asyncio agent and of the threaded one, who get, post, put, stream, leave and give up, and `kabench run`
with keep-alive and retries. The servers are killed (SIGKILL) and started again after 2 s, over and over. Checked:

- each answer is the one to its request, and each request has ended in an answer or an error of a kind;
- the counts of both sides: every difference is explained by a kind that one of them counted;
- no request that may be sent again has failed because of a stale socket;
- the agents' books, which are checked all the time, never contradict themselves;
- files, threads, tasks and memory do not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import urllib3
import uvloop
from rich.console import Console
from rich.table import Table

from kabench import LoadPlan, run
from kabench.agent import AgentError, AgentOptions, AsyncKeepAliveAgent, KeepAliveAgent
from kabench.faults import parse_fault
from kabench.load import MeasurementError, Stage
from kabench.server import EmbeddedServer, ServerCounts, ServerError, ServerOptions, read_counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from kabench.result import AgentRun

FAULTS = (
    "reset:1%",
    "close-mid-body:1%",
    "garbage:1%",
    "extra-bytes:1%",
    "no-length:1%",
    "slow-body:100ms:1%",
    "stall:50ms:1%",
    "stall:100ms/10s",
    "close-idle:200ms:1%",
    "drop-idle:200ms:1%",
    "refuse:1%",
    "refuse:100ms/10s",
)
OF_PAUSING_USERS = ("close-idle:200ms:25%", "drop-idle:200ms:25%")
"""Only users who pause leave sockets idle, so their sockets get these faults more often."""

OPTIONS: dict[str, Any] = {
    "max_sockets": 20,
    "max_free_sockets": 10,
    "free_socket_timeout": 0.6,
    "timeout": 1.0,
    "connect_timeout": 1.0,
    "socket_active_ttl": 5.0,
    "queue_timeout": 3.0,
    "max_requests_per_socket": 500,
}
ENGINE_USERS = 60
ENGINE_SOCKETS = 50
ENGINE_STAGES = (Stage(2.4, 60), Stage(0.05, 10), Stage(0.5, 10), Stage(0.05, 60))
DOWN_S = 2.0
QUIET_EVERY_S, QUIET_S = 3.0, 0.5
LOOK_EVERY_S = 0.25
FIRST_PORT, LAST_PORT = 20_000, 30_000
"""Ports below those that the system gives to clients. A client's port could otherwise take a server's place."""

MEMORY_MAY_GROW_MB = 15
CONNECT_KINDS = ("connect_failed", "connect_timeout")
GIVEN_UP = ("aborted", "left", "socket_timeout", "queue_timeout", "cut_off")
MET_A_FAULT = ("bad_response", "incomplete_response", "socket_closed", "stale_socket")
KNOWN_ENDS = {"answered", *CONNECT_KINDS, *GIVEN_UP, *MET_A_FAULT}


class WrongAnswerError(AssertionError):
    """A request got another request's answer."""


# -- the servers -------------------------------------------------------------------------------------------------------


class Server:
    """An echo server that can be killed and started again on its port; its counts go on."""

    def __init__(self, folder: str, name: str, faults: tuple[str, ...], delay_s: float, seed: int) -> None:
        self.counts_file = f"{folder}/{name}"
        self.kills = 0
        self._options: dict[str, Any] = {
            "faults": tuple(map(parse_fault, faults)),
            "delay_s": delay_s,
            "counts_file": self.counts_file,
            "port": free_port(),
        }
        self._seed = seed
        self.start()

    def start(self) -> None:
        self._server = EmbeddedServer(ServerOptions(**self._options, seed=self._seed + self.kills))
        self.origin = self._server.url.rstrip("/")

    def kill(self) -> None:
        self._server.process.send_signal(signal.SIGKILL)
        self._server.process.wait()
        self._server.stop()
        self.kills += 1

    def stop(self) -> None:
        self._server.stop()

    def counts(self) -> ServerCounts:
        return read_counts(self.counts_file)


def free_port() -> int:
    for port in random.sample(range(FIRST_PORT, LAST_PORT), 100):
        with contextlib.suppress(OSError), socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port from {FIRST_PORT} to {LAST_PORT} is free")


def kill_now_and_then(servers: list[Server], every_s: float, over: threading.Event) -> None:
    while not over.wait(every_s):
        for server in servers:
            server.kill()
        over.wait(DOWN_S)
        for server in servers:
            server.start()


# -- the users ---------------------------------------------------------------------------------------------------------


def quiet_for_s() -> float:
    """Return how long to pause now. All users pause at the same times, so that sockets become idle."""
    into_period_s = monotonic() % QUIET_EVERY_S
    return QUIET_S - into_period_s if into_period_s < QUIET_S else 0.0


@dataclass
class Seen:
    """The users' counts: how many requests they began, and how those ended."""

    begun: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    stale_gets: int = 0

    def fail(self, kind: str, *, is_get: bool) -> None:
        self.ended[kind] += 1
        self.stale_gets += is_get and kind == "stale_socket"


def check(name: str, body: bytes) -> None:
    """Raise an error unless the answer contains `name`: the server echoes headers and body."""
    echo = json.loads(body)
    if echo["headers"].get("x-name") != name or (echo["data"] and not echo["data"].startswith(name)):
        raise WrongAnswerError(f"{name} got {body[:80]!r}")


async def asyncio_user(agent: AsyncKeepAliveAgent, server: Server, number: int, over: Any, seen: Seen) -> None:
    chance = random.Random(number)

    async def upload(name: str) -> AsyncIterator[bytes]:
        yield name.encode()
        for _ in range(3):
            await asyncio.sleep(0)
            yield b"x" * 10_000

    async def ask(name: str, choice: int) -> str:
        headers = {"X-Name": name}
        match choice:
            case 0 | 1:
                check(name, (await agent.request("GET", server.origin, headers=headers)).data)
            case 2:
                body = name.encode() + b"y" * chance.randrange(50_000)
                check(name, (await agent.request("POST", server.origin, headers=headers, body=body)).data)
            case 3:
                check(name, (await agent.request("PUT", server.origin, headers=headers, body=upload(name))).data)
            case 4:
                async with agent.stream("GET", server.origin + "/?size=300000", headers=headers) as response:
                    if chance.random() < 0.2:
                        return "left"
                    async for _ in response.aiter_bytes():
                        pass
        return "answered"

    while not over.is_set():
        seen.begun += 1
        choice = chance.randrange(5)
        try:
            async with asyncio.timeout(chance.choice((None,) * 8 + (0.001, 0.02))):
                seen.ended[await ask(f"a{number}-{seen.begun}-", choice)] += 1
        except TimeoutError as error:
            seen.fail(error.kind if isinstance(error, AgentError) else "aborted", is_get=choice < 2)
        except AgentError as error:
            seen.fail(error.kind, is_get=choice < 2)
        await asyncio.sleep(chance.choice((0, 0, 0.05)) + quiet_for_s())


async def asyncio_load(server: Server, users: int, over: threading.Event, seen: Seen, problems: list[str]) -> Any:
    async with AsyncKeepAliveAgent(**OPTIONS) as agent:
        tasks = [asyncio.create_task(asyncio_user(agent, server, number, over, seen)) for number in range(users)]
        while not over.is_set() and not any(task.done() for task in tasks):
            problems += agent.book.contradictions()
            await asyncio.sleep(LOOK_EVERY_S)
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.1)
        problems += [f"a task is left over: {task}" for task in asyncio.all_tasks() - {asyncio.current_task()}]
        return agent.get_current_status()


def thread_user(agent: KeepAliveAgent, server: Server, number: int, over: threading.Event, seen: Seen) -> None:
    chance = random.Random(number)
    while not over.is_set():
        seen.begun += 1
        name = f"t{number}-{seen.begun}-"
        headers = {"X-Name": name}
        choice = chance.randrange(5)
        leaves = False
        try:
            match choice:
                case 0 | 1:
                    check(name, agent.request("GET", server.origin, headers=headers).data)
                case 2:
                    body = name.encode() + b"y" * chance.randrange(50_000)
                    check(name, agent.request("POST", server.origin, headers=headers, body=body).data)
                case 3:
                    pieces = iter([name.encode(), *[b"x" * 10_000] * 3])
                    check(name, agent.request("PUT", server.origin, headers=headers, body=pieces).data)
                case 4:
                    large = server.origin + "/?size=300000"
                    response = agent.request("GET", large, headers=headers, preload_content=False)
                    leaves = chance.random() < 0.2
                    response.read(20 if leaves else None)
                    del response  # unread, so the socket is closed with it
            seen.ended["left" if leaves else "answered"] += 1
        except urllib3.exceptions.HTTPError as error:
            seen.fail(kind_of(error), is_get=choice < 2)
        sleep(chance.choice((0, 0, 0.05)) + quiet_for_s())


def kind_of(error: BaseException | None) -> str:
    while error is not None and not isinstance(error, AgentError):
        error = error.__cause__ or getattr(error, "reason", None) or error.__context__
    return "of no kind" if error is None else error.kind


def thread_load(server: Server, users: int, over: threading.Event, seen: Seen, problems: list[str]) -> Any:
    seens = [Seen() for _ in range(users)]
    with KeepAliveAgent(retries=False, **OPTIONS) as agent:  # urllib3's retries would hide the agent's own
        threads = [
            threading.Thread(target=guarded, args=(problems, over, thread_user, agent, server, number, over, each))
            for number, each in enumerate(seens)
        ]
        for thread in threads:
            thread.start()
        while not over.wait(LOOK_EVERY_S):
            problems += agent.keeper.contradictions()
        for thread in threads:
            thread.join(30)
        problems += [f"{thread.name} is stuck" for thread in threads if thread.is_alive()]
        gc.collect()
        status = agent.get_current_status()
    for each in seens:
        seen.begun += each.begun
        seen.ended += each.ended
        seen.stale_gets += each.stale_gets
    return status


def engine_load(server: Server, seconds: float, problems: list[str]) -> AgentRun:
    plan = LoadPlan(
        url=server.origin,
        method="GET",
        data=b"",
        concurrency=ENGINE_USERS,
        stages=tuple(stage for _ in range(max(1, round(seconds / QUIET_EVERY_S))) for stage in ENGINE_STAGES),
        agent_options=AgentOptions(max_sockets=ENGINE_SOCKETS, free_socket_timeout=30, timeout=5),
    )
    try:
        (result,) = run(plan, ["keepalive"]).runs
    except MeasurementError as error:
        problems.append(f"kabench run: {error}")
        (result,) = error.result.runs
    problems += [
        f"kabench run: {point.free} free and {point.active} active sockets at {point.t_s} s"
        for point in result.series
        if (point.free or 0) + (point.active or 0) > ENGINE_SOCKETS
    ]
    return result


def guarded(problems: list[str], over: threading.Event, work: Callable[..., Any], *arguments: Any) -> None:
    """Run `work` in a thread, and add its failure to `problems`."""
    try:
        work(*arguments)
    except BaseException as error:
        problems.append(f"{type(error).__name__}: {error}")
        over.set()


# -- the two sides -----------------------------------------------------------------------------------------------------


@dataclass
class Sides:
    """The counts of one load: the client's, its agent's and the server's."""

    name: str
    begun: int
    ended: Counter[str]
    stale_gets: int
    created: int
    retries: int
    sockets: int
    server: ServerCounts
    kills: int

    @property
    def windows(self) -> int:
        """How often all clients were refused. Each time, a client that was just being accepted was reset."""
        return self.kills + self.server.faults.get("refuse", 0)

    def rows(self) -> list[tuple[str, int, int, int]]:
        """Return each figure of the client, the matching one of the server, and by how much they may differ.

        Only one side may count a request that was given up, or was under way when the server was killed.
        """
        faults = Counter(self.server.faults)
        given_up = sum(self.ended[kind] for kind in GIVEN_UP)
        at_kills = self.kills * self.sockets
        loose = given_up + at_kills
        met_a_close = self.retries + sum(self.ended[kind] for kind in ("stale_socket", "socket_closed"))
        closes = sum(faults[kind] for kind in ("reset", "close-idle", "drop-idle", "refuse"))
        return [
            ("begun = ended", self.begun, self.ended.total(), 0),
            ("answered = responses", self.ended["answered"], self.server.responses, loose),
            ("bad_response = garbage", self.ended["bad_response"], faults["garbage"], given_up),
            (
                "incomplete_response = close-mid-body",
                self.ended["incomplete_response"],
                faults["close-mid-body"],
                loose,
            ),
            (
                "sent again, stale_socket, socket_closed = reset, close-idle, drop-idle, refuse",
                met_a_close,
                closes,
                loose + faults["close-idle"] + faults["refuse"],  # those that nobody sent anything on
            ),
            (
                "requests = responses and what was instead of one",
                self.server.requests,
                self.server.responses
                + faults["reset"]
                + faults["garbage"]
                + faults["close-mid-body"]
                + self.server.unanswered,
                at_kills,
            ),
            ("created = sockets", self.created, self.server.sockets, (self.windows + 1) * self.sockets),
        ]

    def problems(self) -> list[str]:
        found = [
            f"{self.name}: {what}: {left} and {right} are more than {apart} apart"
            for what, left, right, apart in self.rows()
            if abs(left - right) > apart
        ]
        found += [f"{self.name}: {count} x {kind}" for kind, count in self.ended.items() if kind not in KNOWN_ENDS]
        if self.stale_gets:
            found.append(f"{self.name}: {self.stale_gets} GETs failed because of a stale socket")
        if self.server.bad_requests:
            found.append(f"{self.name}: the server refused {self.server.bad_requests} requests")
        if self.ended["answered"] < 100:
            found.append(f"{self.name}: only {self.ended['answered']} answers")
        return found


def sides_of_users(name: str, seen: Seen, status: Any, server: Server) -> Sides:
    return Sides(
        name,
        seen.begun,
        seen.ended,
        seen.stale_gets,
        status.create_socket_count,
        status.retry_count,
        OPTIONS["max_sockets"],
        server.counts(),
        server.kills,
    )


def sides_of_engine(result: AgentRun, server: Server) -> Sides:
    ended = Counter({"answered": result.transactions, **result.errors})
    return Sides(
        "kabench run",
        result.transactions + result.socket_errors,
        ended,
        result.errors.get("stale_socket", 0),
        result.sockets.created or 0,
        result.retries or 0,
        ENGINE_SOCKETS,
        server.counts(),
        server.kills,
    )


# -- what is left over -------------------------------------------------------------------------------------------------


def open_files() -> set[str]:
    """Return the process's open files, by number and target."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir() if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # the one that lists the folder is closed by now
            found.add(f"{entry.name} {entry.readlink()}")
    return found


def rss_mb() -> float:
    if sys.platform != "linux":
        return 0.0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Samples:
    """Memory, files and threads of this process, over time."""

    memory_mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def take(self) -> None:
        self.memory_mb.append(rss_mb())
        self.files.append(len(open_files()))
        self.threads.append(threading.active_count())

    def problems(self) -> list[str]:
        quarter = max(1, len(self.memory_mb) // 4)
        found = []
        grown_mb = median(self.memory_mb[-quarter:]) - median(self.memory_mb[quarter : 2 * quarter])
        if grown_mb > MEMORY_MAY_GROW_MB:
            found.append(f"memory has grown by {grown_mb:.1f} MB")
        for what, counts in (("files", self.files), ("threads", self.threads)):
            if median(counts[-quarter:]) > median(counts[quarter : 2 * quarter]) + 2 * OPTIONS["max_sockets"]:
                found.append(f"open {what} have grown: {counts}")
        return found

    def __str__(self) -> str:
        quarter = max(1, len(self.memory_mb) // 4)
        return "; ".join(
            f"{what} {median(values[quarter : 2 * quarter]):.0f}, at the end {median(values[-quarter:]):.0f}"
            for what, values in (("MB", self.memory_mb), ("files", self.files), ("threads", self.threads))
        )


@contextlib.contextmanager
def leaves_nothing_over(problems: list[str]) -> Iterator[None]:
    uvloop.new_event_loop().close()  # the first loop leaves a pipe open, which all others use
    gc.collect()
    files_before, threads_before = open_files(), threading.active_count()
    yield
    gc.collect()
    deadline = monotonic() + 5
    while (open_files() - files_before or threading.active_count() > threads_before) and monotonic() < deadline:
        sleep(0.05)
    problems += [f"left open: {file}" for file in sorted(open_files() - files_before)]
    if threading.active_count() > threads_before:
        problems.append(f"threads left over: {[thread.name for thread in threading.enumerate()]}")


# -- all of it ---------------------------------------------------------------------------------------------------------


def soak(given: argparse.Namespace) -> tuple[list[Sides], str, list[str]]:
    problems: list[str] = []
    samples = Samples()
    over = threading.Event()
    results: dict[str, Any] = {}
    seen = {"asyncio": Seen(), "threads": Seen()}
    pausing = tuple(fault for fault in FAULTS if "idle" not in fault) + OF_PAUSING_USERS
    with tempfile.TemporaryDirectory() as folder, leaves_nothing_over(problems):
        delay_s = given.delay_ms / 1000
        servers = {
            name: Server(folder, name, faults, delay_s, given.seed)
            for name, faults in (("asyncio", pausing), ("threads", pausing), ("engine", FAULTS))
        }

        def do(name: str, work: Callable[..., Any], *arguments: Any) -> threading.Thread:
            def keep() -> None:
                results[name] = work(*arguments)

            thread = threading.Thread(target=guarded, args=(problems, over, keep), name=name)
            thread.start()
            return thread

        loads = [
            do(
                "asyncio",
                lambda: uvloop.run(asyncio_load(servers["asyncio"], given.users, over, seen["asyncio"], problems)),
            ),
            do("threads", thread_load, servers["threads"], given.users, over, seen["threads"], problems),
            do("engine", engine_load, servers["engine"], given.seconds, problems),
        ]
        killer = do("killer", kill_now_and_then, list(servers.values()), given.kill_every, over)
        ends_at = monotonic() + given.seconds
        while monotonic() < ends_at and not over.is_set():
            samples.take()
            over.wait(1.0)
        over.set()
        for thread in (killer, *loads):
            thread.join(60)
        for server in servers.values():
            with contextlib.suppress(ServerError):
                server.stop()
        sides = [
            sides_of_users(name, seen[name], results[name], servers[name])
            for name in ("asyncio", "threads")
            if name in results
        ]
        if "engine" in results:
            sides.append(sides_of_engine(results["engine"], servers["engine"]))
    problems += [problem for each in sides for problem in each.problems()]
    problems += samples.problems()
    memory = f"this process: {samples}; the worker of kabench run: {results['engine'].client.max_rss_mb:.0f} MB at most"
    return sides, memory if "engine" in results else str(samples), problems


def report(sides: list[Sides], seconds: float) -> list[Table]:
    style: dict[str, Any] = {"title_justify": "left", "box": None, "padding": (0, 2, 0, 0), "pad_edge": False}
    outcomes = Table(title=f"{seconds:g} s, {sides[0].kills} kills of each server", **style)
    counts = Table(title="both sides: client, server, and how far apart they may be", **style)
    for table in (outcomes, counts):
        table.add_column("", overflow="fold")
        for each in sides:
            table.add_column(each.name, justify="right")
    for kind in sorted({kind for each in sides for kind in each.ended}):
        outcomes.add_row(kind, *(str(each.ended[kind]) for each in sides))
    outcomes.add_row("sent again", *(str(each.retries) for each in sides))
    outcomes.add_row(
        "availability",
        *(f"{100 * each.ended['answered'] / max(1, each.begun - each.ended['left']):.2f} %" for each in sides),
        end_section=True,
    )
    for kind in sorted({kind for each in sides for kind in each.server.faults}):
        outcomes.add_row(f"fault: {kind}", *(str(each.server.faults.get(kind, 0)) for each in sides))
    for index, (what, *_) in enumerate(sides[0].rows()):
        rows = [each.rows()[index] for each in sides]
        counts.add_row(what, *(f"{left}, {right} (±{apart})" for _, left, right, apart in rows))
    return [outcomes, counts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--users", type=int, default=30, help="of each kind of agent")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay-ms", type=float, default=5.0, help="of the servers")
    parser.add_argument("--kill-every", type=float, default=20.0, metavar="S")
    given = parser.parse_args()
    sides, memory, problems = soak(given)
    console = Console(width=118, highlight=False)
    for table in report(sides, given.seconds):
        console.print(table)
    console.print(memory)
    console.print("nothing lost, nothing left over, nothing unexplained" if not problems else "\n".join(problems[:50]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
