"""The echo server as the one thing a process does, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from kabench.server.certificate import CertificateError
from kabench.server.counts import CountsFileError
from kabench.server.echo import EchoServer, listen_error
from kabench.server.embedded import ServerError
from kabench.system.limits import allow_open_sockets
from kabench.system.loop import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.server.counts import ServerCounts
    from kabench.server.options import ServerOptions


def serve_until_signal(options: ServerOptions, listening: Callable[[EchoServer], None]) -> ServerCounts:
    """Serve until SIGINT or SIGTERM; `listening` is told once sockets are accepted. What was counted.

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
        raise ServerError(f"cannot listen on {options.host}:{options.port}: {listen_error(error)}") from None
    stop = stop_signal()
    listening(server)
    await stop.wait()
    await server.stop()
    return server.snapshot()


def stop_signal() -> asyncio.Event:
    """Set by SIGINT or SIGTERM from now on, in the running loop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
