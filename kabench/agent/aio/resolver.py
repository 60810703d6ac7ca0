"""From a host name to addresses. Sockets that are opened to the same host at the same time share one look-up."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from functools import lru_cache


@lru_cache(maxsize=1024)
def is_address(host: str) -> bool:
    """Return whether a host is an IP address, which needs no look-up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Resolver:
    """Looks host names up in the loop's threads; one per agent. It remembers nothing once a look-up is done."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Return a host's addresses in the system's order of preference. Raises `socket.gaierror` (an `OSError`)."""
        task = self._under_way.get(host)
        if task is None:
            task = self._under_way[host] = asyncio.get_running_loop().create_task(_look_up(host))
            task.add_done_callback(lambda done: self._done(host, done))
        return await asyncio.shield(task)  # others may wait for it too

    def _done(self, host: str, task: asyncio.Task[list[str]]) -> None:
        del self._under_way[host]
        if not task.cancelled():
            task.exception()  # the waiting tasks were told; if they have all gone, asyncio need not log it


async def _look_up(host: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
