"""The rules of the book by example, with a made-up clock. Sockets are strings, requests are letters."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import AgentOptions
from kabench.agent.book import BookedRequest, BookedSocket, CloseReason, SocketBook, SocketState, ToClose, ToOpen
from kabench.agent.hints import KeepAliveHint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

A = "http://a:80"
B = "http://b:80"
C = "http://c:80"

Booked = BookedSocket[str, BookedRequest]


class Driver:
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
    driver = Driver()
    first = driver.socket()
    assert not first.reused
    assert driver.book.checkin(first, 1.0) is None
    second = driver.socket(2.0)
    assert second is first
    assert second.reused
    assert driver.book.create_socket_count == 1


def test_ak_02_the_second_of_two_requests_at_once_is_pending() -> None:
    driver = Driver(max_sockets=1)
    first = driver.socket()
    second = driver.ask()
    assert driver.book.status().requests == {A: 1}
    assert driver.book.status().sockets == {A: 1}
    assert driver.book.checkin(first, 1.0) is second
    assert not second.pending
    assert driver.book.status().requests == {}


def test_ak_03_a_socket_that_is_still_connecting_takes_a_place() -> None:
    driver = Driver(max_sockets=1)
    opening = driver.book.checkout(driver.request(), 0.0)
    assert isinstance(opening, ToOpen)
    assert driver.book.checkout(driver.request(), 0.0) is None
    status = driver.book.status()
    assert status.sockets == {A: 1}
    assert status.create_socket_count == 0


def test_ak_04_pending_requests_are_served_in_order_of_arrival() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    waiting = [driver.ask() for _ in range(5)]
    served = [driver.book.checkin(socket, float(now)) for now in range(5)]
    assert served == waiting


def test_ak_05_no_more_than_max_free_sockets_stay() -> None:
    driver = Driver(max_free_sockets=2)
    sockets = driver.sockets([A] * 4)
    decisions = [driver.book.checkin(socket, 1.0) for socket in sockets]
    assert decisions[:2] == [None, None]
    assert [closed_for(decision) for decision in decisions[2:]] == [CloseReason.POOL_FULL] * 2
    assert driver.book.status().free_sockets == {A: 2}


def test_ak_06_300_requests_at_once_make_10_sockets_and_leave_5() -> None:
    driver = Driver(max_sockets=10, max_free_sockets=5)
    sockets = driver.sockets([A] * 10)
    for _ in range(290):
        driver.ask()
    finished = 0
    while sockets:
        socket = sockets.pop(0)
        finished += 1
        if isinstance(driver.book.checkin(socket, float(finished)), BookedRequest):
            sockets.append(socket)
    status = driver.book.status()
    assert (finished, status.create_socket_count, status.free_sockets) == (300, 10, {A: 5})


def test_ak_07_a_free_socket_is_closed_when_its_time_is_over() -> None:
    driver = Driver(free_socket_timeout=4)
    socket = driver.socket()
    driver.book.checkin(socket, 10.0)
    assert driver.book.next_deadline <= 14.0
    assert driver.book.due(13.9).close == []
    assert driver.book.next_deadline == 14.0
    (to_close,) = driver.book.due(14.0).close
    assert (to_close.socket, to_close.reason) == (socket, CloseReason.FREE_TIMEOUT)
    status = driver.book.status()
    assert (status.timeout_socket_count, status.close_socket_count, status.free_sockets) == (1, 1, {})
    assert driver.socket(14.0) is not socket


def test_ak_08_a_free_time_of_0_keeps_the_socket() -> None:
    driver = Driver(free_socket_timeout=0, timeout=1)
    socket = driver.socket(timeout=1.0)
    driver.book.checkin(socket, 0.5)
    assert driver.book.due(1e9).close == []
    assert driver.socket(1e9) is socket


def test_ak_09_a_free_time_equal_to_the_timeout_works() -> None:
    driver = Driver(free_socket_timeout=5, timeout=5)
    socket = driver.socket(timeout=5.0)
    driver.book.checkin(socket, 1.0)
    assert driver.book.due(5.0).close == []
    assert [c.reason for c in driver.book.due(6.0).close] == [CloseReason.FREE_TIMEOUT]


@pytest.mark.parametrize("requests_before", [0, 1])
def test_ak_10_an_active_socket_without_activity_is_closed(requests_before: int) -> None:
    driver = Driver()
    socket = driver.socket(timeout=3.0)
    for _ in range(requests_before):
        driver.book.checkin(socket, 0.0)
        assert driver.socket(0.0, timeout=3.0) is socket
    request = socket.request
    driver.book.touch(socket, 2.0)
    assert driver.book.due(4.9).close == []
    (to_close,) = driver.book.due(5.0).close
    assert to_close.reason is CloseReason.ACTIVE_TIMEOUT
    assert to_close.socket.request is request
    assert driver.book.timeout_socket_count == 1


@pytest.mark.parametrize(("timeout", "due_at"), [(1.0, 1.0), (50.0, 50.0), (inf, inf)])
def test_ak_11_a_request_s_own_timeout_wins(timeout: float, due_at: float) -> None:
    driver = Driver(timeout=10)
    driver.ask(timeout=timeout)
    if due_at < inf:
        assert driver.book.due(due_at - 0.1).close == []
        assert len(driver.book.due(due_at).close) == 1
    else:
        assert driver.book.due(1e12).close == []


def test_ak_11_a_request_s_timeout_does_not_stay_on_the_socket() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket(timeout=1.0)
    driver.ask(timeout=20.0)
    driver.book.checkin(socket, 0.5)  # handed to the pending request, whose time starts here
    assert driver.book.due(20.4).close == []
    assert len(driver.book.due(20.5).close) == 1


def test_ak_12_a_socket_past_its_ttl_is_closed_when_its_request_ends() -> None:
    driver = Driver(max_sockets=1, socket_active_ttl=10)
    socket = driver.socket()
    pending = driver.ask()
    decision = driver.book.checkin(socket, 10.0)
    assert closed_for(decision) is CloseReason.TTL
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is pending


def test_ak_13_a_free_socket_s_time_is_no_longer_than_the_rest_of_its_ttl() -> None:
    driver = Driver(free_socket_timeout=4, socket_active_ttl=10)
    socket = driver.socket()
    driver.book.checkin(socket, 8.0)
    assert driver.book.due(9.9).close == []
    assert len(driver.book.due(10.0).close) == 1


def test_ak_14_a_younger_socket_is_not_closed_early() -> None:
    driver = Driver(free_socket_timeout=4, socket_active_ttl=10)
    old, young = driver.socket(0.0), driver.socket(5.0)
    driver.book.checkin(old, 9.0)
    driver.book.checkin(young, 9.0)
    assert [c.socket for c in driver.book.due(10.0).close] == [old]
    assert driver.book.status().free_sockets == {A: 1}
    assert [c.socket for c in driver.book.due(13.0).close] == [young]


def test_ak_15_a_free_socket_that_the_server_closes_leaves_at_once() -> None:
    driver = Driver()
    socket = driver.socket()
    driver.book.checkin(socket, 1.0)
    assert driver.book.remove(socket, CloseReason.SERVER_CLOSED, 2.0) is None
    assert driver.book.status().free_sockets == {}
    assert driver.socket(3.0) is not socket
    assert driver.book.error_socket_count == 0


@pytest.mark.parametrize("reason", [CloseReason.ERROR, CloseReason.STRAY_BYTES])
def test_ak_16_and_ak_17_an_error_on_a_free_socket_is_counted(reason: CloseReason) -> None:
    driver = Driver()
    socket = driver.socket()
    driver.book.checkin(socket, 1.0)
    driver.book.remove(socket, reason, 2.0)
    assert (driver.book.error_socket_count, driver.book.close_socket_count) == (1, 1)
    assert driver.book.remove(socket, reason, 2.0) is None  # heard of twice, counted once
    assert (driver.book.error_socket_count, driver.book.close_socket_count) == (1, 1)


def test_ak_18_and_ak_19_a_socket_that_dies_under_a_request_is_replaced_for_a_pending_one() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    pending = driver.ask()
    then_open = driver.book.remove(socket, CloseReason.ABORTED, 1.0)
    assert then_open is not None
    assert then_open.request is pending
    assert not then_open.reused


def test_ak_20_a_cancelled_pending_request_leaves_the_queue() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    waiting = [driver.ask() for _ in range(4)]
    driver.book.cancel(waiting[1])
    driver.book.cancel(waiting[1])
    driver.book.cancel(waiting[0])
    assert driver.book.status().requests == {A: 2}
    assert [driver.book.checkin(socket, 1.0), driver.book.checkin(socket, 2.0)] == waiting[2:]


def test_ak_21_a_plain_agent_closes_after_every_request() -> None:
    driver = Driver(keep_alive=False, max_sockets=1)
    socket = driver.socket()
    pending = driver.ask()
    decision = driver.book.checkin(socket, 1.0)
    assert closed_for(decision) is CloseReason.NOT_KEEP_ALIVE
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is pending


def test_ak_22_a_hand_off_agent_hands_to_a_pending_request_or_closes() -> None:
    driver = Driver(keep_alive=False, hand_off=True, max_sockets=1)
    socket = driver.socket()
    pending = driver.ask()
    assert driver.book.checkin(socket, 1.0) is pending
    assert closed_for(driver.book.checkin(socket, 2.0)) is CloseReason.NOBODY_PENDING


def test_ak_23_a_failed_connect_is_counted_once_and_the_next_pending_tries() -> None:
    driver = Driver(max_sockets=1)
    opening = driver.book.checkout(driver.request(), 0.0)
    pending = driver.ask()
    assert isinstance(opening, ToOpen)
    then_open = driver.book.open_failed(opening.socket, 1.0)
    assert then_open is not None
    assert then_open.request is pending
    status = driver.book.status()
    assert (status.create_socket_error_count, status.create_socket_count) == (1, 0)
    assert (status.close_socket_count, status.error_socket_count) == (0, 0)


def test_ak_23_a_connect_that_takes_too_long_is_a_failed_one() -> None:
    driver = Driver(connect_timeout=2)
    driver.book.checkout(driver.request(), 0.0)
    assert driver.book.due(1.9).close == []
    assert [c.reason for c in driver.book.due(2.0).close] == [CloseReason.CONNECT_TIMEOUT]
    status = driver.book.status()
    assert (status.create_socket_error_count, status.close_socket_count, status.timeout_socket_count) == (1, 0, 0)


def test_ak_24_close_gives_back_every_socket_and_pending_request_in_order() -> None:
    driver = Driver(max_sockets=1)
    a, b = driver.sockets([A, B])
    connecting = driver.book.checkout(driver.request(C), 0.0)
    driver.book.checkin(b, 1.0)
    waiting = [driver.ask(), driver.ask()]
    sockets, pending = driver.book.close(0.0)
    assert isinstance(connecting, ToOpen)
    assert {*sockets} == {a, b, connecting.socket}
    assert pending == waiting
    assert driver.book.is_closed
    assert (driver.book.create_socket_count, driver.book.close_socket_count) == (2, 2)
    assert driver.book.close(0.0) == ([], [])
    assert driver.book.next_deadline == inf


def test_ak_25_a_response_that_forbids_it_is_the_last_on_its_socket() -> None:
    driver = Driver()
    assert closed_for(driver.book.checkin(driver.socket(), 1.0, False)) is CloseReason.NOT_REUSABLE
    assert driver.book.request_count == 1


def test_ak_27_the_longest_free_socket_elsewhere_gives_way_at_the_total_limit() -> None:
    driver = Driver(max_total_sockets=2)
    a, b = driver.sockets([A, B])
    driver.book.checkin(b, 1.0)
    driver.book.checkin(a, 2.0)
    decision = driver.book.checkout(driver.request(C), 3.0)
    assert isinstance(decision, ToOpen)
    assert decision.instead_of is b
    assert b.state is SocketState.CLOSED
    assert driver.book.status().free_sockets == {A: 1}


def test_ak_27_with_none_free_requests_wait_in_order_over_all_origins() -> None:
    driver = Driver(max_total_sockets=1)
    a = driver.socket(0.0, A)
    for_b, for_a = driver.ask(1.0, B), driver.ask(1.0, A)
    decision = driver.book.checkin(a, 2.0)
    assert closed_for(decision) is CloseReason.GAVE_WAY
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is for_b
    driver.connect(decision.then_open, 2.0)
    decision = driver.book.checkin(decision.then_open, 3.0)
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is for_a


def test_ak_27_a_request_that_waits_for_its_origin_s_own_limit_does_not_hold_up_others() -> None:
    driver = Driver(max_total_sockets=2, max_sockets=1)
    a, b = driver.sockets([A, B])
    driver.ask(1.0, B)  # older, but B has all the sockets it may have
    for_a = driver.ask(1.0, A)
    assert driver.book.checkin(a, 2.0) is for_a
    assert b.state is SocketState.ACTIVE


@pytest.mark.parametrize(("scheduling", "order"), [("lifo", [2, 1, 0]), ("fifo", [0, 1, 2])])
def test_ak_28_scheduling(scheduling: str, order: list[int]) -> None:
    driver = Driver(scheduling=scheduling)
    sockets = driver.sockets([A] * 3)
    for now, socket in enumerate(sockets):
        driver.book.checkin(socket, float(now))
    assert [sockets.index(driver.socket(3.0)) for _ in range(3)] == order


def test_ak_29_a_request_that_waits_too_long_leaves_and_the_others_keep_their_places() -> None:
    driver = Driver(max_sockets=1, queue_timeout=5)
    socket = driver.socket(timeout=1000)
    early, later, latest = driver.ask(1.0), driver.ask(2.0), driver.ask(3.0)
    assert driver.book.next_deadline == 6.0
    assert driver.book.due(5.9).late == []
    assert driver.book.due(6.0).late == [early]
    assert driver.book.checkin(socket, 6.5) is later
    assert driver.book.due(7.0).late == []
    assert driver.book.due(8.0).late == [latest]
    assert driver.book.status().requests == {}


def test_ak_29_a_request_object_that_waits_again_has_its_time_again() -> None:
    driver = Driver(max_sockets=1, queue_timeout=5)
    socket = driver.socket(timeout=1000)
    request = driver.ask(0.0)
    assert driver.book.checkin(socket, 1.0) is request
    waiting = driver.ask(1.5)
    assert driver.book.checkin(socket, 2.0) is waiting
    driver.give(request, 4.0)
    assert driver.book.due(5.0).late == []
    assert driver.book.due(9.0).late == [request]


def test_ak_30_a_hint_shortens_the_free_time_and_never_lengthens_it() -> None:
    driver = Driver(free_socket_timeout=4)
    hinted, generous = driver.sockets([A, A])
    driver.book.checkin(hinted, 0.0, True, KeepAliveHint(timeout_s=2))
    driver.book.checkin(generous, 0.0, True, KeepAliveHint(timeout_s=60))
    assert [c.socket for c in driver.book.due(1.0).close] == [hinted]
    assert driver.book.due(3.9).close == []
    assert [c.socket for c in driver.book.due(4.0).close] == [generous]


def test_ak_30_a_hint_of_0_closes_and_an_agent_may_be_told_to_ignore_hints() -> None:
    driver = Driver()
    assert closed_for(driver.book.checkin(driver.socket(), 1.0, True, KeepAliveHint(timeout_s=0))) is CloseReason.HINT
    deaf = Driver(respect_hints=False)
    assert deaf.book.checkin(deaf.socket(), 1.0, True, KeepAliveHint(timeout_s=0, max_requests=0)) is None


def test_ak_31_a_hint_of_max_counts_down() -> None:
    driver = Driver()
    socket = driver.socket()
    assert driver.book.checkin(socket, 1.0, True, KeepAliveHint(max_requests=2)) is None
    assert driver.socket(1.0) is socket
    assert driver.book.checkin(socket, 2.0) is None
    assert driver.socket(2.0) is socket
    assert closed_for(driver.book.checkin(socket, 3.0)) is CloseReason.MAX_REQUESTS


def test_ak_31_a_hint_of_max_0_closes_now() -> None:
    driver = Driver()
    decision = driver.book.checkin(driver.socket(), 1.0, True, KeepAliveHint(max_requests=0))
    assert closed_for(decision) is CloseReason.MAX_REQUESTS


def test_ak_31_max_requests_per_socket_does_the_same_from_our_side() -> None:
    driver = Driver(max_requests_per_socket=2)
    socket = driver.socket()
    assert driver.book.checkin(socket, 1.0, True, KeepAliveHint(max_requests=50)) is None
    assert driver.socket(1.0) is socket
    assert closed_for(driver.book.checkin(socket, 2.0)) is CloseReason.MAX_REQUESTS


def test_a_socket_whose_server_said_that_it_would_close_is_closed_by_the_server_after_its_request() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    pending = driver.ask()
    driver.book.retire(socket)
    decision = driver.book.checkin(socket, 1.0, True, KeepAliveHint(max_requests=50))
    assert closed_for(decision) is CloseReason.SERVER_CLOSED
    assert driver.book.status().closed_by == {"server_closed": 1}
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is pending


def test_ak_32_the_status_counts_and_leaves_empty_origins_out() -> None:
    driver = Driver(max_sockets=1)
    a, b = driver.sockets([A, B])
    driver.ask(0.0, A)
    driver.book.checkin(b, 1.0)
    status = driver.book.status()
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
    driver = Driver()
    assert not driver.book.status_changed()
    socket = driver.socket()
    assert driver.book.status_changed()
    assert not driver.book.status_changed()
    driver.book.checkin(socket, 1.0)
    assert driver.book.status_changed()
    assert not driver.book.status_changed()


def test_ak_34_a_dead_socket_is_replaced_in_its_place_for_the_same_request() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    driver.book.checkin(socket, 1.0)
    request = driver.request()
    assert driver.give(request, 2.0) is socket
    pending = driver.ask(2.0)
    fresh = driver.book.reopen(socket, CloseReason.ERROR, 3.0)
    assert fresh.request is request
    assert not fresh.reused
    assert pending.pending
    assert driver.book.retry_count == 1
    driver.connect(fresh, 3.0)
    assert driver.book.checkin(fresh, 4.0) is pending


def test_wake_ups_of_closed_sockets_do_not_pile_up() -> None:
    driver = Driver(keep_alive=False, timeout=1000)
    for now in range(20_000):
        driver.book.checkin(driver.socket(float(now) / 1000), float(now) / 1000)
    assert len(driver.book._wakes) < 1000


def test_queue_deadlines_of_served_requests_do_not_pile_up() -> None:
    driver = Driver(max_sockets=1, queue_timeout=1000)
    socket = driver.socket()
    for now in range(5_000):
        driver.ask(float(now) / 1000)
        driver.book.checkin(socket, float(now) / 1000)
    assert len(driver.book._queue_deadlines) < 10


def test_a_held_socket_has_no_deadline_until_bytes_move_again() -> None:
    driver = Driver(timeout=5)
    socket = driver.socket(0.0, timeout=5)
    driver.book.hold(socket)
    assert not driver.book.due(100.0).close
    driver.book.touch(socket, 100.0)
    assert driver.book.next_deadline <= 105.0
    assert [to_close.socket for to_close in driver.book.due(105.0).close] == [socket]


def test_the_free_sockets_of_an_origin_can_be_taken_out() -> None:
    driver = Driver()
    here, there = driver.sockets([A, B])
    for socket in (here, there):
        driver.book.checkin(socket, 1.0)
    assert driver.book.free_sockets(A) == [here]
    assert driver.book.free_sockets() == [here, there]
    assert driver.book.free_sockets("http://nowhere:80") == []


def test_what_happens_is_told_as_it_happens() -> None:
    driver = Driver(free_socket_timeout=4)
    told: list[tuple[str, str, int, float]] = []
    driver.book.on_event = lambda kind, origin, reason, count, age_s: told.append((kind.value, reason, count, age_s))
    socket = driver.socket(0.0)
    driver.book.checkin(socket, 1.0)
    driver.ask(2.0)
    driver.book.checkin(socket, 3.0)
    driver.book.due(7.0)
    assert told == [("created", "", 1, 0.0), ("timed_out", "free_timeout", 2, 7.0), ("closed", "free_timeout", 2, 7.0)]
    told.clear()
    driver.book.tells_reuse = True
    again = driver.socket(8.0)
    driver.book.checkin(again, 9.0)
    driver.ask(10.0)
    assert told[-1] == ("reused", "", 2, 2.0)


def test_a_dead_reused_socket_is_replaced_without_losing_its_turn() -> None:
    driver = Driver(max_sockets=2)
    first, second = driver.sockets([A, A])
    for socket in (first, second):
        driver.book.checkin(socket, 1.0)
    taken = driver.socket(2.0)
    other, then_open = driver.book.replace(taken, CloseReason.SERVER_CLOSED, 2.0)
    assert (other, then_open) == (first, None)
    waiting = driver.ask(3.0)
    driver.ask(4.0)
    fresh, then_open = driver.book.replace(other, CloseReason.SERVER_CLOSED, 5.0)
    assert (fresh.state, fresh.request_count, then_open) == (SocketState.CONNECTING, 1, None)
    assert (driver.book.retry_count, driver.book.close_socket_count) == (0, 2)
    assert waiting.pending is False


def test_a_socket_that_becomes_free_makes_room_for_a_request_that_waits_elsewhere() -> None:
    driver = Driver(max_total_sockets=2, max_sockets=2)
    first, second = driver.sockets([A, A])
    elsewhere = driver.ask(1.0, B)
    assert elsewhere.pending
    driver.book.checkin(first, 1.0, reusable=True)
    assert driver.book.status().requests == {}
    assert second.state is SocketState.ACTIVE


# -- what is counted and told, each time


Told = tuple[str, str, str, int, float]


def told_by(driver: Driver) -> list[Told]:
    """What the book tells from now on: kind, origin, reason, requests of the socket, its age."""
    told: list[Told] = []
    driver.book.on_event = lambda kind, origin, reason, count, age_s: told.append(
        (kind.value, origin, reason, count, age_s)
    )
    return told


def opening_of(decision: object) -> Booked:
    assert isinstance(decision, ToOpen)
    return decision.socket


def reused_socket(driver: Driver, origin: str = A) -> Booked:
    """A socket that was opened at 0, free from 1 to 2, and carries its second request."""
    socket = driver.socket(0.0, origin)
    driver.book.checkin(socket, 1.0)
    assert driver.socket(2.0, origin) is socket
    return socket


def test_every_close_is_counted_under_its_reason() -> None:
    driver = Driver()
    for reason, times in ((CloseReason.ERROR, 3), (CloseReason.ABORTED, 2), (CloseReason.STRAY_BYTES, 2)):
        for _ in range(times):
            driver.book.remove(driver.socket(), reason, 1.0)
    status = driver.book.status()
    assert status.closed_by == {"error": 3, "aborted": 2, "stray_bytes": 2}
    assert (status.close_socket_count, status.error_socket_count, status.timeout_socket_count) == (7, 5, 0)


def test_every_socket_whose_time_is_over_is_counted() -> None:
    driver = Driver(free_socket_timeout=4)
    for socket in driver.sockets([A, A]):
        driver.book.checkin(socket, 0.0)
    driver.sockets([B, B, B])
    driver.book.due(200.0)
    status = driver.book.status()
    assert status.closed_by == {"free_timeout": 2, "active_timeout": 3}
    assert (status.timeout_socket_count, status.error_socket_count) == (5, 0)


def test_every_response_is_counted() -> None:
    driver = Driver()
    for now in (1.0, 2.0, 3.0):
        driver.book.checkin(driver.socket(now), now)
    assert driver.book.request_count == 3


def test_every_connect_that_fails_is_counted_and_told_with_its_reason() -> None:
    driver = Driver(connect_timeout=2)
    told = told_by(driver)
    refused = opening_of(driver.book.checkout(driver.request(A), 0.0))
    driver.book.checkout(driver.request(B), 0.0)
    driver.book.open_failed(refused, 1.0)
    driver.book.due(2.0)
    assert told == [("create_failed", A, "error", 1, 0.0), ("create_failed", B, "connect_timeout", 1, 0.0)]
    status = driver.book.status()
    assert (status.create_socket_error_count, status.close_socket_count, status.closed_by) == (2, 0, {})


def test_a_request_that_waited_too_long_is_told_as_timed_out_in_the_queue() -> None:
    driver = Driver(max_sockets=1, queue_timeout=5)
    driver.socket()
    told = told_by(driver)
    driver.ask(1.0)
    driver.book.due(6.0)
    assert told == [("timed_out", A, "queue_timeout", 0, 0.0)]


def test_every_request_that_is_sent_again_is_counted_and_told_with_the_reason_of_its_dead_socket() -> None:
    driver = Driver()
    told = told_by(driver)
    for _ in range(3):
        socket = reused_socket(driver)
        told.clear()
        driver.book.remove(driver.book.reopen(socket, CloseReason.SERVER_CLOSED, 3.0), CloseReason.ABORTED, 3.0)
        assert told == [("closed", A, "server_closed", 2, 3.0), ("retried", A, "server_closed", 2, 3.0)]
    status = driver.book.status()
    assert (status.retry_count, status.stale_socket_count) == (3, 3)
    assert status.closed_by == {"server_closed": 3}


def test_a_request_that_met_a_stale_socket_and_is_not_sent_again_is_no_retry() -> None:
    driver = Driver()
    driver.book.met_stale()
    driver.book.met_stale()
    assert (driver.book.stale_socket_count, driver.book.retry_count) == (2, 0)


def test_at_the_end_every_socket_is_told_as_closed_by_the_agent_and_no_request_is_pending_any_more() -> None:
    driver = Driver(max_sockets=1)
    assert not driver.book.is_closed
    driver.sockets([A, B])
    waiting = driver.ask()
    told = told_by(driver)
    driver.book.close(5.0)
    assert sorted(told) == [("closed", A, "agent_closed", 1, 5.0), ("closed", B, "agent_closed", 1, 5.0)]
    assert driver.book.status().closed_by == {"agent_closed": 2}
    assert waiting.pending is False


# -- what a socket knows of itself


def test_a_socket_has_the_handle_it_was_opened_with() -> None:
    assert [socket.handle for socket in Driver().sockets([A, B])] == ["socket 1", "socket 2"]


def test_a_socket_knows_how_long_it_was_idle_before_its_request() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket(1.0)
    assert socket.idle_s == 0.0
    driver.book.checkin(socket, 2.0)
    assert socket.request is None
    assert driver.socket(5.0) is socket
    assert socket.idle_s == 3.0
    driver.ask(6.0)
    driver.book.checkin(socket, 7.0)  # handed over
    assert socket.idle_s == 0.0


# -- places


def test_a_closed_socket_gives_back_its_place_and_no_other() -> None:
    driver = Driver(max_sockets=3)
    first, *_ = driver.sockets([A] * 3)
    driver.book.remove(first, CloseReason.ABORTED, 1.0)
    assert driver.book.status().sockets == {A: 2}
    driver.ask()
    waiting = driver.ask()
    assert waiting.pending
    assert driver.book.status().sockets == {A: 3}


def test_closed_sockets_give_back_their_places_in_the_total() -> None:
    driver = Driver(max_total_sockets=3)
    first, second, _ = driver.sockets([A, B, C])
    driver.book.remove(first, CloseReason.ABORTED, 1.0)
    driver.book.remove(second, CloseReason.ABORTED, 1.0)
    assert [driver.ask(2.0, origin).pending for origin in (A, B, C)] == [False, False, True]


@pytest.mark.parametrize("in_its_place", [SocketBook.reopen, SocketBook.replace])
def test_the_fresh_socket_of_a_dead_one_takes_the_same_place(in_its_place: Any) -> None:
    driver = Driver(max_sockets=1)
    socket = reused_socket(driver)
    request = socket.request
    in_its_place(driver.book, socket, CloseReason.ERROR, 3.0)
    (fresh,) = driver.book._sockets
    assert fresh.request is request
    status = driver.book.status()
    assert (status.sockets, status.closed_by) == ({A: 1}, {"error": 1})
    assert driver.ask(3.0).pending
    assert driver.book.contradictions() == []


@pytest.mark.parametrize(("scheduling", "taken", "next_", "idle_s"), [("lifo", 3, 2, 2.0), ("fifo", 0, 1, 3.0)])
def test_a_dead_socket_s_request_gets_the_free_one_whose_turn_it_is(
    scheduling: str, taken: int, next_: int, idle_s: float
) -> None:
    driver = Driver(scheduling=scheduling)
    sockets = driver.sockets([A] * 4)
    for now, socket in enumerate(sockets, 1):
        driver.book.checkin(socket, float(now))
    dead = driver.socket(4.0)
    assert dead is sockets[taken]
    request = dead.request
    told = told_by(driver)
    other, _ = driver.book.replace(dead, CloseReason.SERVER_CLOSED, 5.0)
    assert (other, other.request, other.idle_s) == (sockets[next_], request, idle_s)
    assert told == [("closed", A, "server_closed", 2, 5.0)]


def test_nothing_is_sent_again_or_replaced_for_a_socket_without_a_request() -> None:
    driver = Driver()
    socket = driver.socket()
    driver.book.checkin(socket, 1.0)
    for in_its_place in (driver.book.reopen, driver.book.replace):
        with pytest.raises(ValueError, match="without a request"):
            in_its_place(socket, CloseReason.ERROR, 2.0)
    assert driver.book.status().free_sockets == {A: 1}


def test_an_origin_of_which_nothing_is_left_is_forgotten() -> None:
    driver = Driver()
    for origin in (A, B, C):
        driver.book.remove(driver.socket(0.0, origin), CloseReason.ABORTED, 1.0)
    assert driver.book._pools == {}


def test_a_place_of_the_total_goes_to_nobody_whose_origin_has_all_it_may_have() -> None:
    driver = Driver(max_total_sockets=3, max_sockets=1)
    a, _, _ = driver.sockets([A, B, C])
    held_up = driver.ask(1.0, B)
    assert driver.book.remove(a, CloseReason.ABORTED, 2.0) is None
    assert held_up.pending


def test_a_request_that_a_socket_is_opened_for_waits_no_more() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    waiting, behind = driver.ask(), driver.ask()
    driver.book.remove(socket, CloseReason.ABORTED, 1.0)
    assert (waiting.pending, behind.pending) == (False, True)


def test_the_socket_that_is_opened_instead_of_another_is_for_the_request_that_asked() -> None:
    driver = Driver(max_total_sockets=1)
    driver.book.checkin(driver.socket(0.0, A), 1.0)
    told = told_by(driver)
    request = driver.request(B)
    assert opening_of(driver.book.checkout(request, 3.0)).request is request
    assert told == [("closed", A, "gave_way", 1, 3.0)]


def test_requests_keep_their_order_over_all_origins_whatever_comes_due_in_between() -> None:
    driver = Driver(max_total_sockets=1)
    socket = driver.socket(0.0, A, timeout=1.0)
    first = driver.ask(0.5, B)
    driver.book.touch(socket, 0.75)
    assert driver.book.due(1.0).close == []
    driver.ask(1.0, A)
    decision = driver.book.checkin(socket, 1.5)
    assert isinstance(decision, ToClose)
    assert decision.then_open is not None
    assert decision.then_open.request is first


def test_a_book_that_is_full_while_requests_wait_contradicts_nothing() -> None:
    driver = Driver(max_total_sockets=2)
    driver.sockets([A, B])
    for origin in (A, C):
        driver.ask(1.0, origin)
        assert driver.book.contradictions() == []


def test_a_request_that_has_waited_longer_here_than_any_elsewhere_is_handed_the_socket() -> None:
    driver = Driver(max_total_sockets=1)
    socket = driver.socket(0.0, A)
    here, elsewhere = driver.ask(1.0, A), driver.ask(2.0, B)
    assert driver.book.checkin(socket, 3.0) is here
    assert elsewhere.pending


# -- whose word counts


def test_the_free_sockets_that_have_been_idle_as_long_as_a_silent_one_are_closed() -> None:
    driver = Driver()
    longest, as_long, shorter, silent = driver.sockets([A] * 4)
    elsewhere = driver.socket(0.0, B)
    driver.book.checkin(elsewhere, 1.0)
    driver.book.checkin(longest, 1.0)
    driver.book.checkin(silent, 5.0)
    assert driver.socket(10.0) is silent
    driver.book.checkin(as_long, 25.0)
    driver.book.checkin(shorter, 26.0)
    told = told_by(driver)
    doubtful = driver.book.doubt_idle(silent, 30.0)
    assert told == [("closed", A, "forgotten", 1, 30.0)] * 2
    assert [(to_close.socket, closed_for(to_close)) for to_close in doubtful] == [
        (longest, CloseReason.FORGOTTEN),
        (as_long, CloseReason.FORGOTTEN),
    ]
    assert driver.book.status().closed_by == {"forgotten": 2}
    assert driver.book.free_sockets() == [shorter, elsewhere]


def test_a_socket_that_was_never_idle_speaks_for_no_other() -> None:
    driver = Driver()
    free, silent = driver.sockets([A, A])
    driver.book.checkin(free, 1.0)
    assert driver.book.doubt_idle(silent, 30.0) == []
    driver.book.remove(free, CloseReason.ABORTED, 30.0)
    driver.book.remove(silent, CloseReason.ABORTED, 30.0)
    silent.idle_s = 5.0
    assert driver.book.doubt_idle(silent, 30.0) == []  # nor is there any of its origin


def test_a_request_that_is_gone_leaves_the_queue_or_its_socket_is_closed() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    first, second = driver.ask(), driver.ask()
    assert driver.book.abandon(first, 1.0) == []
    assert driver.book.status().requests == {A: 1}
    assert socket.request is not None
    (to_close,) = driver.book.abandon(socket.request, 2.0)
    assert (to_close.socket, closed_for(to_close)) == (socket, CloseReason.ABORTED)
    assert to_close.then_open is not None
    assert to_close.then_open.request is second
    assert driver.book.status().closed_by == {"aborted": 1}


# -- time


def test_bytes_on_a_socket_that_is_still_connecting_do_not_lengthen_its_time_to_connect() -> None:
    driver = Driver(connect_timeout=2)
    connecting = opening_of(driver.book.checkout(driver.request(), 0.0))
    driver.book.touch(connecting, 1.0)
    assert [to_close.reason for to_close in driver.book.due(2.0).close] == [CloseReason.CONNECT_TIMEOUT]


def test_each_nearer_deadline_is_told_and_no_other() -> None:
    driver = Driver(max_sockets=1, queue_timeout=5, connect_timeout=0)
    told: list[float] = []
    driver.book.on_deadline = told.append
    socket = driver.socket(0.0, timeout=100.0)
    driver.ask(10.0)
    driver.ask(11.0)
    driver.socket(12.0, B, timeout=1.0)
    assert told == [100.0, 15.0, 13.0]
    assert driver.book.checkin(socket, 12.5) is not None
    assert told == [100.0, 15.0, 13.0]


def test_everything_that_is_due_is_closed_behind_what_is_not() -> None:
    driver = Driver()
    dead, moved, late, later = (driver.socket(0.0, timeout=timeout) for timeout in (1.0, 2.0, 3.0, 4.0))
    driver.book.remove(dead, CloseReason.ABORTED, 0.5)
    driver.book.touch(moved, 3.5)
    assert [to_close.socket for to_close in driver.book.due(4.0).close] == [late, later]
    assert [to_close.socket for to_close in driver.book.due(5.5).close] == [moved]


def test_no_deadline_is_lost_among_the_wake_ups_of_closed_sockets() -> None:
    driver = Driver()
    lasting = driver.socket(0.0, timeout=50.0)
    for _ in range(2_000):
        driver.book.remove(driver.socket(0.0, B, timeout=90.0), CloseReason.ABORTED, 0.0)
    assert len(driver.book._wakes) < 1_000
    assert [to_close.socket for to_close in driver.book.due(50.0).close] == [lasting]


# -- what does not add up


@pytest.mark.parametrize(
    "spoil",
    [
        lambda book: setattr(book, "close_socket_count", book.close_socket_count + 1),
        lambda book: setattr(book, "create_socket_count", book.create_socket_count + 1),
        lambda book: setattr(book, "_total_places", book._total_places - 1),
        lambda book: setattr(book._pools[A], "places", 1),
        lambda book: book._pools[A].free.append(book._pools[A].free[0]),
        lambda book: book._pools[B].pending.append(BookedRequest(B)),
        lambda book: setattr(book._pools[A].free[0], "request", BookedRequest(A)),
        lambda book: setattr(book._pools[A].free[0], "state", SocketState.ACTIVE),
        lambda book: book._pools[A].free.clear(),
    ],
    ids=["closed", "created", "total", "places", "free twice", "waits for nothing", "free and busy", "state", "lost"],
)
def test_a_book_that_is_wrong_says_so(spoil: Callable[[Any], object]) -> None:
    driver = Driver(max_sockets=2)
    first, _ = driver.sockets([A, A])
    driver.socket(0.0, B)
    driver.book.remove(driver.socket(0.0, C), CloseReason.ABORTED, 1.0)
    driver.book.checkin(first, 1.0)
    assert driver.book.contradictions() == []
    spoil(driver.book)
    assert driver.book.contradictions() != []


def test_a_book_that_is_over_its_limits_says_so() -> None:
    driver = Driver(max_sockets=1, max_free_sockets=1)
    driver.book.checkin(driver.socket(), 1.0)
    assert driver.book.contradictions() == []
    for name in ("_max_sockets", "_max_free", "_max_total"):
        limit = getattr(driver.book, name)
        setattr(driver.book, name, 0)
        assert driver.book.contradictions() != []
        setattr(driver.book, name, limit)


# -- after an exception in the middle of a decision


def test_what_the_sockets_say_is_true_after_an_exception_and_all_else_is_counted_anew() -> None:
    driver = Driver(max_sockets=2)
    active, free = driver.sockets([A, A])
    driver.book.checkin(free, 1.0)
    connecting = opening_of(driver.book.checkout(driver.request(B), 1.0))
    driver.book.remove(driver.socket(1.0, C), CloseReason.ABORTED, 1.0)
    driver.book._pools[A].places = 5
    driver.book._total_places = 7
    driver.book.create_socket_count = driver.book.close_socket_count = 9
    assert set(driver.book.mend(2.0)) == {active, connecting}
    assert driver.book.contradictions() == []
    status = driver.book.status()
    assert (status.create_socket_count, status.close_socket_count) == (3, 1)
    assert (status.sockets, status.free_sockets) == ({A: 1, B: 1}, {A: 1})


def test_a_socket_of_which_nobody_knows_what_it_was_to_be_used_for_is_closed_at_once() -> None:
    driver = Driver()
    halfway_free, halfway_given = driver.sockets([A, A])
    for socket in (halfway_free, halfway_given):
        driver.book.checkin(socket, 1.0)
        driver.book._pools[A].free.remove(socket)
    halfway_given.state = SocketState.ACTIVE
    assert driver.book.mend(2.0) == []
    assert driver.book.contradictions() == []
    assert driver.book.status().free_sockets == {A: 2}
    assert {to_close.socket for to_close in driver.book.due(2.0).close} == {halfway_free, halfway_given}


def test_a_pending_request_that_already_has_a_socket_waits_no_more_after_an_exception() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    given, waiting = driver.ask(), driver.ask()
    socket.request = given
    assert driver.book.mend(1.0) == [socket]
    assert (given.pending, waiting.pending) == (False, True)
    assert driver.book.status().requests == {A: 1}


def test_a_closed_socket_is_in_no_list_after_an_exception() -> None:
    driver = Driver()
    socket = driver.socket()
    driver.book.checkin(socket, 1.0)
    socket.state = SocketState.CLOSED
    assert driver.book.mend(2.0) == []
    assert driver.book.free_sockets() == []
    assert driver.book._pools == {}


def test_a_socket_that_was_given_away_is_not_free_as_well_after_an_exception() -> None:
    driver = Driver()
    socket = driver.socket()
    driver.book.checkin(socket, 1.0)
    socket.state, socket.request = SocketState.ACTIVE, driver.request()
    assert driver.book.mend(2.0) == [socket]
    assert socket.request is not None
    assert driver.book.contradictions() == []
    assert driver.book.status().sockets == {A: 1}


def test_an_origin_that_was_forgotten_too_early_is_known_again_after_an_exception() -> None:
    driver = Driver(max_sockets=1)
    socket = driver.socket()
    driver.book._pools.pop(A).places = 0
    assert driver.book.mend(1.0) == [socket]
    assert driver.book.status().sockets == {A: 1}
    assert driver.ask(1.0).pending


def test_mending_counts_the_place_of_a_socket_whose_pool_was_dropped_once() -> None:
    driver = Driver(max_sockets=1)
    (socket,) = driver.sockets([A])
    driver.book._pools.clear()
    assert driver.book.mend(1.0) == [socket]
    assert driver.book.contradictions() == []
    assert driver.ask(1.0, A).pending
