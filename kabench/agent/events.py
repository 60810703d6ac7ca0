"""`AgentEvent`: something that happens to an agent's sockets; `EventSink`, which tells listeners of it.

A book reports events while it decides, when a driver may hold a lock. So an `EventSink` keeps them until the driver
delivers them, outside the lock: a listener may call any method of the agent, or close it.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

log = logging.getLogger("kabench.agent")


class EventKind(StrEnum):
    """The kind of an event."""

    CREATED = "created"
    """a socket is connected"""
    CREATE_FAILED = "create_failed"
    """a socket could not be connected"""
    REUSED = "reused"
    """a socket was given another request"""
    RETRIED = "retried"
    """a request is sent again on a fresh socket, because its reused one was stale"""
    TIMED_OUT = "timed_out"
    """a socket's free or activity timeout is over, or a request's wait in the queue"""
    CLOSED = "closed"
    """a socket is closed; `reason` says why"""


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """One event. `origin` is the key the socket is pooled by.

    `reason` is a `CloseReason`, `queue_timeout`, or empty where there is none; `request_count` counts the
    requests that the socket was given, and `age_s` is the time since it was connected, in seconds.
    """

    kind: EventKind
    origin: str
    reason: str = ""
    request_count: int = 0
    age_s: float = 0.0


EventListener: TypeAlias = "Callable[[AgentEvent], None]"


class EventSink:
    """Takes an agent's events from its book. `deliver` logs them at debug level and calls the listeners.

    Reuse, which happens with each request, is not logged: a closed socket's line says how many requests it carried.
    """

    __slots__ = ("_listeners", "_waiting")

    def __init__(self, listener: EventListener | None) -> None:
        self._listeners: list[tuple[EventListener, frozenset[EventKind]]] = []
        self._waiting: deque[AgentEvent] = deque()
        if listener is not None:
            self.add(listener)

    def add(self, listener: EventListener, kinds: Collection[EventKind] | None = None) -> None:
        """Add a listener, to be called with events of these kinds (None: of all kinds)."""
        self._listeners.append((listener, frozenset(EventKind if kinds is None else kinds)))

    @property
    def wants_reuse(self) -> bool:
        """Whether a listener wants events of reuse, which come with each request."""
        return any(EventKind.REUSED in kinds for _, kinds in self._listeners)

    def tell(self, kind: EventKind, origin: str, reason: str, request_count: int, age_s: float) -> bool:
        """Keep an event, if it is logged or a listener wants it; return whether it was kept."""
        if not self._listeners and not log.isEnabledFor(logging.DEBUG):
            return False
        self._waiting.append(AgentEvent(kind, origin, reason, request_count, age_s))
        return True

    def forget(self) -> None:
        """Drop the events that wait to be delivered."""
        self._waiting.clear()

    @property
    def has_news(self) -> bool:
        """Whether events wait to be delivered."""
        return bool(self._waiting)

    def deliver(self) -> None:
        """Log the events that wait, and pass them on. A listener that raises is logged; the others are still called."""
        while self._waiting:
            try:
                event = self._waiting.popleft()
            except IndexError:
                return  # another thread delivers too
            if event.kind is not EventKind.REUSED:
                log.debug("%s: %s", event.origin, _as_text(event))
            for listener, kinds in self._listeners:
                if event.kind not in kinds:
                    continue
                try:
                    listener(event)
                except Exception:
                    log.exception("on_event raised at %s", event)


def _as_text(event: AgentEvent) -> str:
    """Return an event in words."""
    because = f" ({event.reason.replace('_', ' ')})" if event.reason else ""
    if event.kind is EventKind.CREATED:
        return "a socket was connected"
    if event.kind is EventKind.CREATE_FAILED:
        return f"a socket could not be connected{because}"
    if event.reason == "queue_timeout":
        return "a request waited too long for a socket"
    times = "1 request" if event.request_count == 1 else f"{event.request_count} requests"
    of_socket = f"after {times} and {event.age_s:.3f} s"
    if event.kind is EventKind.RETRIED:
        return f"a request is sent again, since its reused socket was stale{because}, {of_socket}"
    return f"a socket {_HAPPENED.get(event.kind, event.kind.value)}{because} {of_socket}"


_HAPPENED = {
    EventKind.CLOSED: "was closed",
    EventKind.TIMED_OUT: "timed out",
    EventKind.REUSED: "was given another request",
}
