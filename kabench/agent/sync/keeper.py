"""`SocketKeeper`: the book of a threaded agent under one lock, the threads that wait for a socket, and the reaper.

A decision is taken under the lock; sockets are opened, closed and checked outside of it. The garbage collector may
close a connection at any point, even in the middle of a decision: such a connection is noted without the lock, and the
next thread that releases the lock takes it out of the book.

No exception loses a place, wherever it strikes (AK-58): what the book decides for a request is noted in that request
under the lock, and a thread that is interrupted gives up its request, and with it all that the request was given.

The reaper is a daemon thread that closes free sockets when their time is over. It starts with the first free socket and
ends with the last, and holds no reference to the keeper while it sleeps, so that an agent that is no longer used
is collected, and its free sockets with it. A forked child begins with an empty book: its parent's sockets are not its
own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import weakref
from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kabench.agent.book import BookedRequest, BookedSocket, CloseReason, SocketBook, SocketState, ToClose, ToOpen
from kabench.agent.errors import AgentClosedError, AgentError, QueueTimeoutError
from kabench.agent.events import EventKind, EventSink
from kabench.agent.sync.tls import ContextStore
from kabench.agent.tls import SessionCache

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from kabench.agent.events import EventListener
    from kabench.agent.hints import KeepAliveHint
    from kabench.agent.options import AgentOptions
    from kabench.agent.status import AgentStatus

_CLOSED = "the agent is closed"
_REAPER_SLACK_S = 0.001


class Handle(Protocol):
    """What the keeper needs of a connection."""

    def close_socket(self) -> None:
        """Close the socket; the book has let go of it."""

    def interrupt(self) -> None:
        """Wake the thread that reads from the socket, which then closes it; the book has let go of it."""


class Pool(Protocol):
    """What the keeper knows of one of urllib3's pools: the origin whose sockets it uses."""

    origin: str


class Reopening(Protocol):
    """A connection whose socket is replaced by a fresh one."""

    book: Book
    booked: Booked | None


class SyncRequest(BookedRequest):
    """A request of a thread. `booked` is the socket it was given, `gate` the lock it waits for while pending."""

    __slots__ = ("booked", "gate")

    def __init__(self, origin: str) -> None:
        super().__init__(origin)  # no activity timeout here: blocking sockets have their own
        self.gate: threading.Lock | None = None
        self.booked: Booked | None = None


Booked: TypeAlias = BookedSocket[Handle, SyncRequest]
Book: TypeAlias = SocketBook[Handle, SyncRequest]


class _Deciding:
    """Repairs the book after an exception in the middle of a decision. Entered with the lock held."""

    __slots__ = ("_keeper_of",)

    def __init__(self, keeper: SocketKeeper) -> None:
        self._keeper_of = weakref.ref(keeper)

    def __enter__(self) -> None:
        """Do nothing: the lock is held already."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        keeper = None if kind is None else self._keeper_of()
        if keeper is not None and error is not None:
            keeper.mend_after(error)


class SocketKeeper:
    """Keeps the sockets of one threaded agent. Safe for threads, greenlets and forks."""

    def __init__(self, options: AgentOptions, on_event: EventListener | None = None) -> None:
        self.options = options
        self.sessions = SessionCache(options.max_cached_sessions)
        self.contexts = ContextStore(self.sessions)
        self.events = EventSink(on_event)
        self.pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        self._begin()
        _keepers.add(self)

    def _begin(self) -> None:
        # Waiting and connecting are timed where they block: at the gate, and by urllib3.
        self.book: Book = SocketBook(dataclasses.replace(self.options, queue_timeout=None, connect_timeout=0))
        self.book.on_event = self.events.tell
        self.book.tells_reuse = self.events.wants_reuse
        self._lock = threading.Lock()
        self._deciding = _Deciding(self)
        self._departed: deque[tuple[Booked | SyncRequest | str, CloseReason]] = deque()
        self._to_close: deque[Booked] = deque()
        self._alarm = threading.Event()
        self._reaper: threading.Thread | None = None
        self._reaper_looks_at = inf
        self._finalizer = weakref.finalize(self, _close_free_sockets, self.book, self._alarm)

    # -- a request's way -----------------------------------------------------------------------------------------------

    def checkout(self, request: SyncRequest, wait_s: float | None) -> Booked:
        """Return a socket for a request: a free one, with its handle, or one to be opened, without a handle.

        `wait_s` is how many seconds to wait for one; None: no limit. If this raises anything, call `give_up`.

        Raises `QueueTimeoutError` and `AgentClosedError`.
        """
        to_close: list[Booked] = []
        with self._lock:
            try:
                now = monotonic()
                self._take_out_unusable(now, to_close)
                decision = self.book.checkout(request, now)
                if isinstance(decision, ToOpen):
                    request.booked = decision.socket
                    if decision.instead_of is not None:
                        to_close.append(decision.instead_of)
                elif decision is not None:
                    request.booked = decision
                else:
                    request.gate = threading.Lock()
                    request.gate.acquire()
            except BaseException as error:
                self.mend_after(error)
                raise
        self._after(to_close)
        if request.gate is not None:
            self._wait(request, request.gate, wait_s)
        if request.booked is None:
            raise AgentClosedError("the agent was closed while the request waited for a socket")
        return request.booked

    def _wait(self, request: SyncRequest, gate: threading.Lock, wait_s: float | None) -> None:
        if gate.acquire(timeout=-1 if wait_s is None else min(wait_s, threading.TIMEOUT_MAX)):
            return
        with self._lock, self._deciding:
            is_late = request.pending
            self.book.cancel(request)
        if is_late:
            self.events.tell(EventKind.TIMED_OUT, request.origin, "queue_timeout", 0, 0.0)
            self._after()
            raise QueueTimeoutError(f"no socket was free within {wait_s:g} s", wait_s or 0.0)

    def give_up(self, book: Book, request: SyncRequest) -> None:
        """Take back all that a request was given, when it ended before its caller got it.

        It never waits for the lock, which this very thread may hold.
        """
        if book is self.book:
            self._departed.append((request, CloseReason.ABORTED))
            self._drain()

    def opened(self, book: Book, booked: Booked, handle: Handle) -> None:
        """Note that a socket is connected. Raises `AgentClosedError` if the agent was closed meanwhile."""
        with self._lock, self._deciding:
            if book is not self.book or book.is_closed:
                raise AgentClosedError("the agent was closed while a socket was connected")
            book.opened(booked, handle, monotonic())
        self._after()

    def checkin(self, book: Book, booked: Booked, *, reusable: bool, hint: KeepAliveHint | None) -> bool:
        """Hand on, keep or close a socket whose response is finished; return False if the book no longer knows it."""
        to_close: list[Booked] = []
        with self._lock:
            if book is not self.book or book.is_closed:
                return False
            try:
                decision = book.checkin(booked, monotonic(), reusable, hint)
                if isinstance(decision, ToClose):
                    to_close.append(decision.socket)
                    self._open_for(decision.then_open)
                elif decision is not None:
                    self._let_in(decision, booked)
            except BaseException as error:
                self.mend_after(error)
                raise
        self._after(to_close)
        return True

    def replace(self, book: Book, request: SyncRequest, reason: CloseReason) -> Booked:
        """Return another socket for a request whose free one is dead, as `checkout` does. Raises `AgentClosedError`."""
        with self._lock, self._deciding:
            if book is not self.book or book.is_closed or request.booked is None:
                raise AgentClosedError(_CLOSED)
            request.booked, then_open = book.replace(request.booked, reason, monotonic())
            self._open_for(then_open)
        self._after()
        return request.booked

    def reopen(self, connection: Reopening, reason: CloseReason) -> bool:
        """Give a connection whose socket is dead a fresh place for its request. False: the agent was closed."""
        book, booked = connection.book, connection.booked
        request = None if booked is None else booked.request
        try:
            with self._lock, self._deciding:
                if book is not self.book or book.is_closed or booked is None:
                    connection.booked = None
                    return False
                connection.booked = book.reopen(booked, reason, monotonic())
        except BaseException:
            if request is not None:
                self.give_up(book, request)
            raise
        self._after()
        return True

    def met_stale(self, book: Book) -> None:
        """Count a request that met a stale socket and is not sent again; `reopen` counts the others."""
        with self._lock, self._deciding:
            book.met_stale()

    def doubt_idle(self, book: Book, booked: Booked) -> None:
        """Close the sockets that have been idle for as long as a reused one that timed out silently (AK-62)."""
        with self._lock, self._deciding:
            doubtful = [] if book is not self.book or book.is_closed else book.doubt_idle(booked, monotonic())
            for closed in doubtful:
                self._open_for(closed.then_open)
        self._after([closed.socket for closed in doubtful])

    def remove(self, book: Book, booked: Booked, reason: CloseReason) -> None:
        """Note that a socket is gone, or failed to connect. Never waits for the lock, which this thread may hold."""
        if book is self.book:
            self._departed.append((booked, reason))
            self._drain()  # calls no listener: the interrupted thread may hold a lock of the listener's

    def pool_dropped(self, origin: str) -> None:
        """Close the free sockets of an origin whose pool is no longer held by anything.

        The garbage collector calls it, so it never waits for the lock.
        """
        self._departed.append((origin, CloseReason.CLEARED))
        self._drain()

    def clear(self, origin: str | None = None) -> None:
        """Close the free sockets of an origin, or all."""
        with self._lock, self._deciding:
            to_close = self.book.free_sockets(origin)
            now = monotonic()
            for booked in to_close:
                self._open_for(self.book.remove(booked, CloseReason.CLEARED, now))
        self._after(to_close)

    def close(self) -> None:
        """Close all sockets; requests under way and pending ones fail. Closing twice is fine."""
        with self._lock, self._deciding:
            self._take_out_departed(monotonic())
            free = self.book.free_sockets()
            sockets, pending = self.book.close(monotonic())
            for request in pending:
                self._let_in(request, None)
        self._alarm.set()
        active = set(sockets) - set(free)
        self._after(free)
        for booked in active:
            if booked.handle is not None:
                booked.handle.interrupt()

    # -- looking in ----------------------------------------------------------------------------------------------------

    def status(self) -> AgentStatus:
        """Return the counters, and sockets and pending requests by origin, as they are now."""
        to_close: list[Booked] = []
        with self._lock, self._deciding:
            now = monotonic()
            self._take_out_departed(now)
            if self.book.next_deadline <= now:
                to_close = self._take_out_due(now)
            status = self.book.status()
        self._after(to_close)
        return status

    def contradictions(self) -> list[str]:
        """Return what does not add up in the book: nothing, unless something is wrong."""
        with self._lock, self._deciding:
            return self.book.contradictions()

    def status_changed(self) -> bool:
        """Return whether any counter moved since the last call."""
        with self._lock, self._deciding:
            self._take_out_departed(monotonic())
            changed = self.book.status_changed()
        self._after()
        return changed

    @property
    def is_closed(self) -> bool:
        """Whether the agent was closed, and nothing is left of its sockets."""
        status = self.status()
        return self.book.is_closed and not (status.sockets or status.free_sockets or status.requests)

    def add_event_listener(self, listener: EventListener, kinds: Collection[EventKind] | None) -> None:
        """Call `listener` with events of these kinds (None: all) from now on."""
        self.events.add(listener, kinds)
        self.book.tells_reuse = self.events.wants_reuse

    # -- inside; with the lock held ------------------------------------------------------------------------------------

    def mend_after(self, error: BaseException) -> None:
        """Repair what an exception left half done, and wake each request that was given a socket but not told."""
        if self.book.is_closed or isinstance(error, AgentError):
            return
        for booked in self.book.mend(monotonic()):
            request = booked.request
            if request is not None and request.gate is not None and request.gate.locked():
                self._let_in(request, booked)

    def _let_in(self, request: SyncRequest, booked: Booked | None) -> None:
        request.booked = booked
        if request.gate is not None:
            request.gate.release()

    def _open_for(self, booked: Booked | None) -> None:
        """Wake the pending request that a place was given to; it opens the socket itself."""
        if booked is not None and booked.request is not None:
            self._let_in(booked.request, booked)

    def _take_out_departed(self, now: float) -> None:
        departed, book = self._departed, self.book
        while departed:
            gone, reason = departed[0]  # removed only at the end, in case this is interrupted
            if not book.is_closed:
                if isinstance(gone, SyncRequest):
                    self._close_later(book.abandon(gone, now))
                elif isinstance(gone, str):
                    self._close_later(
                        [ToClose(free, reason, book.remove(free, reason, now)) for free in book.free_sockets(gone)]
                    )
                elif gone.state is SocketState.CONNECTING and reason is not CloseReason.ABORTED:
                    self._open_for(book.open_failed(gone, now))
                else:
                    self._open_for(book.remove(gone, reason, now))
            departed.popleft()

    def _close_later(self, to_close: Iterable[ToClose[Handle, SyncRequest]]) -> None:
        """Note sockets that are to be closed once the lock is free, and wake the requests that take their places."""
        for closed in to_close:
            if closed.socket.handle is not None:
                self._to_close.append(closed.socket)
            self._open_for(closed.then_open)

    def _take_out_unusable(self, now: float, to_close: list[Booked]) -> None:
        """Take out sockets that have departed or come due, before one is given. Raises `AgentClosedError`."""
        if self.book.is_closed:
            raise AgentClosedError(_CLOSED)
        if self._departed:
            self._take_out_departed(now)
        if self.book.next_deadline <= now:
            to_close += self._take_out_due(now)

    def _take_out_due(self, now: float) -> list[Booked]:
        due = self.book.due(now)
        for to_close in due.close:
            self._open_for(to_close.then_open)
        return [to_close.socket for to_close in due.close]

    # -- inside; without the lock --------------------------------------------------------------------------------------

    def _after(self, to_close: Sequence[Booked] = ()) -> None:
        """Do what a decision leaves to be done once the lock is free."""
        if to_close:
            self._to_close.extend(to_close)
        if self._to_close:
            self._close_what_is_to_be()
        if self.book.next_deadline < self._reaper_looks_at:
            self._wake_reaper()
        if self.events.has_news:
            self.events.deliver()
        if self._departed:
            self._drain()

    def _close_what_is_to_be(self) -> None:
        while self._to_close:
            try:
                booked = self._to_close.popleft()
            except IndexError:
                return  # another thread closes too
            handle, booked.handle = booked.handle, None
            if handle is not None:
                handle.close_socket()

    def _drain(self) -> bool:
        """Take out what has departed, unless another thread holds the lock and so will; return whether it was done."""
        drained = False
        while self._departed and self._lock.acquire(blocking=False):
            try:
                self._take_out_departed(monotonic())
            except BaseException as error:
                self.mend_after(error)
                raise
            finally:
                self._lock.release()
            drained = True
        self._close_what_is_to_be()
        return drained

    # -- the reaper ----------------------------------------------------------------------------------------------------

    def _wake_reaper(self) -> None:
        with self._lock, self._deciding:
            self._reaper_looks_at = self.book.next_deadline
            if self._reaper is not None or self.book.is_closed:
                self._alarm.set()
                return
            reaper = self._reaper = threading.Thread(
                target=_reap, args=(weakref.ref(self), self._alarm), name="kabench-reaper", daemon=True
            )
        try:
            reaper.start()
        except RuntimeError:  # no more threads, or the interpreter is ending; checkouts look at deadlines too
            with self._lock, self._deciding:
                self._reaper, self._reaper_looks_at = None, inf

    def look(self) -> float | None:
        """Close what is due; return how many seconds until there is more (None: never). The reaper calls it."""
        with self._lock, self._deciding:
            now = monotonic()
            to_close = self._take_out_due(now) if self.book.next_deadline <= now else []
            deadline = self._reaper_looks_at = self.book.next_deadline
            if deadline == inf:
                self._reaper = None
        self._after(to_close)
        return None if deadline == inf else max(0.0, deadline - now) + _REAPER_SLACK_S

    def reaper_ended(self) -> None:
        """Note that a listener's exception ended the reaper; the next free socket starts another."""
        with self._lock, self._deciding:
            self._reaper, self._reaper_looks_at = None, inf

    def after_fork(self) -> None:
        """Begin again in a child process, without closing anything of the parent's."""
        self._finalizer.detach()
        was_closed = self.book.is_closed
        self.book.on_event = None  # these sockets are the parent's, where they stay open
        sockets, _ = self.book.close(monotonic())
        self.events.forget()
        self.sessions.after_fork()
        self._begin()
        if was_closed:
            self.book.close(monotonic())
        for booked in sockets:
            if booked.handle is not None:
                with contextlib.suppress(OSError):
                    booked.handle.close_socket()  # only in this process: the connection stays the parent's


def _reap(keeper_of: Callable[[], SocketKeeper | None], alarm: threading.Event) -> None:
    while True:
        keeper = keeper_of()
        try:
            wait_s = None if keeper is None else keeper.look()
        except BaseException:
            if keeper is not None:
                keeper.reaper_ended()
            raise
        del keeper
        if wait_s is None:
            return
        alarm.wait(min(wait_s, threading.TIMEOUT_MAX))
        alarm.clear()


def _close_free_sockets(book: Book, alarm: threading.Event) -> None:
    """Close the free sockets of an agent that is no longer used, or whose process ends."""
    for booked in book.free_sockets():
        if booked.handle is not None:
            booked.handle.close_socket()
    alarm.set()


_keepers: weakref.WeakSet[SocketKeeper] = weakref.WeakSet()


def _after_fork() -> None:
    for keeper in list(_keepers):
        keeper.after_fork()


os.register_at_fork(after_in_child=_after_fork)
