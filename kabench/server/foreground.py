"""Runs the echo server in the foreground, until a signal ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kabench.server.certificate import CertificateError
from kabench.server.counts import CountsFileError
from kabench.server.echo import EchoServer
from kabench.server.embedded import ServerError
from kabench.system.limits import allow_open_sockets
from kabench.system.listening import cannot_listen
from kabench.system.loop import run, stop_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.server.counts import ServerCounts
    from kabench.server.options import ServerOptions


def serve_until_signal(options: ServerOptions, listening: Callable[[EchoServer], None]) -> ServerCounts:
    """Serve until a signal to stop, and return the counts. `listening` is called once sockets are accepted.

    Raises `ServerError` if it cannot listen.
    """
    allow_open_sockets()
    return run(_serve(options, listening))


async def _serve(options: ServerOptions, listening: Callable[[EchoServer], None]) -> ServerCounts:
    try:
        server = EchoServer(options)
        await server.start()
    except (CertificateError, CountsFileError) as error:
        raise ServerError(str(error)) from None
    except (OSError, UnicodeError) as error:
        raise ServerError(cannot_listen(options.host, options.port, error)) from None
    with stop_event() as stop:
        listening(server)
        await stop.wait()
        await server.stop()
    return server.snapshot()
