"""Runs the proxy in the foreground, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from kabench.proxy.server import Proxy
from kabench.system.limits import allow_open_sockets
from kabench.system.listening import cannot_listen
from kabench.system.loop import run, stop_event

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
    """Pass requests on until a signal to stop.

    `listening` is called with the URL once clients are accepted, and `tell` with both agents' figures every `every_s`
    seconds (0: never before the end) and at the end. Raises `ProxyError` if it cannot listen, and `ValueError` for
    TLS options that cannot be used.
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
        raise ProxyError(cannot_listen(options.host, options.port, error)) from None
    with stop_event() as stop:
        listening(proxy.url)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_s or None)
            tell(proxy.figures())
        await proxy.stop()
