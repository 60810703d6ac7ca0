"""`Sampler`: measures the HTTP users of one worker of a locust test, second by second.

Latencies come from locust's `request` event. Socket counts come from the users' agents: a kabench agent is found as a
user's `pool_manager`, or mounted in a user's session. Users of one class count together, under the class's name.
"""

from __future__ import annotations

import weakref
from time import process_time
from typing import TYPE_CHECKING, Any

import gevent
from locust import User

from kabench.distributed.gathering import AgentReport
from kabench.load.clients.errors import kind_of
from kabench.load.figures.environment import max_rss_mb
from kabench.load.figures.messages import NO_SOCKETS, Second, SocketCounts
from kabench.load.figures.recorder import Recorder, TargetRecorders
from kabench.load.figures.sockets import KeepsSockets, counts_of
from kabench.load.plan.target_names import without_changing_parts
from kabench.result import FIRST_FAILED_STATUS, UNEXPECTED_BODY, UNEXPECTED_STATUS

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_USER = "locust"
"""The name under which requests count that no user has sent."""

_MOST_PARENTS = 5
"""How many greenlets to go up, from one that sends to the user who started it."""


class _Agents:
    """The agents of one class of users. The counts of closed agents stay in the sum."""

    def __init__(self) -> None:
        self._agents: list[KeepsSockets] = []
        self._tells = False
        self._closed = self._before = NO_SOCKETS

    def add(self, agent: KeepsSockets) -> None:
        self._tells = True
        for each in [each for each in self._agents if _is_closed(each)]:
            self._closed = SocketCounts.sum_of((self._closed, counts_of(each)))
            self._agents.remove(each)
        self._agents.append(agent)

    def begin(self) -> None:
        self._before = self._sum()

    def _sum(self) -> SocketCounts:
        return SocketCounts.sum_of((self._closed, *(counts_of(agent) for agent in self._agents)))

    def counts(self) -> SocketCounts:
        return self._sum().since(self._before) if self._tells else SocketCounts()


class Sampler:
    """Listens to locust's `request` event. Call `take` once a second, with the time since the test began."""

    def __init__(self) -> None:
        self._names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._agents: dict[str, _Agents] = {}
        self._met: weakref.WeakSet[KeepsSockets] = weakref.WeakSet()
        self._recorders: dict[str, TargetRecorders] = {}
        self._cpu_at_zero_s = 0.0

    def begin(self) -> None:
        """Begin a test. Sockets that are open already count as created in it."""
        self._recorders.clear()
        self._cpu_at_zero_s = process_time()
        for agents in self._agents.values():
            agents.begin()

    def on_request(
        self,
        request_type: str = "",
        name: str = "",
        response_time: float | None = None,
        response_length: int = 0,
        exception: BaseException | None = None,
        response: Any = None,  # any client's
        **_: object,
    ) -> None:
        """Count an exchange. One with neither a status nor an error is not HTTP, and is ignored."""
        status = getattr(response, "status_code", None) or 0
        if response_time is None or (not status and exception is None):
            return
        user = self._name_of(gevent.getcurrent())
        recorders = self._recorders.get(user)
        if recorders is None:
            recorders = self._recorders[user] = TargetRecorders((), Recorder)
        recorder = recorders.of(_target_of(request_type, name))
        if exception is not None and not status:
            recorder.record_unanswered(kind_of(exception), response_time / 1000, was_sent=None)
            return
        unexpected = UNEXPECTED_STATUS if status >= FIRST_FAILED_STATUS else UNEXPECTED_BODY
        recorder.record_reported(
            status, response_length or 0, response_time / 1000, None if exception is None else unexpected
        )

    def _name_of(self, greenlet: Any, generations: int = _MOST_PARENTS) -> str:  # any kind of greenlet
        """Return the name for a greenlet's requests: the class of the user that it belongs to, or that started it.

        A killed greenlet no longer names its user, so each name is kept once it was found.
        """
        name = self._names.get(greenlet)
        if name is None:
            args = getattr(greenlet, "args", ())
            if args and isinstance(args[0], User):
                name = self._meet(args[0])
            else:
                started_by = getattr(greenlet, "spawning_greenlet", None)
                parent = None if started_by is None else started_by()
                name = _NO_USER if parent is None or not generations else self._name_of(parent, generations - 1)
            self._names[greenlet] = name
        return name

    def _meet(self, user: User) -> str:
        """Register a user's agents. Return the name under which the user counts."""
        name = type(user).__name__
        agents = self._agents.setdefault(name, _Agents())
        for agent in _agents_of(user):
            if agent not in self._met:  # an agent that two classes share counts with the first
                self._met.add(agent)
                agents.add(agent)
        return name

    def take(self, elapsed_s: float, *, is_part: bool = False) -> list[AgentReport]:
        """Return what was counted since the last call, and totals so far. `is_part`: the second is not over yet."""
        nothing = _Agents()
        return [
            AgentReport(
                name,
                recorder.take_counts(),
                Second(
                    elapsed_s=elapsed_s,
                    totals=recorder.totals(),
                    sockets=self._agents.get(name, nothing).counts(),
                    cpu_s=process_time() - self._cpu_at_zero_s,
                    max_rss_mb=max_rss_mb(),
                    targets=recorder.totals_of_targets(),
                ),
                sent_by_locust=True,
                is_part=is_part,
            )
            for name, recorder in self._recorders.items()
        ]


def _target_of(method: str, name: str) -> str:
    """Return the name of a request's target. locust's own names are paths with their query."""
    path, _, _ = name.partition("?") if name.startswith(("/", "http://", "https://")) else (name, "", "")
    return f"{method} {without_changing_parts(path)}".strip()


def _is_closed(agent: Any) -> bool:  # only the agents for threads say so
    keeper = getattr(agent, "keeper", None)
    return keeper is not None and keeper.is_closed


def _agents_of(user: Any) -> Iterator[KeepsSockets]:  # a user's attributes are the locust file's own
    adapters = getattr(getattr(user, "client", None), "adapters", None)
    mounted = [getattr(adapter, "agent", None) for adapter in adapters.values()] if isinstance(adapters, dict) else []
    for agent in (getattr(user, "pool_manager", None), *mounted):
        if isinstance(agent, KeepsSockets):
            yield agent
