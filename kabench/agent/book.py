"""The book of an agent: which sockets are free, which are active, who waits, what expires when, and what to count.

Theory of operation. A `SocketBook` decides and never acts: it has no sockets, no clock, no lock and no event loop. The
driver tells it what happened and what time it is; the book answers with what to do next, and the driver does it.
Two rules keep it that way:

* All that decides about a socket's life lives here. A driver never chooses a socket, drops one or wakes a pending
  request by itself.
* The book knows nothing of HTTP, of transports or of callers. A socket's `handle` is the driver's and is not looked
  at; a request is a `BookedRequest`, which a driver subclasses. `on_event` and `on_deadline` are called in the
  middle of a decision: they may take note, but must not call the book.

A socket takes one of its origin's places from the moment it is to be opened: CONNECTING -> ACTIVE <-> FREE -> CLOSED.
It is *created* once it is connected, so at any time `created = closed + free + active`.

Deadlines (free time, TTL, activity, connecting) are kept lazily. Each socket has one live entry in a heap of wake-up
times that is never later than its deadline. Moving a deadline away, which every request does, touches no heap; a
wake-up that comes too early puts the socket back. So a request costs comparisons, and heap work is done once a timeout.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from kabench.agent.events import EventKind
from kabench.agent.status import AgentStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent.hints import KeepAliveHint
    from kabench.agent.options import AgentOptions


class SocketState(Enum):
    """The stage of its life that a socket is in."""

    CONNECTING = "connecting"
    ACTIVE = "active"
    FREE = "free"
    CLOSED = "closed"


class CloseReason(StrEnum):
    """The reason why a socket is to be closed, or was closed."""

    NOT_REUSABLE = "not_reusable"
    """its response does not allow another one on this socket"""
    NOT_KEEP_ALIVE = "not_keep_alive"
    """the agent pools nothing"""
    NOBODY_PENDING = "nobody_pending"
    """the agent only hands sockets over, and no request was pending"""
    POOL_FULL = "pool_full"
    """`max_free_sockets` are free already"""
    TTL = "ttl"
    """older than `socket_active_ttl`"""
    MAX_REQUESTS = "max_requests"
    """carried as many requests as we or the server allow"""
    HINT = "hint"
    """the server said that it does not keep it"""
    FREE_TIMEOUT = "free_timeout"
    """its free time is over"""
    ACTIVE_TIMEOUT = "active_timeout"
    """its request saw no byte for `timeout`"""
    CONNECT_TIMEOUT = "connect_timeout"
    """not connected within `connect_timeout`"""
    SERVER_CLOSED = "server_closed"
    """the other side closed it"""
    ERROR = "error"
    """the socket failed, or what came was not HTTP"""
    STRAY_BYTES = "stray_bytes"
    """bytes came while it carried no request"""
    ABORTED = "aborted"
    """its request was cancelled"""
    FORGOTTEN = "forgotten"
    """idle for as long as another socket of its origin that got no answer: a gateway has probably forgotten both"""
    GAVE_WAY = "gave_way"
    """closed for a request to another origin, at `max_total_sockets`"""
    CLEARED = "cleared"
    """the user cleared its pool, or dropped it"""
    AGENT_CLOSED = "agent_closed"


_TIMEOUTS = frozenset({CloseReason.FREE_TIMEOUT, CloseReason.ACTIVE_TIMEOUT})
_ERRORS = frozenset({CloseReason.ERROR, CloseReason.STRAY_BYTES})

_CONNECTING = SocketState.CONNECTING
_ACTIVE = SocketState.ACTIVE
_FREE = SocketState.FREE
_CLOSED = SocketState.CLOSED

_COMPACT_ABOVE = 256
"""Dead wake-ups that are tolerated before the heap is cleared of them."""


class BookedRequest:
    """The book's side of a request; drivers subclass it.

    `origin` is the key its socket is pooled by and `timeout` its activity timeout in seconds (`inf`: none); both are
    the driver's to set. `pending` is True while it waits for a socket.
    """

    __slots__ = ("origin", "pending", "sequence", "timeout")

    origin: str
    timeout: float
    pending: bool
    sequence: int

    def __init__(self, origin: str, timeout: float = inf) -> None:
        self.origin = origin
        self.timeout = timeout
        self.pending = False
        self.sequence = 0


HandleT = TypeVar("HandleT")
RequestT = TypeVar("RequestT", bound=BookedRequest)


class BookedSocket(Generic[HandleT, RequestT]):
    """The book's side of a socket. `handle` is what the driver passed to `opened`; None before and after.

    `request_count` counts the requests it was given, the present one included; it is `reused` if there are more than
    one. `idle_s` is how many seconds it was free before the present request; 0.0 if it was handed over.
    """

    __slots__ = (
        "deadline",
        "expires_at",
        "free_since",
        "free_time",
        "handle",
        "idle_s",
        "max_requests",
        "opened_at",
        "pool",
        "request",
        "request_count",
        "state",
        "wake_at",
    )

    def __init__(
        self, pool: _OriginPool[HandleT, RequestT], request: RequestT, free_time: float, max_requests: float
    ) -> None:
        self.pool = pool
        self.state = _CONNECTING
        self.handle: HandleT | None = None
        self.request: RequestT | None = request
        self.request_count = 1
        self.deadline = inf
        self.wake_at = inf
        self.expires_at = inf
        self.free_since = 0.0
        self.idle_s = 0.0
        self.opened_at = inf
        self.free_time = free_time
        self.max_requests = max_requests

    @property
    def origin(self) -> str:
        """The key it is pooled by."""
        return self.pool.origin

    @property
    def reused(self) -> bool:
        """Whether it has carried a request before the present one."""
        return self.request_count > 1


class _OriginPool(Generic[HandleT, RequestT]):
    """One origin's free sockets (freed longest first), pending requests, and places taken."""

    __slots__ = ("free", "origin", "pending", "places")

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.free: deque[BookedSocket[HandleT, RequestT]] = deque()
        self.pending: deque[RequestT] = deque()
        self.places = 0


@dataclass(slots=True)
class ToOpen(Generic[HandleT, RequestT]):
    """Open `socket` for the request it carries, after closing `instead_of` where there is one."""

    socket: BookedSocket[HandleT, RequestT]
    instead_of: BookedSocket[HandleT, RequestT] | None = None


@dataclass(slots=True)
class ToClose(Generic[HandleT, RequestT]):
    """Close `socket`, and then open another for a pending request where there is one."""

    socket: BookedSocket[HandleT, RequestT]
    reason: CloseReason
    then_open: BookedSocket[HandleT, RequestT] | None = None


@dataclass(slots=True)
class Due(Generic[HandleT, RequestT]):
    """All that has come due: sockets to close, and pending requests that have waited too long."""

    close: list[ToClose[HandleT, RequestT]] = field(default_factory=list)
    late: list[RequestT] = field(default_factory=list)


class SocketBook(Generic[HandleT, RequestT]):
    """The bookkeeping of one agent over all its origins. Times are seconds of any one monotonic clock.

    `next_deadline` is the time at which `due` next has something to do (`inf`: never). A driver calls `due` before
    `checkout` when that time has come, so that no socket whose time is over is handed out. `on_deadline` is called with
    each deadline that is nearer than the one before.
    """

    def __init__(self, options: AgentOptions) -> None:
        self._pools: dict[str, _OriginPool[HandleT, RequestT]] = {}
        self._max_sockets = inf if options.max_sockets is None else options.max_sockets
        self._max_total = inf if options.max_total_sockets is None else options.max_total_sockets
        self._total_is_limited = options.max_total_sockets is not None
        self._max_free = options.max_free_sockets
        self._free_time = options.free_socket_timeout or inf
        self._ttl = options.socket_active_ttl or inf
        self._connect_timeout = options.effective_connect_timeout or inf
        self._queue_timeout = options.queue_timeout or inf
        self._max_requests = inf if options.max_requests_per_socket is None else options.max_requests_per_socket
        self._is_lifo = options.scheduling == "lifo"
        self._keeps_free = options.keep_alive
        self._keeps_any = options.keep_alive or options.hand_off
        self._respects_hints = options.respect_hints
        self._total_places = 0
        self._sequence = 0
        self._wakes: list[tuple[float, int, BookedSocket[HandleT, RequestT]]] = []
        self._dead_wakes = 0
        self._queue_deadlines: deque[tuple[float, int, RequestT]] = deque()
        self._sockets: set[BookedSocket[HandleT, RequestT]] = set()
        self._status_seen: tuple[int, ...] = (0,) * 8
        self._closed_by: dict[CloseReason, int] = {}
        self.on_event: Callable[[EventKind, str, str, int, float], object] | None = None
        self.on_deadline: Callable[[float], object] | None = None
        self.tells_reuse = False
        self.next_deadline = inf
        self.is_closed = False
        self.create_socket_count = 0
        self.create_socket_error_count = 0
        self.close_socket_count = 0
        self.timeout_socket_count = 0
        self.error_socket_count = 0
        self.stale_socket_count = 0
        self.request_count = 0
        self.retry_count = 0

    # -- a request's way ---------------------------------------------------------------------------------------------

    def checkout(
        self, request: RequestT, now: float
    ) -> BookedSocket[HandleT, RequestT] | ToOpen[HandleT, RequestT] | None:
        """Return the socket for a request: a free one to reuse, or a new one to open; None if it is now pending."""
        pool = self._pools.get(request.origin)
        if pool is None:
            pool = self._pools[request.origin] = _OriginPool(request.origin)
        if pool.free:
            socket = pool.free.pop() if self._is_lifo else pool.free.popleft()
            socket.idle_s = now - socket.free_since
            self._give(socket, request, now)
            return socket
        if pool.places < self._max_sockets:
            if self._total_places < self._max_total:
                return ToOpen(self._take_place(pool, request, now))
            longest_free = self._longest_free()
            if longest_free is not None:
                self._close(longest_free, CloseReason.GAVE_WAY, now)
                return ToOpen(self._take_place(pool, request, now), instead_of=longest_free)
        self._sequence += 1
        request.sequence = self._sequence
        request.pending = True
        pool.pending.append(request)
        if self._queue_timeout < inf:
            self._note_queue_deadline(request, now + self._queue_timeout)
        return None

    def opened(self, socket: BookedSocket[HandleT, RequestT], handle: HandleT, now: float) -> None:
        """Note that a socket is connected. It carries its request from now on, and its age counts from `now`."""
        socket.handle = handle
        socket.state = _ACTIVE
        socket.opened_at = now
        self.create_socket_count += 1
        self._tell(EventKind.CREATED, socket, now)
        if self._ttl < inf:
            socket.expires_at = now + self._ttl
        request = socket.request
        self._set_deadline(socket, inf if request is None else now + request.timeout)

    def open_failed(
        self, socket: BookedSocket[HandleT, RequestT], now: float
    ) -> BookedSocket[HandleT, RequestT] | None:
        """Note that a socket could not be connected; return the socket to open for the next pending request, if any."""
        if socket.state is _CONNECTING:
            self._count_create_error(socket, CloseReason.ERROR, now)
        return self.remove(socket, CloseReason.ERROR, now)

    def checkin(
        self,
        socket: BookedSocket[HandleT, RequestT],
        now: float,
        reusable: bool = True,
        hint: KeepAliveHint | None = None,
    ) -> RequestT | ToClose[HandleT, RequestT] | None:
        """Note that a response is finished; return the pending request to serve, `ToClose`, or None: it is free."""
        self.request_count += 1
        if hint is not None and self._respects_hints:
            self._note_hint(socket, hint)
        pool = socket.pool
        if not reusable:
            reason = CloseReason.NOT_REUSABLE
        elif not self._keeps_any:
            reason = CloseReason.NOT_KEEP_ALIVE
        elif socket.request_count >= socket.max_requests:
            reason = CloseReason.MAX_REQUESTS if socket.max_requests else CloseReason.SERVER_CLOSED
        elif now >= socket.expires_at:
            reason = CloseReason.TTL
        elif socket.free_time <= 0:
            reason = CloseReason.HINT
        elif self._total_is_limited and self._an_older_request_waits_elsewhere(pool):
            reason = CloseReason.GAVE_WAY
        elif pool.pending:
            request = pool.pending[0]
            socket.idle_s = 0.0
            self._give(socket, request, now)
            pool.pending.popleft()
            request.pending = False
            return request
        elif not self._keeps_free:
            reason = CloseReason.NOBODY_PENDING
        elif len(pool.free) >= self._max_free:
            reason = CloseReason.POOL_FULL
        else:
            socket.state = _FREE
            socket.request = None
            socket.free_since = now
            deadline = now + socket.free_time
            if deadline > socket.expires_at:
                deadline = socket.expires_at
            socket.deadline = deadline
            if deadline < socket.wake_at:
                self._wake(socket, deadline)
            pool.free.append(socket)
            return None
        return ToClose(socket, reason, self.remove(socket, reason, now))

    def remove(
        self, socket: BookedSocket[HandleT, RequestT], reason: CloseReason, now: float
    ) -> BookedSocket[HandleT, RequestT] | None:
        """Note that a socket is gone; return the socket to open in its place for the next pending request, if any.

        A socket that is closed already is left as it is.
        """
        if socket.state is _CLOSED:
            return None
        self._close(socket, reason, now)
        return self._open_for_next_pending(socket.pool, now)

    def reopen(
        self, socket: BookedSocket[HandleT, RequestT], reason: CloseReason, now: float
    ) -> BookedSocket[HandleT, RequestT]:
        """Replace a dead socket by a fresh one in the same place, for the same request, which is sent again."""
        request = socket.request
        if request is None:
            raise ValueError("a socket without a request has nothing to send again")
        self._close(socket, reason, now)
        self.stale_socket_count += 1
        self.retry_count += 1
        self._tell(EventKind.RETRIED, socket, now, reason)
        return self._take_place(self._pools.setdefault(socket.origin, socket.pool), request, now)

    def replace(
        self, socket: BookedSocket[HandleT, RequestT], reason: CloseReason, now: float
    ) -> tuple[BookedSocket[HandleT, RequestT], BookedSocket[HandleT, RequestT] | None]:
        """Return another socket for a request whose reused socket was found dead before the request was sent.

        The request keeps its turn. Its socket is a free one, or a fresh one in the dead one's place. The second value
        is a socket to open for a pending request, or None.
        """
        request = socket.request
        if request is None:
            raise ValueError("a socket without a request needs no other")
        self._close(socket, reason, now)
        pool = self._pools.setdefault(socket.origin, socket.pool)
        if not pool.free:
            return self._take_place(pool, request, now), None
        other = pool.free.pop() if self._is_lifo else pool.free.popleft()
        other.idle_s = now - other.free_since
        self._give(other, request, now)
        return other, self._open_for_next_pending(pool, now)

    def met_stale(self) -> None:
        """Count a request that met a stale socket and is not sent again."""
        self.stale_socket_count += 1

    def doubt_idle(self, socket: BookedSocket[HandleT, RequestT], now: float) -> list[ToClose[HandleT, RequestT]]:
        """Close the free sockets that have been idle for as long as a reused one that timed out silently (AK-62).

        A socket that was never idle says nothing of others. Call this before the socket is removed, or just after.
        """
        pool = self._pools.get(socket.origin)
        if pool is None or not socket.idle_s:
            return []
        doubtful = [other for other in pool.free if now - other.free_since >= socket.idle_s]
        return [
            ToClose(other, CloseReason.FORGOTTEN, self.remove(other, CloseReason.FORGOTTEN, now)) for other in doubtful
        ]

    def touch(self, socket: BookedSocket[HandleT, RequestT], now: float) -> None:
        """Note that bytes moved on an active socket: its activity timeout starts again."""
        if socket.state is _ACTIVE and socket.request is not None:
            self._set_deadline(socket, now + socket.request.timeout)

    def retire(self, socket: BookedSocket[HandleT, RequestT]) -> None:
        """Make the request on this socket its last: the other side has said that it will close."""
        socket.max_requests = 0

    def hold(self, socket: BookedSocket[HandleT, RequestT]) -> None:
        """Stop the activity timeout of an active socket until the next `touch`: no byte is expected for now."""
        if socket.state is _ACTIVE:
            socket.deadline = inf

    def cancel(self, request: RequestT) -> None:
        """Take out a pending request that gave up; those behind it keep their order."""
        if not request.pending:
            return
        request.pending = False
        pool = self._pools[request.origin]
        pool.pending.remove(request)
        self._drop_if_empty(pool)

    def abandon(self, request: RequestT, now: float) -> list[ToClose[HandleT, RequestT]]:
        """Give up a request, whatever its state: take it out of the queue, and close any socket it was given."""
        if request.pending:
            self.cancel(request)
        given = [socket for socket in self._sockets if socket.request is request]
        return [ToClose(socket, CloseReason.ABORTED, self.remove(socket, CloseReason.ABORTED, now)) for socket in given]

    def mend(self, now: float) -> list[BookedSocket[HandleT, RequestT]]:
        """Repair what an exception in the middle of a decision (Ctrl-C) has left half done.

        The state of each socket is taken as true, and all else is counted again from it. Returns the sockets that
        carry a request; that request may not have been told.
        """
        self._sockets = {socket for socket in self._sockets if socket.state is not _CLOSED}
        carried = {id(socket.request) for socket in self._sockets}
        for pool in self._pools.values():
            pool.places = 0
            for request in [request for request in pool.pending if id(request) in carried]:
                request.pending = False
            pool.pending = deque(request for request in pool.pending if request.pending)
        for socket in self._sockets:
            socket.pool.places = 0  # a pool may have been dropped, and comes back with its socket
        for socket in self._sockets:
            pool = socket.pool = self._pools.setdefault(socket.origin, socket.pool)
            pool.places += 1
            if socket.state is _FREE and socket not in pool.free:
                socket.deadline = now  # what it was to be used for is unknown
                self._wake(socket, now)
                pool.free.append(socket)
            elif socket.state is _ACTIVE and socket.request is None:
                socket.state = _FREE
                socket.deadline = now
                self._wake(socket, now)
                pool.free.append(socket)
        for pool in list(self._pools.values()):
            pool.free = deque(socket for socket in pool.free if socket.state is _FREE and socket in self._sockets)
            for socket in pool.free:
                socket.request = None
            self._drop_if_empty(pool)
        self._total_places = len(self._sockets)
        self.close_socket_count = sum(self._closed_by.values())
        open_now = sum(socket.state is not _CONNECTING for socket in self._sockets)
        self.create_socket_count = self.close_socket_count + open_now
        return [socket for socket in self._sockets if socket.request is not None]

    # -- time --------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> Due[HandleT, RequestT]:
        """Return everything whose time is over at `now`. The sockets are already out of the book: close them."""
        due: Due[HandleT, RequestT] = Due()
        waits = self._queue_deadlines
        while waits and waits[0][0] <= now:
            _, sequence, request = waits.popleft()
            if request.pending and request.sequence == sequence:
                self.cancel(request)
                due.late.append(request)
                if self.on_event is not None:
                    self.on_event(EventKind.TIMED_OUT, request.origin, "queue_timeout", 0, 0.0)
        while self._wakes and self._wakes[0][0] <= now:
            wake_at, _, socket = heapq.heappop(self._wakes)
            if socket.state is _CLOSED or socket.wake_at != wake_at:
                self._dead_wakes -= 1
                continue
            socket.wake_at = inf
            if socket.deadline > now:
                self._set_deadline(socket, socket.deadline)
                continue
            if socket.state is _FREE:
                reason = CloseReason.FREE_TIMEOUT
            elif socket.state is _ACTIVE:
                reason = CloseReason.ACTIVE_TIMEOUT
            else:
                reason = CloseReason.CONNECT_TIMEOUT
                self._count_create_error(socket, reason, now)
            due.close.append(ToClose(socket, reason, self.remove(socket, reason, now)))
        self._find_next_deadline()
        return due

    # -- the end, and looking in ---------------------------------------------------------------------------------------

    def free_sockets(self, origin: str | None = None) -> list[BookedSocket[HandleT, RequestT]]:
        """Return the free sockets of an origin, or all; `remove` takes them out."""
        pools = self._pools.values() if origin is None else [p for p in [self._pools.get(origin)] if p is not None]
        return [socket for pool in pools for socket in pool.free]

    def close(self, now: float) -> tuple[list[BookedSocket[HandleT, RequestT]], list[RequestT]]:
        """End the book; return all sockets, connecting ones too, to close, and all pending requests, to fail."""
        self.is_closed = True
        pending = sorted((request for pool in self._pools.values() for request in pool.pending), key=_arrival)
        for request in pending:
            request.pending = False
        sockets = list(self._sockets)
        for pool in self._pools.values():
            pool.pending.clear()
        for socket in sockets:
            self._close(socket, CloseReason.AGENT_CLOSED, now)
        self._pools.clear()
        self._wakes.clear()
        self._queue_deadlines.clear()
        self.next_deadline = inf
        return sockets, pending

    def status(self) -> AgentStatus:
        """Return the counters, and the sockets and pending requests by origin, as they are now."""
        pools = self._pools.items()
        return AgentStatus(
            *self._counters(),
            closed_by={reason.value: count for reason, count in self._closed_by.items()},
            free_sockets={origin: len(pool.free) for origin, pool in pools if pool.free},
            sockets={origin: n for origin, pool in pools if (n := pool.places - len(pool.free))},
            requests={origin: len(pool.pending) for origin, pool in pools if pool.pending},
        )

    def contradictions(self) -> list[str]:
        """Return what does not add up: nothing, unless the book or its driver is wrong. It looks at every socket."""
        found = []
        free = [socket for pool in self._pools.values() for socket in pool.free]
        open_now = [socket for socket in self._sockets if socket.state is not SocketState.CONNECTING]
        if self.close_socket_count != sum(self._closed_by.values()):
            found.append(f"{self.close_socket_count} closed, by {self._closed_by}")
        if self.create_socket_count != self.close_socket_count + len(open_now):
            found.append(f"{self.create_socket_count} created, {self.close_socket_count} closed, {len(open_now)} open")
        if self._total_places != len(self._sockets) or self._total_places > self._max_total:
            found.append(f"{self._total_places} places for {len(self._sockets)} sockets")
        if len(set(free)) != len(free) or not self._sockets.issuperset(free):
            found.append("a socket is free twice, or free and unknown")
        for pool in self._pools.values():
            sockets = [socket for socket in self._sockets if socket.pool is pool]
            if pool.places != len(sockets) or pool.places > self._max_sockets or len(pool.free) > self._max_free:
                found.append(f"{pool.origin}: {pool.places} places, {len(sockets)} sockets, {len(pool.free)} free")
            if pool.pending and pool.places < self._max_sockets and self._total_places < self._max_total:
                found.append(f"{pool.origin}: {len(pool.pending)} requests wait for nothing")
        for socket in self._sockets:
            is_free = socket.state is SocketState.FREE
            if is_free != (socket in free) or is_free != (socket.request is None) or socket.state is SocketState.CLOSED:
                found.append(f"{socket.origin}: a socket is {socket.state.name} and carries {socket.request}")
        return found

    def status_changed(self) -> bool:
        """Return whether any counter moved since the last call."""
        counters = self._counters()
        changed = counters != self._status_seen
        self._status_seen = counters
        return changed

    def _counters(self) -> tuple[int, int, int, int, int, int, int, int]:
        return (
            self.create_socket_count,
            self.create_socket_error_count,
            self.close_socket_count,
            self.timeout_socket_count,
            self.error_socket_count,
            self.stale_socket_count,
            self.request_count,
            self.retry_count,
        )

    # -- inside ------------------------------------------------------------------------------------------------------

    def _give(self, socket: BookedSocket[HandleT, RequestT], request: RequestT, now: float) -> None:
        socket.state = _ACTIVE
        socket.request = request
        socket.request_count += 1
        deadline = now + request.timeout
        socket.deadline = deadline
        if deadline < socket.wake_at:
            self._wake(socket, deadline)
        if self.tells_reuse:
            self._tell(EventKind.REUSED, socket, now)

    def _take_place(
        self, pool: _OriginPool[HandleT, RequestT], request: RequestT, now: float
    ) -> BookedSocket[HandleT, RequestT]:
        pool.places += 1
        self._total_places += 1
        socket: BookedSocket[HandleT, RequestT] = BookedSocket(pool, request, self._free_time, self._max_requests)
        self._sockets.add(socket)
        self._set_deadline(socket, now + self._connect_timeout)
        return socket

    def _count_create_error(self, socket: BookedSocket[HandleT, RequestT], reason: CloseReason, now: float) -> None:
        self.create_socket_error_count += 1
        self._tell(EventKind.CREATE_FAILED, socket, now, reason)

    def _tell(self, kind: EventKind, socket: BookedSocket[HandleT, RequestT], now: float, reason: str = "") -> None:
        if self.on_event is not None:
            age_s = max(0.0, now - socket.opened_at)
            self.on_event(kind, socket.origin, reason, socket.request_count, age_s)

    def _close(self, socket: BookedSocket[HandleT, RequestT], reason: CloseReason, now: float) -> None:
        pool = socket.pool
        if socket.state is _FREE:
            pool.free.remove(socket)
        if socket.state is not _CONNECTING:
            self.close_socket_count += 1
            self._closed_by[reason] = self._closed_by.get(reason, 0) + 1
            if reason in _ERRORS:
                self.error_socket_count += 1
            elif reason in _TIMEOUTS:
                self.timeout_socket_count += 1
                self._tell(EventKind.TIMED_OUT, socket, now, reason)
            self._tell(EventKind.CLOSED, socket, now, reason)
        socket.state = _CLOSED
        pool.places -= 1
        self._total_places -= 1
        self._sockets.discard(socket)
        self._drop_if_empty(pool)
        if socket.wake_at < inf:
            socket.wake_at = inf
            self._count_dead_wake()

    def _drop_if_empty(self, pool: _OriginPool[HandleT, RequestT]) -> None:
        if not pool.places and not pool.pending:
            self._pools.pop(pool.origin, None)

    def _open_for_next_pending(
        self, pool: _OriginPool[HandleT, RequestT], now: float
    ) -> BookedSocket[HandleT, RequestT] | None:
        """Give a place that has just become empty to the request that has waited longest and may use it."""
        if self._total_is_limited:
            waiting = [p for p in self._pools.values() if p.pending and p.places < self._max_sockets]
            if not waiting:
                return None
            pool = min(waiting, key=_first_arrival)
        elif not pool.pending:
            return None
        request = pool.pending[0]
        socket = self._take_place(pool, request, now)
        pool.pending.popleft()
        request.pending = False
        return socket

    def _an_older_request_waits_elsewhere(self, pool: _OriginPool[HandleT, RequestT]) -> bool:
        oldest_here = pool.pending[0].sequence if pool.pending else inf
        return any(
            other.pending[0].sequence < oldest_here
            for other in self._pools.values()
            if other is not pool and other.pending and other.places < self._max_sockets
        )

    def _longest_free(self) -> BookedSocket[HandleT, RequestT] | None:
        longest = [pool.free[0] for pool in self._pools.values() if pool.free]
        return min(longest, key=_free_since) if longest else None

    def _note_hint(self, socket: BookedSocket[HandleT, RequestT], hint: KeepAliveHint) -> None:
        free_time = hint.free_time_s
        if free_time is not None:
            socket.free_time = min(free_time, self._free_time)
        if hint.max_requests is not None and socket.max_requests:
            socket.max_requests = min(self._max_requests, socket.request_count + hint.max_requests)

    def _set_deadline(self, socket: BookedSocket[HandleT, RequestT], deadline: float) -> None:
        socket.deadline = deadline
        if deadline < socket.wake_at:
            self._wake(socket, deadline)

    def _note_queue_deadline(self, request: RequestT, deadline: float) -> None:
        waits = self._queue_deadlines
        while waits and not (waits[0][2].pending and waits[0][2].sequence == waits[0][1]):
            waits.popleft()
        waits.append((deadline, request.sequence, request))
        nearest = self.next_deadline
        self._find_next_deadline()
        if self.next_deadline < nearest and self.on_deadline is not None:
            self.on_deadline(self.next_deadline)

    def _wake(self, socket: BookedSocket[HandleT, RequestT], at: float) -> None:
        if socket.wake_at < inf:
            self._count_dead_wake()
        socket.wake_at = at
        self._sequence += 1
        heapq.heappush(self._wakes, (at, self._sequence, socket))
        if at < self.next_deadline:
            self.next_deadline = at
            if self.on_deadline is not None:
                self.on_deadline(at)

    def _count_dead_wake(self) -> None:
        self._dead_wakes += 1
        if self._dead_wakes > _COMPACT_ABOVE and 2 * self._dead_wakes > len(self._wakes):
            self._wakes = [wake for wake in self._wakes if wake[2].state is not _CLOSED and wake[2].wake_at == wake[0]]
            heapq.heapify(self._wakes)
            self._dead_wakes = 0

    def _find_next_deadline(self) -> None:
        self.next_deadline = min(
            self._wakes[0][0] if self._wakes else inf,
            self._queue_deadlines[0][0] if self._queue_deadlines else inf,
        )


def _arrival(request: BookedRequest) -> int:
    return request.sequence


def _first_arrival(pool: _OriginPool[HandleT, RequestT]) -> int:
    return pool.pending[0].sequence


def _free_since(socket: BookedSocket[HandleT, RequestT]) -> float:
    return socket.free_since
