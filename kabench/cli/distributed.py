"""`--distributed`: how a run gets its workers, and what it prints while they join."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from kabench.cli.errors import CommandError, say
from kabench.cli.extras import needs_locust
from kabench.cli.parse import AUTO, address
from kabench.cli.plan import plan_of
from kabench.distributed.processes import end_workers, start_worker
from kabench.load.workers.local import LocalWorkers

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence

    from kabench.cli.options import LoadOptions
    from kabench.distributed.remote_workers import Arrival, MasterProcess
    from kabench.load import LoadPlan, RunControl
    from kabench.load.figures.messages import Task
    from kabench.load.workers.workers import Workers

LOCUST_PORT = 5557
_LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("*", "0.0.0.0", "[::]")  # noqa: S104  # compared with, not listened on
_LOCAL_PATIENCE_S = 30.0
_MAX_WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class DistributedOptions:
    """The options that say where workers come from; `started` are the `--workers` of this machine."""

    distributed: bool
    expect_workers: int | None
    started: int | None
    bind: str | None
    max_wait_s: float | None

    @property
    def expected(self) -> int:
        """The number of workers to wait for."""
        return self.expect_workers or self.started or 1

    @property
    def address(self) -> tuple[str, int]:
        """The address that workers connect to. If all of them are started here, it is a free port of loopback."""
        if self.bind is not None:
            return address("--bind", self.bind, LOCUST_PORT)
        return _LOOPBACK, 0 if self.expect_workers in (None, self.started) else LOCUST_PORT

    def plan_of(self, load: LoadOptions) -> LoadPlan:
        """Return the plan, shared by the workers. Raises `CommandError` if options contradict each other."""
        if not self.distributed:
            given: dict[str, object] = {
                "--expect-workers": self.expect_workers,
                "--bind": self.bind,
                "--max-wait": self.max_wait_s,
            }
            for option, value in given.items():
                if value is not None:
                    raise CommandError(f"{option} is for --distributed")
            return plan_of(load)
        self._check()
        try:
            plan = plan_of(dataclasses.replace(load, workers=self.expected))
        except CommandError as error:
            option = "--workers" if self.expect_workers is None else "--expect-workers"
            raise CommandError(str(error).replace("--workers", option)) from None
        if plan.has_own_server and not _is_loopback(self.address[0]):
            raise CommandError(
                "--distributed: name a URL; kabench's own server listens on loopback, which other machines cannot reach"
            )
        needs_locust("--distributed")
        return plan

    def _check(self) -> None:
        if self.started == AUTO:
            raise CommandError("--workers auto is for one machine; with --distributed, say how many to start here")
        if self.expect_workers is None and self.started is None:
            raise CommandError(
                "--distributed: how many workers? --expect-workers N waits for them, --workers N starts them here"
            )
        if self.expect_workers is not None and (self.started or 0) > self.expect_workers:
            raise CommandError(f"--workers: {self.started} is more than --expect-workers {self.expect_workers}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def workers_of(options: DistributedOptions, control: RunControl) -> Iterator[Callable[[Sequence[Task]], Workers]]:
    """Yield the function that gives tasks to workers: to local ones, or, with --distributed, to those of a master.

    Raises `CommandError` if workers are missing, and exits if the user stops waiting for them.
    """
    if not options.distributed:
        yield LocalWorkers
        return
    from kabench.distributed.remote_workers import MasterError, MasterProcess, WorkersMissingError

    host, port = options.address
    try:
        master = MasterProcess(host, port)
    except MasterError as error:
        is_taken = os.strerror(errno.EADDRINUSE) in str(error)
        advice = "; another may be free: --bind HOST:PORT" if is_taken else ""
        raise CommandError(f"--bind: {error}{advice}") from None
    here = _LOOPBACK if host in _EVERYWHERE else host
    with contextlib.closing(master), _local_workers(options.started or 0, here, master.port) as processes:
        try:
            _wait_for_workers(options, master, host, control, processes)
        except WorkersMissingError as error:
            raise CommandError(f"{error}; to wait longer, use --max-wait", CommandError.COULD_NOT_MEASURE) from None
        except MasterError as error:
            raise CommandError(str(error), CommandError.COULD_NOT_MEASURE) from None
        if control.stopped:
            raise typer.Exit(CommandError.INTERRUPTED)
        yield master.workers_for


def _wait_for_workers(
    options: DistributedOptions,
    master: MasterProcess,
    host: str,
    control: RunControl,
    processes: Sequence[subprocess.Popen[bytes]],
) -> None:
    at = f"{socket.gethostname() if host in _EVERYWHERE else host}:{master.port}"
    missing = options.expected - len(processes)
    if missing > 0:
        say(f"Waiting for {missing} worker{'s' if missing > 1 else ''}: kabench worker --master {at}")

    def arrived(arrival: Arrival) -> None:
        if arrival.version is not None:
            from kabench.version import __version__

            say(f"A worker on {arrival.host} was turned away: it runs kabench {arrival.version}, this is {__version__}")
        elif arrival.joined > arrival.expected:
            say(f"{arrival.name} on {arrival.host} has joined; it is kept in reserve")
        else:
            say(f"{arrival.name} on {arrival.host} has joined, {arrival.joined} of {arrival.expected}")

    def goes_on() -> bool:
        for process in processes:
            if process.poll() is not None:
                raise CommandError(
                    f"a worker of --workers ended with exit code {process.returncode}", CommandError.COULD_NOT_MEASURE
                )
        return not control.stopped

    master.wait_for(options.expected, options.max_wait_s or _MAX_WAIT_S, arrived, goes_on)


@contextlib.contextmanager
def _local_workers(count: int, host: str, port: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start workers on this machine, and end them with the context. They also end when the master does."""
    processes = [start_worker(host, port, _LOCAL_PATIENCE_S, quiet=True) for _ in range(count)]
    try:
        yield processes
    finally:
        end_workers(processes)
