"""`Listeners`: a server's listening sockets, one for each address of its name, and errors of listening."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_BACKLOG = 4096


class Listeners:
    """Listens on all addresses of a host.

    `port` is the one it listens on: where 0 was given, any free one, known once it listens. `accept` makes the protocol
    of each accepted socket.
    """

    def __init__(self, host: str, port: int, accept: Callable[[], asyncio.BaseProtocol]) -> None:
        self.host = host
        self.port = port
        self._accept = accept
        self._addresses: list[str] = []
        self._listeners: list[asyncio.Server] = []

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL."""
        return authority(self.host, self.port)

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return bool(self._listeners)

    async def open(self, context: ssl.SSLContext | None = None, handshake_timeout_s: float | None = None) -> None:
        """Listen; the name is looked up once. Raises `OSError`; addresses that listen by then go on until `close`."""
        loop = asyncio.get_running_loop()
        if not self._addresses:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        for address in self._addresses:
            listener = await loop.create_server(
                self._accept,
                address,
                self.port,
                backlog=_BACKLOG,
                ssl=context,
                ssl_handshake_timeout=handshake_timeout_s if context is not None else None,
            )
            self._listeners.append(listener)
            self.port = listener.sockets[0].getsockname()[1]  # a name's other addresses get the same one

    def close(self) -> None:
        """Listen no more; accepted sockets stay."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()


def authority(host: str, port: int) -> str:
    """Return host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_error(error: Exception) -> str:
    """Return why a server cannot listen, in the system's words."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
    return os.strerror(number) if number else str(error)


def cannot_listen(host: str, port: int, why: Exception | str) -> str:
    """Return the line that says where a server cannot listen, and why."""
    return f"cannot listen on {host}:{port}: {listen_error(why) if isinstance(why, Exception) else why}"
