"""The contract of a client, whoever wrote it: settings in, `send`, `close`, and perhaps `sockets_created`.

To measure a client of your own, write a factory, name it `package.module:factory`, and give it no more than this:

    class Client:
        def __init__(self, settings):             # a ClientSettings: limits, timeouts, TLS
            ...
        def send(self, request):                  # or async def; a Request: method, url, headers, body
            return status, body                   # an int and bytes; an exception is counted by its kind
        def close(self):                          # or async def
            ...
        def sockets_created(self):                # if it can tell
            return 0

Tasks in one event loop drive a client whose `send` is a coroutine function; threads, which share the client, drive any
other. A client must not follow redirects, keep cookies, or send failed requests again, because single requests are
measured. If an exception has a `kind`, that is its name in reports.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

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


class Client(Protocol):
    """A client, as described above; `sockets_created` may be missing."""

    def send(self, request: Request) -> tuple[int, bytes] | Awaitable[tuple[int, bytes]]:
        """Send a request and return the response's status and body."""

    def close(self) -> Awaitable[None] | None:
        """Close all sockets."""


def is_async(client: Client) -> bool:
    """Return whether a client is driven by tasks, not threads."""
    return inspect.iscoroutinefunction(client.send)


class BadAnswerError(TypeError):
    """A client's `send` returned something else than a status and a body."""

    kind = "bad_answer"


def checked_answer(answer: object) -> tuple[int, bytes]:
    """Return a client's answer if it is a status and a body. Raises `BadAnswerError` if not."""
    if isinstance(answer, tuple) and len(answer) == 2:
        status, body = answer
        if isinstance(status, int) and isinstance(body, bytes | bytearray | memoryview):
            return int(status), bytes(body)
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
    """Return a client's count of its sockets, after `requests` finished requests. A count that makes no sense is 0."""
    agent = getattr(client, "agent", None)
    if isinstance(agent, KeepsSockets):
        return counts_of(agent)
    created: object = 0
    with contextlib.suppress(Exception):
        created = getattr(client, "sockets_created", int)()
    return SocketCounts(created=created if isinstance(created, int) else 0, requests=requests)


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
