"""The proxy as the one thing a process does, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from kabench.proxy.server import Proxy
from kabench.server.echo import listen_error
from kabench.server.foreground import stop_signal
from kabench.system.limits import allow_open_sockets
from kabench.system.loop import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.proxy.options import ProxyOptions
    from kabench.proxy.server import AgentFigures


class ProxyError(RuntimeError):
    """The proxy could not start."""


def proxy_until_signal(
    options: ProxyOptions,
    every_s: float,
    listening: Callable[[str], None],
    tell: Callable[[list[AgentFigures]], None],
) -> None:
    """Pass requests on until SIGINT or SIGTERM.

    `listening` is told the URL once clients are accepted, `tell` both agents' figures every so many seconds (0: not
    until the end) and at the end. Raises `ProxyError` if it cannot listen, `ValueError` for TLS options that cannot be
    used.
    """
    allow_open_sockets()
    run(_proxy(options, every_s, listening, tell))


async def _proxy(
    options: ProxyOptions,
    every_s: float,
    listening: Callable[[str], None],
    tell: Callable[[list[AgentFigures]], None],
) -> None:
    proxy = Proxy(options)
    try:
        await proxy.start()
    except (OSError, UnicodeError) as error:
        raise ProxyError(f"cannot listen on {options.host}:{options.port}: {listen_error(error)}") from None
    stop = stop_signal()
    listening(proxy.url)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every_s or None)
        tell(proxy.figures())
    await proxy.stop()
