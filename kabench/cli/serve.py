"""`kabench serve`: the delayed echo server."""

from __future__ import annotations

import contextlib
import random
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kabench.cli import parse, server_options
from kabench.cli.errors import CommandError, not_listening
from kabench.cli.panels import Panel

if TYPE_CHECKING:
    from kabench.server import ServerCounts
    from kabench.server.echo import EchoServer

_listening = partial(typer.Option, rich_help_panel=Panel.LISTENING)
_answers = partial(typer.Option, rich_help_panel=Panel.ANSWERS)
_faults = partial(typer.Option, rich_help_panel=Panel.FAULTS)


def serve(
    host: server_options.Host = "127.0.0.1",
    port: server_options.Port = 8080,
    tls: Annotated[
        bool, _listening("--tls", help="Speak https, with a throw-away certificate unless --cert is given.")
    ] = False,
    cert: Annotated[
        str | None, _listening("--cert", metavar="FILE", help="Use this certificate (PEM); implies --tls.")
    ] = None,
    key: Annotated[
        str | None,
        _listening("--key", metavar="FILE", help="Read the certificate's key from here (PEM; --cert's file)."),
    ] = None,
    delay: Annotated[
        float,
        _answers(
            "--delay",
            parser=parse.duration,
            metavar="TIME",
            help="Wait this long before each answer; the path /20 waits 20 ms.",
        ),
    ] = "5ms",  # type: ignore[assignment]  # typer parses a default like the text that a user gives
    keep_alive: Annotated[
        bool, _answers("--keep-alive/--no-keep-alive", help="Keep sockets open between requests.")
    ] = True,
    hint: Annotated[
        int | None, _answers("--hint", min=0, metavar="SECONDS", help="Send 'Keep-Alive: timeout=SECONDS'.")
    ] = None,
    idle_timeout: Annotated[
        float | None,
        _answers(
            "--idle-timeout",
            parser=parse.duration,
            metavar="TIME",
            help="Close a socket that has been idle for this long (never).",
        ),
    ] = None,
    max_requests_per_socket: Annotated[
        int | None,
        _answers("--max-requests-per-socket", min=1, metavar="N", help="Close a socket after N requests (never)."),
    ] = None,
    fault: Annotated[
        list[Any] | None,
        _faults(
            "--fault",
            parser=parse.fault,
            metavar="FAULT",
            help="Misbehave now and then; may be repeated. Requests: reset:1%, garbage:1%, close-mid-body:1%, "
            "no-length:1%, extra-bytes:1%, slow-body:1s:1%, stall:1s:1%; stall:1s/5s stalls all for 1 s in every 5. "
            "Sockets: close-idle:2s, drop-idle:2s (neither answers nor closes), refuse:1%; refuse:1s/9s refuses all "
            "for 1 s in every 9.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        _faults("--seed", metavar="N", help="Repeat the faults of another run with this seed (random, and printed)."),
    ] = None,
    counts: Annotated[
        str | None,
        typer.Option(
            "--counts",
            metavar="FILE",
            help="Keep the counts in this file, which survives even a SIGKILL; a restarted server goes on counting. To "
            "read it: python -m kabench.server counts FILE",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = None,
    max_connections: server_options.MaxConnections = None,
    max_head: server_options.MaxHead = None,
    max_body: server_options.MaxBody = None,
    max_held: server_options.MaxHeld = None,
    head_timeout: server_options.HeadTimeout = None,
    request_timeout: server_options.RequestTimeout = None,
    send_timeout: server_options.SendTimeout = None,
) -> None:
    """Answer each request after a delay, with an echo of it.

    The answer is JSON: timeout (ms), headers, size and data of the request. /MS answers after MS milliseconds;
    ?size=N answers with N bytes, ?status=N with that status, ?chunked=1 in chunks. Ctrl-C ends the server.
    """
    from kabench.server import ServerError, ServerOptions
    from kabench.server.certificate import as_file
    from kabench.server.foreground import serve_until_signal

    files = contextlib.ExitStack()

    def say_where(server: EchoServer) -> None:
        typer.echo(f"kabench serve: {server.url} (answers after {delay * 1000:g} ms)")
        if fault:
            typer.echo(f"kabench serve: faults from --seed {server.options.seed}")
        if server.ca_data is not None:
            path = files.enter_context(as_file(server.ca_data))
            typer.echo(f"kabench serve: clients trust it with --cacert {path}; the file exists while the server runs")
        sys.stdout.flush()

    try:
        options = ServerOptions(
            host=host,
            port=port,
            delay_s=delay,
            keep_alive=keep_alive,
            keep_alive_hint=hint,
            idle_timeout_s=idle_timeout or None,
            max_requests_per_socket=max_requests_per_socket,
            tls=tls or cert is not None,
            cert_file=cert,
            key_file=key,
            faults=tuple(fault or ()),
            seed=random.randrange(1 << 31) if seed is None else seed,  # noqa: S311  # it is printed, to be repeated
            counts_file=counts,
            limits=server_options.limits_from(
                max_connections=max_connections,
                max_head=max_head,
                max_body=max_body,
                head_timeout=head_timeout,
                request_timeout=request_timeout,
                send_timeout=send_timeout,
                max_held=max_held,
            ),
        )
        with files:
            counted = serve_until_signal(options, say_where)
    except ServerError as error:
        raise not_listening(error) from None
    except ValueError as error:
        raise CommandError(str(error)) from None
    for line in _lines_of(counted):
        typer.echo(f"kabench serve: {line}", err=True)


def _lines_of(counts: ServerCounts) -> list[str]:
    """Return the counts as lines of text, without those that are 0."""
    from kabench.report.words import counted

    lines = [f"{counted(counts.requests, 'request')} on {counted(counts.sockets, 'socket')}"]
    others = {
        "refused request": counts.bad_requests,
        "refused socket": counts.refused_sockets,
        "unanswered request": counts.unanswered,
    }
    lines += [", ".join(counted(count, name) for name, count in others.items() if count)]
    lines += [", ".join(f"{kind} {count}" for kind, count in counts.faults.items())]
    return [line for line in lines if line]
