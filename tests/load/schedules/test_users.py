"""The closed model on real sockets: users who send, wait and send again, in one worker or several."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.load import MeasurementError
from kabench.load.plan.pacing import Stage
from tests.load.loads import fits_together, run_here, run_once
from tests.responses import answer, path_of
from tests.sockets import Peer, answering_after, echo_forever, serving

if TYPE_CHECKING:
    from kabench.server import EmbeddedServer


class UsersSeen:
    """Answers slowly, and notes how many requests are under way at once, over time."""

    def __init__(self) -> None:
        self.now = 0
        self.seen: list[tuple[float, int]] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.now += 1
            self.seen.append((time.monotonic(), self.now))
            await asyncio.sleep(0.01)
            self.now -= 1
            await peer.send(answer(b"ok"))

    def most_between(self, begin_s: float, end_s: float) -> int:
        began = self.seen[0][0]
        return max((now for at, now in self.seen if begin_s <= at - began <= end_s), default=0)


# -- totals


@pytest.mark.parametrize(("agent", "workers"), [("keepalive", 1), ("keepalive", 3), ("plain", 3), ("plain-handoff", 2)])
def test_a_total_is_exact_however_many_workers_share_it(echo_server: EmbeddedServer, agent: str, workers: int) -> None:
    measured = run_once(agent, url=echo_server.url, total=100, workers=workers)
    assert measured.transactions == echo_server.counts().requests == 100
    assert len(measured.client.workers) == workers
    assert [worker.name for worker in measured.client.workers] == [f"worker-{n}" for n in range(1, workers + 1)]


def test_requests_a_user_are_exact_over_workers(echo_server: EmbeddedServer) -> None:
    measured = run_once(url=echo_server.url, concurrency=7, requests=9, workers=3)
    assert measured.transactions == echo_server.counts().requests == 63
    assert [worker.transactions for worker in measured.client.workers] == [27, 18, 18]


def test_a_total_smaller_than_the_number_of_workers_is_a_run_too(echo_server: EmbeddedServer) -> None:
    measured = run_once(url=echo_server.url, total=2, workers=3)
    assert measured.transactions == echo_server.counts().requests == 2


def test_sockets_of_all_workers_stay_below_the_limit() -> None:
    with serving(answering_after(0.005)) as server:
        measured = run_once(
            url=server.url, concurrency=20, total=200, workers=3, options={"max_sockets": 4, "max_free_sockets": 4}
        )
        assert server.open_most == server.sockets == measured.sockets.created == 4
        assert server.requests == 200


def test_a_duration_ends_it(echo_server: EmbeddedServer) -> None:
    measured = run_once(url=f"{echo_server.url}1", duration_s=0.5, workers=2)
    assert 0.5 <= measured.elapsed_s < 5
    assert measured.transactions == echo_server.counts().requests > 0


# -- warm-up


@pytest.mark.parametrize(("workers", "ends"), [(1, {"requests": 20}), (2, {"total": 101})])
def test_a_warm_up_is_sent_and_left_out_of_all_figures(
    echo_server: EmbeddedServer, ends: dict[str, Any], workers: int
) -> None:
    measured = run_once(url=f"{echo_server.url}2", warmup_s=0.3, workers=workers, **ends)
    counted = 120 if "requests" in ends else 101
    assert measured.transactions == counted
    assert echo_server.counts().requests > counted + 6
    assert measured.data_transferred_bytes < echo_server.counts().response_body_bytes
    assert measured.phases.connect.max is None  # all sockets were open before the first that counts


def test_all_that_the_server_saw_is_in_the_figures_or_in_the_warm_up() -> None:
    with serving(echo_forever) as server:
        measured = run_once(url=server.url, warmup_s=0.2, duration_s=0.2)
        assert measured.sockets.requests == server.requests  # the sockets' own count is of all of it
        assert 0 < measured.transactions < server.requests


def test_what_goes_wrong_in_the_warm_up_is_no_error() -> None:
    began: list[float] = []

    async def broken_at_first(peer: Peer) -> None:
        while True:
            await peer.request()
            began.append(time.monotonic())
            if began[-1] - began[0] < 0.15:
                peer.reset()
                return
            await asyncio.sleep(0.005)
            await peer.send(answer(b"ok"))

    with serving(broken_at_first) as server:
        measured = run_once(url=server.url, method="POST", warmup_s=1.0, total=50)
        assert measured.errors == {}
        assert measured.transactions == 50
        assert server.requests > 50


# -- stages


def test_stages_lead_users_up_and_down_over_all_workers() -> None:
    users = UsersSeen()
    with serving(users) as server:
        measured = run_once(
            url=server.url,
            concurrency=2,
            stages=(Stage(0.5, 12), Stage(0.4, 12), Stage(0.3, 2), Stage(0.8, 2)),
            workers=2,
            options={"max_sockets": 50},
        )
        assert measured.transactions == server.requests
    assert max(now for _, now in users.seen) == users.most_between(0.5, 0.9) == 12
    assert next(at for at, now in users.seen if now == 12) - users.seen[0][0] > 0.2  # not all at once
    assert users.seen[-1][0] - users.seen[0][0] > 1.6
    assert users.most_between(1.7, 2.0) <= 2
    assert 2.0 <= measured.elapsed_s < 7


def test_stages_to_zero_and_back_begin_again() -> None:
    users = UsersSeen()
    with serving(users) as server:
        run_once(url=server.url, stages=(Stage(0.2, 0), Stage(0.5, 0), Stage(0.2, 6), Stage(0.4, 6)))
    assert users.most_between(0.4, 0.65) == 0
    assert users.most_between(0.9, 1.5) == 6


# -- what users are sent and keep


async def _gives_cookies(peer: Peer) -> None:
    number = peer.number
    while True:
        request = await peer.request()
        given = [b"Set-Cookie: user=%d; Path=/; HttpOnly" % number, b"Set-Cookie: theme=dark"]
        if path_of(request) == "/forget":
            given = [b"Set-Cookie: user=gone; Max-Age=0"]
        await peer.send(answer(b"ok", *given))


def cookies_in(request: bytes) -> list[bytes]:
    return [line for line in request.split(b"\r\n") if line.lower().startswith(b"cookie:")]


def test_cookies_are_not_kept_unless_asked_for() -> None:
    with serving(_gives_cookies) as server:
        run_here(url=server.url, total=30)
        assert server.requests == 30
        assert [cookies_in(request) for peer in server.peers for request in peer.requests] == [[]] * 30


def test_each_user_keeps_its_own_cookies_when_asked() -> None:
    with serving(_gives_cookies) as server:
        run_here(url=server.url, concurrency=3, requests=5, cookies=True, options={"max_sockets": 3})
        assert len(server.peers) == 3
        for peer in server.peers:
            first, *others = peer.requests
            assert cookies_in(first) == []
            assert {cookie for request in others for cookie in cookies_in(request)} == {
                b"Cookie: user=%d; theme=dark" % peer.number
            }


def kept_after(*given: bytes) -> list[bytes]:
    """The cookies that a user sends with its second request, after a first answer with these headers."""

    async def gives(peer: Peer) -> None:
        while True:
            await peer.answer(answer(b"ok", *given))

    with serving(gives) as server:
        run_here(url=server.url, concurrency=1, total=2, cookies=True)
        return cookies_in(server.peers[0].requests[1])


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (b"Set-Cookie: sid=a1b2==; Path=/; Secure; SameSite=Lax", [b"Cookie: sid=a1b2=="]),
        (b"Set-Cookie: sid=a1; Path=/; Secure; Partitioned", [b"Cookie: sid=a1"]),
        (b'Set-Cookie: prefs={"a":1}; Path=/', [b'Cookie: prefs={"a":1}']),
        (b"Set-Cookie: user[id]=7", [b"Cookie: user[id]=7"]),
        (b"Set-Cookie: sid=gone; Max-Age=0", []),
        (b"Set-Cookie: sid=gone; Max-Age=-1000", []),
        (b"Set-Cookie: sid=gone; Expires=Thu, 01 Jan 1970 00:00:00 GMT", []),
        (b"Set-Cookie: sid=a1; Expires=Fri, 01 Jan 2100 00:00:00 GMT", [b"Cookie: sid=a1"]),
    ],
)
def test_a_cookie_is_kept_as_browsers_would(header: bytes, kept: list[bytes]) -> None:
    """RFC 6265 section 5.2: a user agent takes whatever stands before the first semicolon."""
    assert kept_after(header) == kept


def test_a_cookie_of_the_plan_and_those_a_user_keeps_are_one_header() -> None:
    """RFC 6265 section 5.4: at most one Cookie header."""
    with serving(_gives_cookies) as server:
        headers = (("Cookie", "mine=1"),)
        run_here(url=server.url, concurrency=1, total=2, cookies=True, headers=headers)
        (line,) = cookies_in(server.peers[0].requests[1])
        assert {pair.strip() for pair in line.partition(b":")[2].split(b";")} == {b"mine=1", b"user=0", b"theme=dark"}


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async def redirects(peer: Peer) -> None:
        while True:
            await peer.answer(answer(b"", b"Location: /elsewhere", status=b"302 Found"))

    with serving(redirects) as server:
        measured = run_here(url=server.url, total=10, cookies=True)
        assert measured.status_codes == {"302": 10}
        assert measured.successful_transactions == 10
        assert {path_of(request) for peer in server.peers for request in peer.requests} == {"/"}


def test_an_agent_without_one_success_is_a_run_that_failed() -> None:
    with serving(answering_after(0, answer(b"no", status=b"503 Service Unavailable"))) as server:
        with pytest.raises(MeasurementError, match="keepalive: not one successful transaction") as caught:
            run_once(url=server.url, total=10)
        (measured,) = caught.value.result.runs
        fits_together(measured)
        assert (measured.transactions, measured.failed_transactions) == (10, 10)
