"""One way to ask any of the agents, so that a test is written once for all: asyncio's on both loops, and threads."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import pytest

from kabench.agent import AgentError, AsyncKeepAliveAgent, KeepAliveAgent, TlsOptions
from tests.agent.threads import ONCE
from tests.sockets import LOOPS

if TYPE_CHECKING:
    from types import TracebackType

    from kabench.agent import AgentStatus
    from kabench.agent.book import SocketBook
    from kabench.agent.sync.response import AgentResponse

KINDS = [*sorted(LOOPS), "threads"]
each_agent = pytest.mark.parametrize("kind", KINDS)


@dataclass(frozen=True)
class Answer:
    """What a request came back with."""

    status: int
    data: bytes
    reused: bool
    retried: bool = False
    headers: Any = None


class AnyAgent(Protocol):
    """An agent, asked one request at a time. Between two, nothing turns its event loop."""

    def ask(self, method: str, url: str, **options: Any) -> Answer:
        """Send a request. Raises our error, whatever it was wrapped in."""

    def let_pass(self, seconds: float) -> None:
        """Wait, with the event loop turning."""

    def status(self) -> AgentStatus:
        """The agent's status."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class _OnLoop:
    def __init__(self, loop_name: str, **options: Any) -> None:
        self._runner = asyncio.Runner(loop_factory=LOOPS[loop_name])
        ca_data = options.pop("ca_data", None)
        tls = None if ca_data is None else TlsOptions(ca_data=ca_data)
        self.agent = AsyncKeepAliveAgent(tls=tls, **options)

    def ask(self, method: str, url: str, **options: Any) -> Answer:
        response = self._runner.run(asyncio.wait_for(self.agent.request(method, url, **options), 60))
        return Answer(response.status, response.data, response.reused_socket, response.retried, response.headers)

    def let_pass(self, seconds: float) -> None:
        self._runner.run(asyncio.sleep(seconds))

    def status(self) -> AgentStatus:
        assert not self.agent.book.contradictions()
        return self.agent.get_current_status()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self.agent.close())
        self._runner.close()


class _InThreads:
    def __init__(self, **options: Any) -> None:
        ca_data = options.pop("ca_data", None)
        self.agent = KeepAliveAgent(**options, **({} if ca_data is None else {"ca_cert_data": ca_data}))

    def ask(self, method: str, url: str, **options: Any) -> Answer:
        ours: AgentError | None = None
        try:
            made = cast("AgentResponse", self.agent.request(method, url, **{"retries": ONCE, **options}))
        except Exception as error:
            ours = our_error(error)
            if ours is None:
                raise
        if ours is not None:
            raise ours  # with the cause that it had
        return Answer(made.status, made.data, made.reused_socket, made.retried, made.headers)

    def let_pass(self, seconds: float) -> None:
        import time

        time.sleep(seconds)

    def status(self) -> AgentStatus:
        assert not self.agent.keeper.contradictions()
        return self.agent.get_current_status()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.close()


def any_agent(kind: str, **options: Any) -> AnyAgent:
    """An agent of a kind of `KINDS`; `ca_data` is the authority of an https server."""
    return _InThreads(**options) if kind == "threads" else _OnLoop(kind, **options)


def our_error(error: BaseException | None) -> AgentError | None:
    """The error of ours that another one was made of."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, AgentError):
            return found
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
    return None


def book_of(agent: AnyAgent) -> SocketBook[Any, Any]:
    """The book that an agent acts by."""
    inside = cast("Any", agent).agent
    with contextlib.suppress(AttributeError):
        return cast("SocketBook[Any, Any]", inside.keeper.book)
    return cast("SocketBook[Any, Any]", inside.book)
