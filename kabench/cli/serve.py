"""`kabench serve`: the delayed echo server."""

from __future__ import annotations

import contextlib
import random
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kabench.cli import parse, server_options
from kabench.cli.errors import CommandError, not_listening

if TYPE_CHECKING:
    from kabench.server import ServerCounts
    from kabench.server.echo import EchoServer


def serve(
    host: server_options.Host = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, metavar="PORT", help="0 takes any free port.")
    ] = 8080,
    delay: Annotated[
        float,
        typer.Option(
            "--delay", parser=parse.duration, metavar="DURATION", help="Before each answer; /20 waits 20 ms instead."
        ),
    ] = "5ms",  # type: ignore[assignment]  # typer parses a default like the text that a user gives
    keep_alive: Annotated[bool, typer.Option(help="Keep sockets open between requests.")] = True,
    hint: Annotated[
        int | None, typer.Option("--hint", min=0, metavar="SECONDS", help="Send 'Keep-Alive: timeout=SECONDS'.")
    ] = None,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            "--idle-timeout",
            parser=parse.duration,
            metavar="DURATION",
            help="Close a socket that is idle for this long (never).",
        ),
    ] = None,
    max_requests: Annotated[
        int | None,
        typer.Option("--max-requests", min=1, metavar="N", help="Close a socket after so many requests (never)."),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Speak https, with a throw-away certificate unless --cert is given.")
    ] = False,
    cert: Annotated[
        str | None, typer.Option("--cert", metavar="FILE", help="The certificate, PEM; implies --tls.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="FILE", help="Its key, PEM; without it, in the certificate's file.")
    ] = None,
    fault: Annotated[
        list[Any] | None,
        typer.Option(
            "--fault",
            parser=parse.fault,
            metavar="FAULT",
            help="Do something wrong now and then; may be repeated. To requests: reset:1%, close-mid-body:1%, "
            "garbage:1%, extra-bytes:1%, no-length:1%, slow-body:1s:1%, stall:1s:1%; stall:1s/5s stalls them all for "
            "1 s in each 5. To sockets: close-idle:2s, drop-idle:2s (neither answers nor closes), refuse:1%; "
            "refuse:1s/9s lets nobody in for 1 s in each 9.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="For whom faults hit, to repeat a run (any, and said).")
    ] = None,
    counts: Annotated[
        str | None,
        typer.Option(
            "--counts",
            metavar="FILE",
            help="Count in this file, which outlives even a SIGKILL; a server started again counts on. To read it: "
            "python -m kabench.server counts FILE",
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
    """Answer each request after a delay with what it was.

    The answer is JSON: timeout (ms), headers, size and data of the request. /MS answers after MS milliseconds;
    ?size=N answers with N bytes, ?status=N with that status, ?chunked=1 in chunks. Ends on Ctrl-C.
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
            typer.echo(f"kabench serve: clients trust it by --cacert {path}, which is there as long as this runs")
        sys.stdout.flush()

    try:
        options = ServerOptions(
            host=host,
            port=port,
            delay_s=delay,
            keep_alive=keep_alive,
            keep_alive_hint=hint,
            idle_timeout_s=idle_timeout or None,
            max_requests_per_socket=max_requests,
            tls=tls or cert is not None,
            cert_file=cert,
            key_file=key,
            faults=tuple(fault or ()),
            seed=random.randrange(1 << 31) if seed is None else seed,  # noqa: S311  # it is said, to be repeated
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


def _lines_of(counted: ServerCounts) -> list[str]:
    """What was counted, in words; what did not happen is left out."""
    lines = [f"{counted.requests} requests on {counted.sockets} sockets"]
    others = {
        "refused requests": counted.bad_requests,
        "refused sockets": counted.refused_sockets,
        "unanswered requests": counted.unanswered,
    }
    lines += [", ".join(f"{count} {name}" for name, count in others.items() if count)]
    lines += [", ".join(f"{kind} {count}" for kind, count in counted.faults.items())]
    return [line for line in lines if line]
