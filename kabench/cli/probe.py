"""`kabench probe`: finds out what a server does to idle sockets, and which agent settings fit it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli import file_options as files  # typer reads the annotations
from kabench.cli import parse, server_options
from kabench.cli.console import is_live_terminal, leave, progress_console, report_console
from kabench.cli.errors import CommandError, finish
from kabench.cli.panels import Panel
from kabench.system.signals import stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.probe import ProbeControl, ProbeProgress


def probe(
    url: Annotated[str, typer.Argument(metavar="URL", help="Send to this URL.", rich_help_panel=Panel.WHAT)],
    max_time: Annotated[
        float,
        typer.Option(
            "--max-time",
            parser=parse.duration,
            metavar="TIME",
            help="Finish within this time.",
            rich_help_panel=Panel.HOW_LONG,
        ),
    ] = "90s",  # type: ignore[assignment]  # typer parses a default like the text that a user gives
    max_requests: Annotated[
        int,
        typer.Option(
            "--max-requests", min=10, metavar="N", help="Send at most N requests.", rich_help_panel=Panel.HOW_LONG
        ),
    ] = 200,
    method: Annotated[
        str,
        typer.Option("--method", "-X", metavar="GET|HEAD", help="Use this method.", rich_help_panel=Panel.WHAT),
    ] = "GET",
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="NAME:VALUE",
            help="Send this header with each request; may be repeated.",
            rich_help_panel=Panel.WHAT,
        ),
    ] = None,
    cacert: server_options.CaCert = None,
    insecure: server_options.Insecure = False,
    json: files.Json = None,
) -> None:
    """Find out what a server does to idle sockets.

    The report says how long the server keeps idle sockets, how it ends them, whether its Keep-Alive hint is true, how
    many requests a socket carries, whether a request is lost that is sent while the server closes, and whether TLS
    sessions are resumed. It then lists the agent settings that fit, and why. The probe opens about twenty sockets at
    most, and sends only GET or HEAD.
    """
    from kabench.agent import TlsOptions
    from kabench.cli.outputs import check_file, check_standard_output
    from kabench.probe import ProbeOptions, UnreachableError
    from kabench.probe import probe as ask
    from kabench.probe.record import to_json
    from kabench.redaction import redacted_url
    from kabench.report.probe import render_probe

    if json == "-":
        check_standard_output("--json")
    elif json is not None:
        check_file("--json", Path(json))
    if cacert is not None and insecure:
        raise CommandError("--cacert and --insecure: give only one of them")
    try:
        options = ProbeOptions(
            url=url,
            method=method.upper(),
            headers=parse.headers(header or []),
            budget_s=max_time,
            max_requests=max_requests,
            tls=TlsOptions(verify=not insecure, ca_file=cacert) if insecure or cacert is not None else None,
        )
        with _stoppable() as control, _shown() as show:
            found = ask(options, show, control)
    except UnreachableError as error:
        raise CommandError(f"cannot reach the target: {error}", CommandError.COULD_NOT_MEASURE) from None
    except ValueError as error:
        raise CommandError(str(error)) from None
    report_console(stderr=json == "-").print(render_probe(found, redacted_url(url)))
    unsaved = None if json is None else _write(json, to_json(found))
    finish((unsaved,), interrupted=found.interrupted, broken=False)


def _write(where: str, record: bytes) -> str | None:
    """Write the record to a file or to standard output. Return why it could not be written, or None."""
    from kabench.result import ResultError, write_whole

    if where == "-":
        typer.echo(record, nl=False)
        return None
    try:
        write_whole(Path(where), record)
    except ResultError as error:
        return str(error)
    return None


@contextlib.contextmanager
def _stoppable() -> Iterator[ProbeControl]:
    """Yield a control that signals stop."""
    from kabench.probe import ProbeControl

    control = ProbeControl()
    with stopping(control.stop, leave):
        yield control


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[ProbeProgress], None]]:
    """Yield the function that shows the progress, as a line on a terminal."""
    if not is_live_terminal():
        yield lambda _: None
        return
    from kabench.report.words import counted

    with progress_console().status("probing") as status:
        yield lambda progress: status.update(
            f"{progress.elapsed_s:.0f} s: {counted(progress.idle_sockets, 'idle socket')}, {progress.ended_sockets} "
            f"ended by the server, {counted(progress.requests, 'request')}"
        )
