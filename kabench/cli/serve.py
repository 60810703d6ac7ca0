"""`kabench serve`: the delayed echo server."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli import parse
from kabench.cli.errors import CommandError

if TYPE_CHECKING:
    from kabench.server.echo import EchoServer


def serve(
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="ADDRESS", help="The address to listen on; other machines reach only one of theirs."
        ),
    ] = "127.0.0.1",
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
        )
        with files:
            counts = serve_until_signal(options, say_where)
    except (ServerError, ValueError) as error:
        raise CommandError(str(error)) from None
    typer.echo(f"kabench serve: {counts.requests} requests on {counts.sockets} sockets", err=True)
