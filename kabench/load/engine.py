"""`run`: carries a plan out, agent by agent, each in a fresh worker process beside the server's."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import queue
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kabench import __version__
from kabench.load.agents import check_spec
from kabench.load.messages import Counts, Done, Failed, Message, Progress, Second, Task, decode, encode
from kabench.load.tally import Tally
from kabench.result import AgentRun, Environment, RunResult, WorkerRecord, new_id
from kabench.server import EmbeddedServer, ServerOptions
from kabench.server.child import end_child, start_child

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence

    from kabench.load.plan import LoadPlan

_LOOK_AFTER_SERVER_EVERY_S = 0.1
_MEASURED_WITH = ("httptools", "uvloop", "hdrhistogram", "urllib3")


class TargetUnreachableError(ConnectionError):
    """No user could open a socket to the target."""


class MeasurementError(RuntimeError):
    """A run could not be finished. `result` is what was measured until then."""

    def __init__(self, why: str, result: RunResult) -> None:
        super().__init__(why)
        self.result = result


@dataclass(frozen=True, slots=True)
class AgentProgress:
    """How far one agent is. `expected_transactions` None: it ends with time, at `duration_s`."""

    agent: str
    elapsed_s: float
    transactions: int
    socket_errors: int
    expected_transactions: int | None
    duration_s: float | None


class RunControl:
    """Stops a run from a signal handler or another thread."""

    def __init__(self) -> None:
        self.stopped = False
        self._worker: _WorkerProcess | None = None

    def stop(self) -> None:
        """Stop the load; `run` returns what was measured, marked interrupted."""
        self.stopped = True
        if self._worker is not None:
            self._worker.stop()

    def attend(self, worker: _WorkerProcess | None) -> None:
        """Note whom to stop."""
        self._worker = worker
        if self.stopped and worker is not None:
            worker.stop()


def run(
    plan: LoadPlan,
    agents: Sequence[str] = ("keepalive", "plain"),
    *,
    name: str | None = None,
    on_progress: Callable[[AgentProgress], None] | None = None,
    control: RunControl | None = None,
) -> RunResult:
    """Carry a plan out through each agent in turn.

    Raises `AgentSpecError` for an unknown agent, `ServerError` if kabench's own server cannot start,
    `TargetUnreachableError` if nobody answers at the URL, and `MeasurementError` if the server or a worker died or an
    agent had no successful transaction: that one carries what was measured.
    """
    for spec in agents:
        check_spec(spec)
    control = control or RunControl()
    started_at = datetime.now(UTC)
    run_of = _Run(plan, on_progress, control)
    server = EmbeddedServer(ServerOptions(delay_s=plan.delay_s, tls=plan.tls)) if plan.url is None else None
    try:
        for spec in agents:
            run_of.carry_out(spec, server)
            if control.stopped or run_of.problem is not None:
                break
    finally:
        if server is not None:
            server.stop()
    result = RunResult(
        id=new_id(),
        name=name or "run",
        kabench_version=__version__,
        started_at=started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        environment=_environment(run_of.event_loop),
        plan=plan.as_record(),
        runs=run_of.runs,
    )
    problem = run_of.problem
    if problem is None and not control.stopped:
        fruitless = [r.agent for r in run_of.runs if not r.successful_transactions]
        if fruitless:
            problem = f"{', '.join(fruitless)}: not one successful transaction"
    if problem is not None:
        raise MeasurementError(problem, result)
    return result


class _Run:
    """One run under way."""

    def __init__(
        self, plan: LoadPlan, on_progress: Callable[[AgentProgress], None] | None, control: RunControl
    ) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._control = control
        self.runs: list[AgentRun] = []
        self.problem: str | None = None
        self.event_loop = "unknown"

    def carry_out(self, spec: str, server: EmbeddedServer | None) -> None:
        """Send the load through one agent and add its `AgentRun`, or what there is of it."""
        url = self._plan.url if server is None else server.url
        ca_data = None if server is None else server.ca_data
        worker = _WorkerProcess(Task(self._plan.to_message(), spec, url or "", ca_data))
        if server is not None:
            _separate(server.process, worker.process)
        tally = Tally(spec, WorkerRecord(name="worker-1", host=socket.gethostname(), transactions=0))
        self._control.attend(worker)
        done: Done | None = None
        elapsed_s = 0.0
        try:
            for message in worker.messages():
                if server is not None and self.problem is None and not server.is_running:
                    self.problem = f"the echo server died ({_ending(server.process)}) while {spec} was under way"
                    worker.stop()
                match message:
                    case Counts():
                        tally.add_counts(message)
                    case Second():
                        tally.end_second(message)
                        elapsed_s = message.elapsed_s
                    case Progress():
                        elapsed_s = message.elapsed_s
                        self._report(spec, message)
                    case Done():
                        done = message
                    case Failed(why=why):
                        self.problem = f"the worker could not begin: {why}"
                    case None:
                        pass
        finally:
            self._control.attend(None)
            worker.end()
        if done is None:
            self.problem = self.problem or f"worker-1 died ({_ending(worker.process)}) while {spec} was under way"
        elif done.unreachable is not None:
            if not self.runs:
                raise TargetUnreachableError(done.unreachable)
            self.problem = f"nobody answers {spec}: {done.unreachable}"
        if done is not None:
            self.event_loop = done.event_loop
        self.runs.append(
            tally.agent_run(
                interrupted=self._control.stopped or self.problem is not None,
                lost_at_s=round(elapsed_s, 6) if done is None else None,
            )
        )

    def _report(self, spec: str, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(
                AgentProgress(
                    agent=spec,
                    elapsed_s=progress.elapsed_s,
                    transactions=progress.transactions,
                    socket_errors=progress.socket_errors,
                    expected_transactions=self._plan.expected_transactions,
                    duration_s=self._plan.duration_s,
                )
            )


class _WorkerProcess:
    """A worker process and what it says. A thread reads, so that a slow reader of progress does not slow the worker."""

    def __init__(self, task: Task) -> None:
        self.process = start_child([sys.executable, "-m", "kabench.load"])
        self._heard: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._tell(encode(task))

    def _tell(self, line: bytes) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, which its messages show
                os.write(self.process.stdin.fileno(), line)

    def _listen(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                try:
                    self._heard.put(decode(line))
                except msgspec.DecodeError:
                    break  # cut off in the middle: it is dying
        self._heard.put(None)

    def messages(self) -> Iterator[Message | None]:
        """What it says, to the end; None in between, as a chance to look after other things."""
        while True:
            try:
                message = self._heard.get(timeout=_LOOK_AFTER_SERVER_EVERY_S)
            except queue.Empty:
                yield None
                continue
            if message is None:
                return
            yield message

    def stop(self) -> None:
        """Have it stop and say what it has."""
        self._tell(b"stop\n")

    def end(self) -> None:
        """See its process end."""
        end_child(self.process)
        self._listener.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


def _separate(server: subprocess.Popen[bytes], worker: subprocess.Popen[bytes]) -> None:
    """Give the server the last core and the worker the others, where the system lets one: they wake each other all
    the time, and a scheduler that puts both on one core makes them take turns.
    """
    if sys.platform != "linux":
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        with contextlib.suppress(OSError):  # not allowed, or one of them has ended; the load does not depend on it
            os.sched_setaffinity(server.pid, cores[-1:])
            os.sched_setaffinity(worker.pid, cores[:-1])


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    if code is None:
        return "still running"
    if code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _environment(event_loop: str) -> Environment:
    versions = {}
    for package in _MEASURED_WITH:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Environment(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        event_loop=event_loop,
        platform=platform.platform(),
        cpu_model=_cpu_model(),
        cpu_count=os.cpu_count() or 1,
        versions=versions,
    )


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
