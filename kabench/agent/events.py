"""What happens to an agent's sockets, as it happens: `AgentEvent`, and how it reaches those who listen.

A book tells while it decides, and a driver may hold a lock then. So an `EventSink` keeps what it is told until the
driver delivers it, outside: a listener may ask the agent anything, or close it.
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
    """What has happened."""

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

    `reason` is a `CloseReason`, `queue_timeout`, or empty where there is none to tell; `request_count` counts the
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

    What happens once a request is not logged: a closed socket's line says how many requests it carried.
    """

    __slots__ = ("_listeners", "_waiting")

    def __init__(self, listener: EventListener | None) -> None:
        self._listeners: list[tuple[EventListener, frozenset[EventKind]]] = []
        self._waiting: deque[AgentEvent] = deque()
        if listener is not None:
            self.add(listener)

    def add(self, listener: EventListener, kinds: Collection[EventKind] | None = None) -> None:
        """Have one more listener called, with events of these kinds; None: of all."""
        self._listeners.append((listener, frozenset(EventKind if kinds is None else kinds)))

    @property
    def wants_reuse(self) -> bool:
        """Whether anybody listens to what happens once a request."""
        return any(EventKind.REUSED in kinds for _, kinds in self._listeners)

    def tell(self, kind: EventKind, origin: str, reason: str, request_count: int, age_s: float) -> bool:
        """Keep an event, if anybody wants it; whether it was kept."""
        if not self._listeners and not log.isEnabledFor(logging.DEBUG):
            return False
        self._waiting.append(AgentEvent(kind, origin, reason, request_count, age_s))
        return True

    def forget(self) -> None:
        """Drop what waits to be delivered."""
        self._waiting.clear()

    @property
    def has_news(self) -> bool:
        """Whether something waits to be delivered."""
        return bool(self._waiting)

    def deliver(self) -> None:
        """Log and pass on what waits. A listener that raises is logged and keeps nobody else from hearing."""
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
    """Return what has happened, in words."""
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
