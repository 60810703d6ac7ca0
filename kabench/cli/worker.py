"""`kabench worker`: joins a distributed run."""

from __future__ import annotations

import threading
from functools import partial
from typing import Annotated

import typer

from kabench.cli.errors import CommandError
from kabench.cli.panels import Panel
from kabench.cli.parse import address, duration
from kabench.system.signals import stopping

_option = partial(typer.Option, rich_help_panel=Panel.WORKERS)


def worker(
    master: Annotated[
        str, _option("--master", metavar="HOST[:PORT]", help="Join kabench run at this address (required; port 5557).")
    ],
    workers: Annotated[
        int, _option("--workers", "-w", min=1, metavar="N", help="Start N workers, each a process.")
    ] = 1,
    max_wait: Annotated[
        float, _option("--max-wait", metavar="TIME", parser=duration, help="Look for the master for this long.")
    ] = "1m",  # type: ignore[assignment]  # typer parses a default like the text that a user gives
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only errors.", rich_help_panel=Panel.OUTPUT)
    ] = False,
) -> None:
    """Join a kabench run --distributed from another machine.

    A worker sends load to any address that its master names: join only a master that you trust.
    """
    from kabench.cli.distributed import LOCUST_PORT
    from kabench.cli.extras import needs_locust
    from kabench.distributed.processes import start_worker

    host, port = address("--master", master, LOCUST_PORT)
    needs_locust("a worker")
    started = [start_worker(host, port, max_wait, quiet=quiet) for _ in range(workers)]

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
