"""Responses, and servers that give them, for the tests of the threaded agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sockets import (
    Peer,
    answering_after,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"


def always(response: bytes) -> Callable[[Peer], Awaitable[None]]:
    return answering_after(0, response)


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def path_of(request: bytes) -> str:
    return request.split()[1].decode()
