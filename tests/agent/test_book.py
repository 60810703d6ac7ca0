"""The rules of the book by example, with a made-up clock. Sockets are strings, requests are letters."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import AgentOptions
from kabench.agent.book import BookedRequest, BookedSocket, CloseReason, SocketBook, SocketState, ToClose, ToOpen
from kabench.agent.hints import KeepAliveHint

if TYPE_CHECKING:
    from collections.abc import Iterable

A = "http://a:80"
B = "http://b:80"
C = "http://c:80"

Booked = BookedSocket[str, BookedRequest]


class Desk:
    """A book, and a driver that does at once what it says."""

    def __init__(self, **options: Any) -> None:
        self.book: SocketBook[str, BookedRequest] = SocketBook(AgentOptions(**options))
        self.made = 0

    def request(self, origin: str = A, timeout: float = 100.0) -> BookedRequest:
        return BookedRequest(origin, timeout)

    def ask(self, now: float = 0.0, origin: str = A, timeout: float = 100.0) -> BookedRequest:
        """A request that asks for a socket; a new one connects at once."""
        request = self.request(origin, timeout)
        self.give(request, now)
        return request

    def give(self, request: BookedRequest, now: float) -> Booked | ToOpen[str, BookedRequest] | None:
        decision = self.book.checkout(request, now)
        if isinstance(decision, ToOpen):
            self.connect(decision.socket, now)
        return decision

    def connect(self, booked: Booked, now: float) -> Booked:
        self.made += 1
        self.book.opened(booked, f"socket {self.made}", now)
        return booked

    def socket(self, now: float = 0.0, origin: str = A, timeout: float = 100.0) -> Booked:
        """The socket of a request that gets one at once."""
        decision = self.give(self.request(origin, timeout), now)
        if isinstance(decision, ToOpen):
            return decision.socket
        assert decision is not None
        return decision

    def sockets(self, origins: Iterable[str], now: float = 0.0) -> list[Booked]:
        return [self.socket(now, origin) for origin in origins]


def closed_for(decision: object) -> CloseReason:
    assert isinstance(decision, ToClose)
    assert decision.socket.state is SocketState.CLOSED
    return decision.reason


def test_ak_01_a_second_request_uses_the_socket_of_the_first() -> None:
    desk = Desk()
    first = desk.socket()
    assert not first.reused
    assert desk.book.checkin(first, 1.0) is None
    second = desk.socket(2.0)
    assert second is first
    assert second.reused
    assert desk.book.create_socket_count == 1


def test_ak_02_the_second_of_two_requests_at_once_is_pending() -> None:
    desk = Desk(max_sockets=1)
    first = desk.socket()
    second = desk.ask()
    assert desk.book.status().requests == {A: 1}
    assert desk.book.status().sockets == {A: 1}
    assert desk.book.checkin(first, 1.0) is second
    assert not second.pending
    assert desk.book.status().requests == {}


def test_ak_03_a_socket_that_is_still_connecting_takes_a_place() -> None:
    desk = Desk(max_sockets=1)
    opening = desk.book.checkout(desk.request(), 0.0)
    assert isinstance(opening, ToOpen)
    assert desk.book.checkout(desk.request(), 0.0) is None
    status = desk.book.status()
    assert status.sockets == {A: 1}
    assert status.create_socket_count == 0


def test_ak_04_pending_requests_are_served_in_order_of_arrival() -> None:
    desk = Desk(max_sockets=1)
    socket = desk.socket()
    waiting = [desk.ask() for _ in range(5)]
    served = [desk.book.checkin(socket, float(now)) for now in range(5)]
    assert served == waiting


def test_ak_05_no_more_than_max_free_sockets_stay() -> None:
    desk = Desk(max_free_sockets=2)
    sockets = desk.sockets([A] * 4)
    decisions = [desk.book.checkin(socket, 1.0) for socket in sockets]
    assert decisions[:2] == [None, None]
    assert [closed_for(decision) for decision in decisions[2:]] == [CloseReason.POOL_FULL] * 2
    assert desk.book.status().free_sockets == {A: 2}


def test_ak_06_300_requests_at_once_make_10_sockets_and_leave_5() -> None:
    desk = Desk(max_sockets=10, max_free_sockets=5)
    sockets = desk.sockets([A] * 10)
    for _ in range(290):
        desk.ask()
    finished = 0
    while sockets:
        socket = sockets.pop(0)
        finished += 1
        if isinstance(desk.book.checkin(socket, float(finished)), BookedRequest):
            sockets.append(socket)
    status = desk.book.status()
    assert (finished, status.create_socket_count, status.free_sockets) == (300, 10, {A: 5})


def test_ak_07_a_free_socket_is_closed_when_its_time_is_over() -> None:
    desk = Desk(free_socket_timeout=4)
    socket = desk.socket()
    desk.book.checkin(socket, 10.0)
    assert desk.book.next_deadline <= 14.0
    assert desk.book.due(13.9).close == []
    assert desk.book.next_deadline == 14.0
    (to_close,) = desk.book.due(14.0).close
    assert (to_close.socket, to_close.reason) == (socket, CloseReason.FREE_TIMEOUT)
    status = desk.book.status()
    assert (status.timeout_socket_count, status.close_socket_count, status.free_sockets) == (1, 1, {})
    assert desk.socket(14.0) is not socket


def test_ak_08_a_free_time_of_0_keeps_the_socket() -> None:
    desk = Desk(free_socket_timeout=0, timeout=1)
    socket = desk.socket(timeout=1.0)
    desk.book.checkin(socket, 0.5)
    assert desk.book.due(1e9).close == []
    assert desk.socket(1e9) is socket


def test_ak_09_a_free_time_equal_to_the_timeout_works() -> None:
    desk = Desk(free_socket_timeout=5, timeout=5)
    socket = desk.socket(timeout=5.0)
    desk.book.checkin(socket, 1.0)
    assert desk.book.due(5.0).close == []
    assert [c.reason for c in desk.book.due(6.0).close] == [CloseReason.FREE_TIMEOUT]


@pytest.mark.parametrize("requests_before", [0, 1])
def test_ak_10_an_active_socket_without_activity_is_closed(requests_before: int) -> None:
    desk = Desk()
    socket = desk.socket(timeout=3.0)
    for _ in range(requests_before):
        desk.book.checkin(socket, 0.0)
        assert desk.socket(0.0, timeout=3.0) is socket
    request = socket.request
    desk.book.touch(socket, 2.0)
    assert desk.book.due(4.9).close == []
    (to_close,) = desk.book.due(5.0).close
    assert to_close.reason is CloseReason.ACTIVE_TIMEOUT
    assert to_close.socket.request is request
    assert desk.book.timeout_socket_count == 1


@pytest.mark.parametrize(("timeout", "due_at"), [(1.0, 1.0), (50.0, 50.0), (inf, inf)])
def test_ak_11_a_request_s_own_timeout_wins(timeout: float, due_at: float) -> None:
    desk = Desk(timeout=10)
    desk.ask(timeout=timeout)
    if due_at < inf:
        assert desk.book.due(due_at - 0.1).close == []
        assert len(desk.book.due(due_at).close) == 1
    else:
        assert desk.book.due(1e12).close == []


def test_ak_11_a_request_s_timeout_does_not_stay_on_the_socket() -> None:
    desk = Desk(max_sockets=1)
    socket = desk.socket(timeout=1.0)
    desk.ask(timeout=20.0)
    desk.book.checkin(socket, 0.5)  # handed to the pending request, whose time starts here
    assert desk.book.due(20.4).close == []
    assert len(desk.book.due(20.5).close) == 1


def test_ak_12_a_socket_past_its_ttl_is_closed_when_its_request_ends() -> None:
    desk = Desk(max_sockets=1, socket_active_ttl=10)
    socket = desk.socket()
    pending = desk.ask()
    decision = desk.book.checkin(socket, 10.0)
    assert closed_for(decision) is CloseReason.TTL
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is pending


def test_ak_13_a_free_socket_s_time_is_no_longer_than_the_rest_of_its_ttl() -> None:
    desk = Desk(free_socket_timeout=4, socket_active_ttl=10)
    socket = desk.socket()
    desk.book.checkin(socket, 8.0)
    assert desk.book.due(9.9).close == []
    assert len(desk.book.due(10.0).close) == 1


def test_ak_14_a_younger_socket_is_not_closed_early() -> None:
    desk = Desk(free_socket_timeout=4, socket_active_ttl=10)
    old, young = desk.socket(0.0), desk.socket(5.0)
    desk.book.checkin(old, 9.0)
    desk.book.checkin(young, 9.0)
    assert [c.socket for c in desk.book.due(10.0).close] == [old]
    assert desk.book.status().free_sockets == {A: 1}
    assert [c.socket for c in desk.book.due(13.0).close] == [young]


def test_ak_15_a_free_socket_that_the_server_closes_leaves_at_once() -> None:
    desk = Desk()
    socket = desk.socket()
    desk.book.checkin(socket, 1.0)
    assert desk.book.remove(socket, CloseReason.SERVER_CLOSED, 2.0) is None
    assert desk.book.status().free_sockets == {}
    assert desk.socket(3.0) is not socket
    assert desk.book.error_socket_count == 0


@pytest.mark.parametrize("reason", [CloseReason.ERROR, CloseReason.STRAY_BYTES])
def test_ak_16_and_ak_17_an_error_on_a_free_socket_is_counted(reason: CloseReason) -> None:
    desk = Desk()
    socket = desk.socket()
    desk.book.checkin(socket, 1.0)
    desk.book.remove(socket, reason, 2.0)
    assert (desk.book.error_socket_count, desk.book.close_socket_count) == (1, 1)
    assert desk.book.remove(socket, reason, 2.0) is None  # heard of twice, counted once
    assert (desk.book.error_socket_count, desk.book.close_socket_count) == (1, 1)


def test_ak_18_and_ak_19_a_socket_that_dies_under_a_request_is_replaced_for_a_pending_one() -> None:
    desk = Desk(max_sockets=1)
    socket = desk.socket()
    pending = desk.ask()
    then_open = desk.book.remove(socket, CloseReason.ABORTED, 1.0)
    assert then_open is not None
    assert then_open.request is pending
    assert not then_open.reused


def test_ak_20_a_cancelled_pending_request_leaves_the_queue() -> None:
    desk = Desk(max_sockets=1)
    socket = desk.socket()
    waiting = [desk.ask() for _ in range(4)]
    desk.book.cancel(waiting[1])
    desk.book.cancel(waiting[1])
    desk.book.cancel(waiting[0])
    assert desk.book.status().requests == {A: 2}
    assert [desk.book.checkin(socket, 1.0), desk.book.checkin(socket, 2.0)] == waiting[2:]


def test_ak_21_a_plain_agent_closes_after_every_request() -> None:
    desk = Desk(keep_alive=False, max_sockets=1)
    socket = desk.socket()
    pending = desk.ask()
    decision = desk.book.checkin(socket, 1.0)
    assert closed_for(decision) is CloseReason.NOT_KEEP_ALIVE
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is pending


def test_ak_22_a_hand_off_agent_hands_to_a_pending_request_or_closes() -> None:
    desk = Desk(keep_alive=False, hand_off=True, max_sockets=1)
    socket = desk.socket()
    pending = desk.ask()
    assert desk.book.checkin(socket, 1.0) is pending
    assert closed_for(desk.book.checkin(socket, 2.0)) is CloseReason.NOBODY_PENDING


def test_ak_23_a_failed_connect_is_counted_once_and_the_next_pending_tries() -> None:
    desk = Desk(max_sockets=1)
    opening = desk.book.checkout(desk.request(), 0.0)
    pending = desk.ask()
    assert isinstance(opening, ToOpen)
    then_open = desk.book.open_failed(opening.socket, 1.0)
    assert then_open is not None
    assert then_open.request is pending
    status = desk.book.status()
    assert (status.create_socket_error_count, status.create_socket_count) == (1, 0)
    assert (status.close_socket_count, status.error_socket_count) == (0, 0)


def test_ak_23_a_connect_that_takes_too_long_is_a_failed_one() -> None:
    desk = Desk(connect_timeout=2)
    desk.book.checkout(desk.request(), 0.0)
    assert desk.book.due(1.9).close == []
    assert [c.reason for c in desk.book.due(2.0).close] == [CloseReason.CONNECT_TIMEOUT]
    status = desk.book.status()
    assert (status.create_socket_error_count, status.close_socket_count, status.timeout_socket_count) == (1, 0, 0)


def test_ak_24_close_gives_back_every_socket_and_pending_request_in_order() -> None:
    desk = Desk(max_sockets=1)
    a, b = desk.sockets([A, B])
    connecting = desk.book.checkout(desk.request(C), 0.0)
    desk.book.checkin(b, 1.0)
    waiting = [desk.ask(), desk.ask()]
    sockets, pending = desk.book.close(0.0)
    assert isinstance(connecting, ToOpen)
    assert {*sockets} == {a, b, connecting.socket}
    assert pending == waiting
    assert desk.book.is_closed
    assert (desk.book.create_socket_count, desk.book.close_socket_count) == (2, 2)
    assert desk.book.close(0.0) == ([], [])
    assert desk.book.next_deadline == inf


def test_ak_25_a_response_that_forbids_it_is_the_last_on_its_socket() -> None:
    desk = Desk()
    assert closed_for(desk.book.checkin(desk.socket(), 1.0, False)) is CloseReason.NOT_REUSABLE
    assert desk.book.request_count == 1


def test_ak_27_the_longest_free_socket_elsewhere_gives_way_at_the_total_limit() -> None:
    desk = Desk(max_total_sockets=2)
    a, b = desk.sockets([A, B])
    desk.book.checkin(b, 1.0)
    desk.book.checkin(a, 2.0)
    decision = desk.book.checkout(desk.request(C), 3.0)
    assert isinstance(decision, ToOpen)
    assert decision.instead_of is b
    assert b.state is SocketState.CLOSED
    assert desk.book.status().free_sockets == {A: 1}


def test_ak_27_with_none_free_requests_wait_in_order_over_all_origins() -> None:
    desk = Desk(max_total_sockets=1)
    a = desk.socket(0.0, A)
    for_b, for_a = desk.ask(1.0, B), desk.ask(1.0, A)
    decision = desk.book.checkin(a, 2.0)
    assert closed_for(decision) is CloseReason.GAVE_WAY
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is for_b
    desk.connect(decision.then_open, 2.0)
    decision = desk.book.checkin(decision.then_open, 3.0)
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is for_a


def test_ak_27_a_request_that_waits_for_its_origin_s_own_limit_does_not_hold_up_others() -> None:
    desk = Desk(max_total_sockets=2, max_sockets=1)
    a, b = desk.sockets([A, B])
    desk.ask(1.0, B)  # older, but B has all the sockets it may have
    for_a = desk.ask(1.0, A)
    assert desk.book.checkin(a, 2.0) is for_a
    assert b.state is SocketState.ACTIVE


@pytest.mark.parametrize(("scheduling", "order"), [("lifo", [2, 1, 0]), ("fifo", [0, 1, 2])])
def test_ak_28_scheduling(scheduling: str, order: list[int]) -> None:
    desk = Desk(scheduling=scheduling)
    sockets = desk.sockets([A] * 3)
    for now, socket in enumerate(sockets):
        desk.book.checkin(socket, float(now))
    assert [sockets.index(desk.socket(3.0)) for _ in range(3)] == order


def test_ak_29_a_request_that_waits_too_long_leaves_and_the_others_keep_their_places() -> None:
    desk = Desk(max_sockets=1, queue_timeout=5)
    socket = desk.socket(timeout=1000)
    early, later, latest = desk.ask(1.0), desk.ask(2.0), desk.ask(3.0)
    assert desk.book.next_deadline == 6.0
    assert desk.book.due(5.9).late == []
    assert desk.book.due(6.0).late == [early]
    assert desk.book.checkin(socket, 6.5) is later
    assert desk.book.due(7.0).late == []
    assert desk.book.due(8.0).late == [latest]
    assert desk.book.status().requests == {}


def test_ak_29_a_request_object_that_waits_again_has_its_time_again() -> None:
    desk = Desk(max_sockets=1, queue_timeout=5)
    socket = desk.socket(timeout=1000)
    request = desk.ask(0.0)
    assert desk.book.checkin(socket, 1.0) is request
    waiting = desk.ask(1.5)
    assert desk.book.checkin(socket, 2.0) is waiting
    desk.give(request, 4.0)
    assert desk.book.due(5.0).late == []
    assert desk.book.due(9.0).late == [request]


def test_ak_30_a_hint_shortens_the_free_time_and_never_lengthens_it() -> None:
    desk = Desk(free_socket_timeout=4)
    hinted, generous = desk.sockets([A, A])
    desk.book.checkin(hinted, 0.0, True, KeepAliveHint(timeout_s=2))
    desk.book.checkin(generous, 0.0, True, KeepAliveHint(timeout_s=60))
    assert [c.socket for c in desk.book.due(1.0).close] == [hinted]
    assert desk.book.due(3.9).close == []
    assert [c.socket for c in desk.book.due(4.0).close] == [generous]


def test_ak_30_a_hint_of_0_closes_and_an_agent_may_be_told_to_ignore_hints() -> None:
    desk = Desk()
    assert closed_for(desk.book.checkin(desk.socket(), 1.0, True, KeepAliveHint(timeout_s=0))) is CloseReason.HINT
    deaf = Desk(respect_hints=False)
    assert deaf.book.checkin(deaf.socket(), 1.0, True, KeepAliveHint(timeout_s=0, max_requests=0)) is None


def test_ak_31_a_hint_of_max_counts_down() -> None:
    desk = Desk()
    socket = desk.socket()
    assert desk.book.checkin(socket, 1.0, True, KeepAliveHint(max_requests=2)) is None
    assert desk.socket(1.0) is socket
    assert desk.book.checkin(socket, 2.0) is None
    assert desk.socket(2.0) is socket
    assert closed_for(desk.book.checkin(socket, 3.0)) is CloseReason.MAX_REQUESTS


def test_ak_31_a_hint_of_max_0_closes_now() -> None:
    desk = Desk()
    decision = desk.book.checkin(desk.socket(), 1.0, True, KeepAliveHint(max_requests=0))
    assert closed_for(decision) is CloseReason.MAX_REQUESTS


def test_ak_31_max_requests_per_socket_does_the_same_from_our_side() -> None:
    desk = Desk(max_requests_per_socket=2)
    socket = desk.socket()
    assert desk.book.checkin(socket, 1.0, True, KeepAliveHint(max_requests=50)) is None
    assert desk.socket(1.0) is socket
    assert closed_for(desk.book.checkin(socket, 2.0)) is CloseReason.MAX_REQUESTS


def test_ak_32_the_status_counts_and_leaves_empty_origins_out() -> None:
    desk = Desk(max_sockets=1)
    a, b = desk.sockets([A, B])
    desk.ask(0.0, A)
    desk.book.checkin(b, 1.0)
    status = desk.book.status()
    assert status.as_dict() == {
        "create_socket_count": 2,
        "create_socket_error_count": 0,
        "close_socket_count": 0,
        "timeout_socket_count": 0,
        "error_socket_count": 0,
        "stale_socket_count": 0,
        "request_count": 1,
        "retry_count": 0,
        "free_sockets": {B: 1},
        "sockets": {A: 1},
        "requests": {A: 1},
        "closed_by": {},
    }
    assert a.origin == A


def test_ak_33_status_changed_is_true_once_after_a_counter_moved() -> None:
    desk = Desk()
    assert not desk.book.status_changed()
    socket = desk.socket()
    assert desk.book.status_changed()
    assert not desk.book.status_changed()
    desk.book.checkin(socket, 1.0)
    assert desk.book.status_changed()
    assert not desk.book.status_changed()


def test_ak_34_a_dead_socket_is_replaced_in_its_place_for_the_same_request() -> None:
    desk = Desk(max_sockets=1)
    socket = desk.socket()
    desk.book.checkin(socket, 1.0)
    request = desk.request()
    assert desk.give(request, 2.0) is socket
    pending = desk.ask(2.0)
    fresh = desk.book.reopen(socket, CloseReason.ERROR, 3.0)
    assert fresh.request is request
    assert not fresh.reused
    assert pending.pending
    assert desk.book.retry_count == 1
    desk.connect(fresh, 3.0)
    assert desk.book.checkin(fresh, 4.0) is pending


def test_wake_ups_of_closed_sockets_do_not_pile_up() -> None:
    desk = Desk(keep_alive=False, timeout=1000)
    for now in range(20_000):
        desk.book.checkin(desk.socket(float(now) / 1000), float(now) / 1000)
    assert len(desk.book._wakes) < 1000


def test_queue_deadlines_of_served_requests_do_not_pile_up() -> None:
    desk = Desk(max_sockets=1, queue_timeout=1000)
    socket = desk.socket()
    for now in range(5_000):
        desk.ask(float(now) / 1000)
        desk.book.checkin(socket, float(now) / 1000)
    assert len(desk.book._queue_deadlines) < 10


def test_a_held_socket_has_no_deadline_until_bytes_move_again() -> None:
    desk = Desk(timeout=5)
    socket = desk.socket(0.0, timeout=5)
    desk.book.hold(socket)
    assert not desk.book.due(100.0).close
    desk.book.touch(socket, 100.0)
    assert desk.book.next_deadline <= 105.0
    assert [to_close.socket for to_close in desk.book.due(105.0).close] == [socket]


def test_the_free_sockets_of_an_origin_can_be_taken_out() -> None:
    desk = Desk()
    here, there = desk.sockets([A, B])
    for socket in (here, there):
        desk.book.checkin(socket, 1.0)
    assert desk.book.free_sockets(A) == [here]
    assert desk.book.free_sockets() == [here, there]
    assert desk.book.free_sockets("http://nowhere:80") == []


def test_what_happens_is_told_as_it_happens() -> None:
    desk = Desk(free_socket_timeout=4)
    told: list[tuple[str, str, int, float]] = []
    desk.book.on_event = lambda kind, origin, reason, count, age_s: told.append((kind.value, reason, count, age_s))
    socket = desk.socket(0.0)
    desk.book.checkin(socket, 1.0)
    desk.ask(2.0)
    desk.book.checkin(socket, 3.0)
    desk.book.due(7.0)
    assert told == [("created", "", 1, 0.0), ("timed_out", "free_timeout", 2, 7.0), ("closed", "free_timeout", 2, 7.0)]
    told.clear()
    desk.book.tells_reuse = True
    again = desk.socket(8.0)
    desk.book.checkin(again, 9.0)
    desk.ask(10.0)
    assert told[-1] == ("reused", "", 2, 2.0)


def test_a_dead_reused_socket_is_replaced_without_losing_its_turn() -> None:
    desk = Desk(max_sockets=2)
    first, second = desk.sockets([A, A])
    for socket in (first, second):
        desk.book.checkin(socket, 1.0)
    taken = desk.socket(2.0)
    other, then_open = desk.book.replace(taken, CloseReason.SERVER_CLOSED, 2.0)
    assert (other, then_open) == (first, None)
    waiting = desk.ask(3.0)
    desk.ask(4.0)
    fresh, then_open = desk.book.replace(other, CloseReason.SERVER_CLOSED, 5.0)
    assert (fresh.state, fresh.request_count, then_open) == (SocketState.CONNECTING, 1, None)
    assert (desk.book.retry_count, desk.book.close_socket_count) == (0, 2)
    assert waiting.pending is False


def test_the_place_of_a_dead_socket_goes_to_who_waits_elsewhere_if_another_is_free_here() -> None:
    desk = Desk(max_total_sockets=2, max_sockets=2)
    first, second = desk.sockets([A, A])
    elsewhere = desk.ask(1.0, B)
    assert elsewhere.pending
    desk.book.checkin(first, 1.0, reusable=True)
    assert desk.book.status().requests == {}
    assert second.state is SocketState.ACTIVE
