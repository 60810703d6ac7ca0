"""`kabench worker`: joins a distributed run."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from kabench.cli.errors import CommandError
from kabench.cli.parse import address, duration
from kabench.system.signals import stopping


def worker(
    master: Annotated[
        str, typer.Option("--master", metavar="HOST[:PORT]", help="Join kabench run at this address (port 5557).")
    ],
    processes: Annotated[
        int, typer.Option("--processes", min=1, metavar="N", help="Start N workers, each a process.")
    ] = 1,
    wait: Annotated[
        float, typer.Option("--wait", metavar="DURATION", parser=duration, help="Look for the master for this long.")
    ] = "1m",  # type: ignore[assignment]  # typer parses a default like the text that a user gives
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
) -> None:
    """Join a kabench run --distributed from another machine.

    A worker sends load to any address that its master names: join only a master that you trust.
    """
    from kabench.cli.distributed import LOCUST_PORT
    from kabench.cli.extras import needs_locust
    from kabench.distributed.processes import start_worker

    host, port = address("--master", master, LOCUST_PORT)
    needs_locust("a worker")
    started = [start_worker(host, port, wait, quiet=quiet) for _ in range(processes)]

    interrupted = threading.Event()

    def leave() -> None:
        interrupted.set()
        for process in started:
            process.terminate()

    with stopping(leave):
        codes = [process.wait() for process in started]
    worst = max(CommandError.COULD_NOT_MEASURE if code < 0 else code for code in codes)
    if interrupted.is_set():
        raise typer.Exit(CommandError.INTERRUPTED)
    if worst:
        raise typer.Exit(worst)
