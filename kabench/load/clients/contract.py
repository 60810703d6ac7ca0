"""The contract of a client, whoever wrote it: settings in, `send`, `close`, and perhaps `sockets_created`.

To measure a client of your own, write a factory, name it `package.module:factory`, and give it no more than this:

    class Client:
        def __init__(self, settings):             # a ClientSettings: limits, timeouts, TLS
            ...
        def send(self, request):                  # or async def; a Request: method, url, headers, body
            return status, body                   # an int and bytes; an exception is counted by its kind
                                                  # (status, body, wire_bytes) if it knows how many bytes came
        def close(self):                          # or async def
            ...
        def sockets_created(self):                # if it can tell
            return 0

Tasks in one event loop drive a client whose `send` is a coroutine function; threads, which share the client, drive any
other. A client must not follow redirects or keep cookies, because single requests are measured. If it sends requests
again by itself and has a `retries()`, that is how often. What a client does not tell is null in records, never 0. If an
exception has a `kind`, that is its name in reports.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from kabench.load.figures.answer import Answer
from kabench.load.figures.messages import SocketCounts
from kabench.load.figures.sockets import KeepsSockets, counts_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from kabench.agent import AgentOptions
    from kabench.load.plan.source import Request


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Limits, timeouts and TLS that a client has to obey. Durations are in seconds, and 0 is no limit.

    `max_sockets` is for each of the `origins` that the requests go to; None is no limit.

    `agent_options` hold the same and more, as a kabench agent takes it. `ssl_context` is for https URLs.
    """

    max_sockets: int | None
    max_free_sockets: int
    free_socket_timeout_s: float
    timeout_s: float
    connect_timeout_s: float
    ssl_context: ssl.SSLContext
    agent_options: AgentOptions
    origins: int = 1


Sent: TypeAlias = tuple[int, bytes] | tuple[int, bytes, int | None]


class Client(Protocol):
    """A client, as described above; `sockets_created` and `retries` may be missing."""

    def send(self, request: Request) -> Sent | Awaitable[Sent]:
        """Send a request and return the response's status and body, and perhaps how many bytes of it came."""

    def close(self) -> Awaitable[None] | None:
        """Close all sockets."""


def is_async(client: Client) -> bool:
    """Return whether a client is driven by tasks, not threads."""
    return inspect.iscoroutinefunction(client.send)


class BadAnswerError(TypeError):
    """A client's `send` returned something else than a status and a body."""

    kind = "bad_answer"


def checked_answer(answer: object) -> Answer:
    """Return a client's answer if it is a status and a body. Raises `BadAnswerError` if not."""
    if isinstance(answer, tuple) and len(answer) in (2, 3):
        status, body, *rest = answer
        wire_bytes = rest[0] if rest else None
        is_count = wire_bytes is None or isinstance(wire_bytes, int)
        if isinstance(status, int) and isinstance(body, bytes | bytearray | memoryview) and is_count:
            return Answer(int(status), bytes(body), wire_bytes)
    if inspect.iscoroutine(answer):
        answer.close()
    raise BadAnswerError(f"send returned {type(answer).__name__}, not a status and a body")


async def close_client(client: Client) -> None:
    """Close a client, by a coroutine or not. Ignore what it raises: everything has been measured."""
    with contextlib.suppress(Exception):
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing


def socket_counts(client: Client, requests: int) -> SocketCounts:
    """Return a client's counts of its sockets and retries, after `requests` finished requests."""
    agent = getattr(client, "agent", None)
    if isinstance(agent, KeepsSockets):
        counts = counts_of(agent)
        resent_by_client = _told(client, "retries")
        if counts.retries is None or resent_by_client is None:
            return counts
        return msgspec.structs.replace(counts, retries=counts.retries + resent_by_client)
    return SocketCounts(created=_told(client, "sockets_created"), retries=_told(client, "retries"), requests=requests)


def _told(client: Client, name: str) -> int | None:
    """Return what a method of a client tells; None if it has no such method, or does not return a number."""
    with contextlib.suppress(Exception):
        told = getattr(client, name)()
        return told if isinstance(told, int) else None
    return None


def load_factory(spec: str) -> Callable[[ClientSettings], Client]:
    """Return the factory that `package.module:factory` names. Raises `ValueError` that says what is wrong with it."""
    module_name, _, path = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)  # a user's own, of any kind
    except Exception as error:
        raise ValueError(f"{spec}: {module_name} cannot be imported: {type(error).__name__}: {error}") from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f"{spec}: there is no {path} in {module_name}")
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f"{spec}: {path} cannot be called; it has to be a factory of clients")  # noqa: TRY004  # it is the spec
    factory: Callable[[ClientSettings], Client] = found
    return factory
