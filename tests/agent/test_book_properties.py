"""The book under arbitrary histories: whatever happens, its promises hold.

The machine plays driver and keeps its own idea of where every socket and request is, only from what the book decided.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kabench.agent import AgentOptions
from kabench.agent.book import BookedRequest, BookedSocket, CloseReason, SocketBook, SocketState, ToClose, ToOpen
from kabench.agent.events import EventKind
from kabench.agent.hints import KeepAliveHint

ORIGINS = ("http://a:80", "http://b:80", "http://c:80")

Booked = BookedSocket[int, BookedRequest]

options = st.fixed_dictionaries(
    {
        "max_sockets": st.one_of(st.none(), st.integers(1, 3)),
        "max_total_sockets": st.one_of(st.none(), st.integers(1, 4)),
        "max_free_sockets": st.integers(1, 3),
        "free_socket_timeout": st.sampled_from([0, 1, 4]),
        "timeout": st.sampled_from([0, 2, 4]),
        "connect_timeout": st.sampled_from([None, 0, 1]),
        "socket_active_ttl": st.sampled_from([None, 3, 10]),
        "queue_timeout": st.sampled_from([None, 2]),
        "max_requests_per_socket": st.sampled_from([None, 1, 3]),
        "scheduling": st.sampled_from(["lifo", "fifo"]),
        "kind": st.sampled_from(["keepalive", "keepalive", "plain", "hand_off"]),
    }
)

hints = st.one_of(
    st.none(),
    st.builds(
        KeepAliveHint,
        timeout_s=st.one_of(st.none(), st.sampled_from([0.0, 1.0, 5.0])),
        max_requests=st.one_of(st.none(), st.integers(0, 2)),
    ),
)


class BookMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.connecting: list[Booked] = []
        self.active: list[Booked] = []
        self.free: list[Booked] = []
        self.closed = 0
        self.created = 0
        self.failed = 0
        self.pending: list[BookedRequest] = []
        self.finished = 0
        self.retried = 0
        self.told: Counter[EventKind] = Counter()

    @initialize(given=options)
    def make_book(self, given: dict[str, Any]) -> None:
        kind = given.pop("kind")
        self.options = AgentOptions(
            keep_alive=kind == "keepalive", hand_off=kind == "hand_off", respect_hints=True, **given
        )
        self.book: SocketBook[int, BookedRequest] = SocketBook(self.options)
        self.book.on_event = lambda kind, *_: self.told.update([kind])

    # -- what the driver does with decisions ---------------------------------------------------------------------------

    def _opens(self, booked: Booked | None) -> None:
        if booked is None:
            return
        assert booked.state is SocketState.CONNECTING
        request = booked.request
        assert request is not None
        if request in self.pending:
            self._was_first_in_line(request)
            self.pending.remove(request)
        self.connecting.append(booked)

    def _was_first_in_line(self, request: BookedRequest) -> None:
        same_origin = [other for other in self.pending if other.origin == request.origin]
        assert same_origin[0] is request

    def _closes(self, booked: Booked) -> None:
        assert booked.state is SocketState.CLOSED
        for place in (self.connecting, self.active, self.free):
            if booked in place:
                place.remove(booked)
                if place is not self.connecting:
                    self.closed += 1
                return
        raise AssertionError("closed a socket that was nowhere")

    def _look_at_deadlines(self) -> None:
        due = self.book.due(self.now)
        for to_close in due.close:
            assert to_close.socket.deadline <= self.now
            if to_close.reason is CloseReason.CONNECT_TIMEOUT:
                self.failed += 1
            self._closes(to_close.socket)
        for request in due.late:
            self.pending.remove(request)
        for to_close in due.close:
            self._opens(to_close.then_open)

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(origin=st.sampled_from(ORIGINS), timeout=st.sampled_from([inf, 1.0, 3.0]))
    def request(self, origin: str, timeout: float) -> None:
        self._look_at_deadlines()
        request = BookedRequest(origin, timeout)
        decision = self.book.checkout(request, self.now)
        if decision is None:
            assert request.pending
            self.pending.append(request)
        elif isinstance(decision, ToOpen):
            if decision.instead_of is not None:
                assert decision.instead_of in self.free
                self._closes(decision.instead_of)
            self._opens(decision.socket)
        else:
            here = [socket for socket in self.free if socket.origin == origin]
            assert decision is here[-1 if self.options.scheduling == "lifo" else 0]
            assert decision.reused
            self.free.remove(decision)
            self.active.append(decision)

    @precondition(lambda self: self.connecting)
    @rule(data=st.data(), succeeds=st.booleans())
    def connect(self, data: st.DataObject, succeeds: bool) -> None:
        booked = data.draw(st.sampled_from(self.connecting))
        if succeeds:
            self.connecting.remove(booked)
            self.active.append(booked)
            self.created += 1
            self.book.opened(booked, self.created, self.now)
        else:
            self.failed += 1
            then_open = self.book.open_failed(booked, self.now)
            self._closes(booked)
            self._opens(then_open)

    @precondition(lambda self: self.active)
    @rule(data=st.data(), reusable=st.sampled_from([True, True, True, False]), hint=hints)
    def response(self, data: st.DataObject, reusable: bool, hint: KeepAliveHint | None) -> None:
        booked = data.draw(st.sampled_from(self.active))
        self.finished += 1
        decision = self.book.checkin(booked, self.now, reusable, hint)
        if decision is None:
            assert self.options.keep_alive
            self.active.remove(booked)
            self.free.append(booked)
        elif isinstance(decision, ToClose):
            self._closes(booked)
            self._opens(decision.then_open)
        else:
            assert decision.origin == booked.origin
            self._was_first_in_line(decision)
            self.pending.remove(decision)
            assert booked.request is decision

    @precondition(lambda self: self.active or self.free or self.connecting)
    @rule(data=st.data(), reason=st.sampled_from([CloseReason.SERVER_CLOSED, CloseReason.ERROR, CloseReason.ABORTED]))
    def socket_dies(self, data: st.DataObject, reason: CloseReason) -> None:
        booked = data.draw(st.sampled_from(self.active + self.free + self.connecting))
        then_open = self.book.remove(booked, reason, self.now)
        self._closes(booked)
        self._opens(then_open)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def is_sent_again(self, data: st.DataObject) -> None:
        booked = data.draw(st.sampled_from(self.active))
        request = booked.request
        fresh = self.book.reopen(booked, CloseReason.ERROR, self.now)
        assert fresh.request is request
        self.retried += 1
        self._closes(booked)
        self._opens(fresh)

    @precondition(lambda self: any(socket.reused for socket in self.active))
    @rule(data=st.data())
    def a_reused_socket_is_dead(self, data: st.DataObject) -> None:
        booked = data.draw(st.sampled_from([socket for socket in self.active if socket.reused]))
        request = booked.request
        free_here = [socket for socket in self.free if socket.origin == booked.origin]
        other, then_open = self.book.replace(booked, CloseReason.SERVER_CLOSED, self.now)
        assert other.request is request
        self._closes(booked)
        if free_here:
            assert other in free_here
            self.free.remove(other)
            self.active.append(other)
        else:
            assert then_open is None
            self._opens(other)
        self._opens(then_open)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def pending_request_gives_up(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.pending))
        self.book.cancel(request)
        self.pending.remove(request)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def bytes_move(self, data: st.DataObject) -> None:
        self.book.touch(data.draw(st.sampled_from(self.active)), self.now)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def no_byte_is_expected(self, data: st.DataObject) -> None:
        booked = data.draw(st.sampled_from(self.active))
        self.book.hold(booked)
        assert booked.deadline == inf

    @rule(origin=st.sampled_from([None, *ORIGINS]))
    def pool_is_cleared(self, origin: str | None) -> None:
        cleared = self.book.free_sockets(origin)
        assert set(cleared) == {socket for socket in self.free if origin in (None, socket.origin)}
        for booked in cleared:
            then_open = self.book.remove(booked, CloseReason.CLEARED, self.now)
            self._closes(booked)
            self._opens(then_open)

    @rule(seconds=st.sampled_from([0.25, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._look_at_deadlines()

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def the_book_knows_every_socket_where_it_is(self) -> None:
        status = self.book.status()
        for origin in ORIGINS:
            free = [socket for socket in self.free if socket.origin == origin]
            busy = [socket for socket in self.active + self.connecting if socket.origin == origin]
            assert status.free_sockets.get(origin, 0) == len(free)
            assert status.sockets.get(origin, 0) == len(busy)
            assert status.requests.get(origin, 0) == sum(request.origin == origin for request in self.pending)
        assert all(socket.state is SocketState.FREE and socket.request is None for socket in self.free)
        assert all(socket.state is SocketState.ACTIVE for socket in self.active)

    @invariant()
    def the_book_contradicts_itself_nowhere(self) -> None:
        assert not self.book.contradictions()

    @invariant()
    def limits_hold(self) -> None:
        sockets = self.active + self.connecting + self.free
        assert len(sockets) <= (self.options.max_total_sockets or inf)
        for origin in ORIGINS:
            assert sum(socket.origin == origin for socket in sockets) <= (self.options.max_sockets or inf)
            assert sum(socket.origin == origin for socket in self.free) <= self.options.max_free_sockets
        if not self.options.keep_alive:
            assert not self.free

    @invariant()
    def counters_add_up(self) -> None:
        status = self.book.status()
        assert status.create_socket_count == self.created == self.closed + len(self.free) + len(self.active)
        assert status.close_socket_count == self.closed
        assert status.create_socket_error_count == self.failed
        assert status.request_count == self.finished
        assert status.retry_count == self.retried
        assert status.timeout_socket_count + status.error_socket_count <= status.close_socket_count

    @invariant()
    def events_tell_what_the_counters_count(self) -> None:
        assert self.told[EventKind.CREATED] == self.created
        assert self.told[EventKind.CREATE_FAILED] == self.failed
        assert self.told[EventKind.CLOSED] == self.closed
        assert self.told[EventKind.RETRIED] == self.retried

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        sockets = self.active + self.connecting + self.free
        total_is_full = len(sockets) == (self.options.max_total_sockets or inf)
        for request in self.pending:
            assert request.pending
            here = [socket for socket in sockets if socket.origin == request.origin]
            assert not any(socket.state is SocketState.FREE for socket in here)
            assert len(here) == (self.options.max_sockets or inf) or (total_is_full and not self.free)

    @invariant()
    def no_request_is_in_two_places(self) -> None:
        carried = [id(socket.request) for socket in self.active + self.connecting]
        everywhere = carried + [id(request) for request in self.pending]
        assert len(everywhere) == len(set(everywhere))

    @invariant()
    def the_next_deadline_is_not_missed(self) -> None:
        deadlines = [socket.deadline for socket in self.active + self.connecting + self.free]
        assert self.book.next_deadline <= min(deadlines, default=inf)

    def teardown(self) -> None:
        sockets, pending = self.book.close(self.now)
        assert set(sockets) == {*self.active, *self.connecting, *self.free}
        assert pending == self.pending


TestBook = BookMachine.TestCase
TestBook.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
