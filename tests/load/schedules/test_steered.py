"""Users that come and go as a worker is told."""

from __future__ import annotations

import asyncio
import subprocess
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from kabench.load.clients.specs import AgentSpecError
from kabench.load.figures.messages import STOP, Done, Go, Level, Levelled, Ready, Second, Steering, Task, decode, encode
from kabench.load.figures.recorder import recorder_for
from kabench.load.plan.share import Share
from kabench.load.schedules.factory import schedule_for
from kabench.load.schedules.steered import SteeredUsers
from kabench.load.workers.local import WORKER_COMMAND
from tests.load.loads import plan_of
from tests.sockets import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kabench.load.figures.recorder import Recorder
    from kabench.server import EmbeddedServer

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Steered:
    """A steered load in this process."""

    def __init__(self, url: str, steering: Steering | None = None, **plan: Any) -> None:
        given = plan_of(url=url, concurrency=1, **plan)
        self.recorder: Recorder = recorder_for(given)
        self.over: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        load = schedule_for(
            Task(given, "keepalive", "", steering=steering or Steering()), Share(), self.recorder, self.over.set_result
        )
        assert isinstance(load, SteeredUsers)
        self.load = load
        self.levelled: list[int] = []
        load.levelled = self.levelled.append
        load.begin(perf_counter())
        self._number = 0

    def set_users(self, users: int, *, abort: bool = False) -> None:
        self._number += 1
        self.load.set_users(users, self._number, perf_counter(), abort=abort)

    @property
    def busy(self) -> int:
        counts = self.load.socket_counts()
        return (counts.active or 0) + (counts.pending or 0)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110  # what is waited for is in the load, not in an event
                await asyncio.sleep(0.002)

    async def end(self) -> None:
        self.load.give_up("interrupted", perf_counter())
        await asyncio.wait_for(self.over, PATIENCE_S)
        await self.load.close()


def test_users_come_and_go_as_they_are_told(run: Run, echo_server: EmbeddedServer) -> None:
    async def main() -> None:
        steered = Steered(f"{echo_server.url}30")
        assert steered.busy == 0
        for users in (3, 10, 2, 5):
            steered.set_users(users)
            await steered.until(lambda users=users: steered.busy == users)  # type: ignore[misc]  # bound now
        assert steered.levelled == [1, 2, 3, 4]
        await steered.end()

    run(main())


def test_a_user_that_is_told_to_stop_finishes_its_request_in_flight(run: Run, echo_server: EmbeddedServer) -> None:
    async def main() -> None:
        steered = Steered(f"{echo_server.url}200")
        steered.set_users(4)
        await steered.until(lambda: steered.busy == 4)
        steered.set_users(0)
        assert steered.levelled == [1]
        await steered.until(lambda: steered.levelled == [1, 2])
        assert steered.recorder.transactions == 4
        assert not steered.over.done()  # there may be users again
        await steered.end()

    run(main())
    assert echo_server.counts().requests == 4


def test_an_abort_gives_up_requests_of_users_told_to_stop_now_or_before(run: Run, echo_server: EmbeddedServer) -> None:
    async def main() -> None:
        steered = Steered(f"{echo_server.url}30000")
        steered.set_users(5)
        await steered.until(lambda: steered.busy == 5)
        steered.set_users(3)
        steered.set_users(1, abort=True)
        assert steered.levelled == [1, 2, 3]
        assert steered.busy == 1
        assert steered.recorder.transactions == 0
        assert not steered.recorder.errors
        await steered.end()

    run(main())


def test_a_user_that_is_wanted_again_before_it_has_stopped_goes_on(run: Run, echo_server: EmbeddedServer) -> None:
    async def main() -> None:
        steered = Steered(f"{echo_server.url}100")
        steered.set_users(2)
        await steered.until(lambda: steered.busy == 2)
        steered.set_users(0)
        steered.set_users(2)
        await steered.until(lambda: steered.recorder.transactions >= 4)
        assert steered.levelled == [1, 2, 3]
        assert steered.load.socket_counts().created == 2
        await steered.end()

    run(main())


def test_a_user_goes_on_for_more_requests_than_a_plan_has_by_default(run: Run, echo_server: EmbeddedServer) -> None:
    async def main() -> None:
        steered = Steered(echo_server.url)
        steered.set_users(1)
        await steered.until(lambda: steered.recorder.transactions > 1500)
        await steered.end()

    run(main())


def test_a_user_that_pauses_after_an_error_and_is_wanted_again_sends_once_a_pause(run: Run) -> None:
    async def main() -> None:
        steered = Steered("http://127.0.0.1:1/", Steering(pauses_s=(0.3,)))
        steered.set_users(1)
        await steered.until(lambda: steered.recorder.socket_errors == 1)
        for _ in range(5):
            steered.set_users(0, abort=True)
            steered.set_users(1)
        await steered.until(lambda: steered.recorder.socket_errors >= 6)
        await asyncio.sleep(1.0)
        assert steered.recorder.socket_errors <= 6 + 4
        await steered.end()

    run(main())


def test_a_user_that_pauses_after_an_error_stops_at_once(run: Run) -> None:
    async def main() -> None:
        steered = Steered("http://127.0.0.1:1/", Steering(pauses_s=(600.0,)))
        steered.set_users(2)
        await steered.until(lambda: steered.recorder.socket_errors == 2)
        steered.set_users(0)
        assert steered.levelled == [1, 2]
        await steered.end()

    run(main())


def test_users_go_on_trying_where_nobody_answers(run: Run) -> None:
    async def main() -> None:
        steered = Steered("http://127.0.0.1:1/")
        steered.set_users(2)
        await steered.until(lambda: steered.recorder.socket_errors >= 4)
        assert not steered.load.has_got_nowhere
        await steered.end()

    run(main())


@pytest.mark.parametrize("steering", [Steering(pauses_s=(0.05,)), Steering(pacing_s=0.05)], ids=["pause", "pacing"])
def test_users_pause(run: Run, echo_server: EmbeddedServer, steering: Steering) -> None:
    async def main() -> None:
        steered = Steered(echo_server.url, steering)
        began_at = perf_counter()
        steered.set_users(1)
        await steered.until(lambda: steered.recorder.transactions == 4)
        assert perf_counter() - began_at >= 3 * 0.05 - 0.01  # the loop's timers have steps
        await steered.end()

    run(main())


def test_a_pacing_is_from_one_beginning_to_the_next(run: Run, echo_server: EmbeddedServer) -> None:
    async def main() -> None:
        steered = Steered(f"{echo_server.url}150", Steering(pacing_s=0.1))  # each takes longer: no pause at all
        began_at = perf_counter()
        steered.set_users(1)
        await steered.until(lambda: steered.recorder.transactions == 3)
        took_s = perf_counter() - began_at
        await steered.end()
        assert took_s < 3 * 0.25

    run(main())


def test_a_user_that_pauses_stops_at_once(run: Run, echo_server: EmbeddedServer) -> None:
    async def main() -> None:
        steered = Steered(echo_server.url, Steering(pauses_s=(600.0,)))
        steered.set_users(3)
        await steered.until(lambda: steered.recorder.transactions == 3)
        steered.set_users(0)
        assert steered.levelled == [1, 2]
        await steered.end()

    run(main())


def test_only_kabench_s_own_agents_can_be_steered(run: Run) -> None:
    async def main() -> None:
        plan = plan_of(url="http://127.0.0.1:1/", concurrency=1)
        with pytest.raises(AgentSpecError, match="urllib3 cannot be steered; keepalive"):
            schedule_for(Task(plan, "urllib3", "", steering=Steering()), Share(), recorder_for(plan), print)

    run(main())


def test_a_worker_process_is_steered_by_lines(echo_server: EmbeddedServer) -> None:
    task = Task(plan_of(url=f"{echo_server.url}5", concurrency=1), "keepalive", "", steering=Steering())
    with subprocess.Popen(WORKER_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def tell(line: bytes) -> None:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()

        tell(encode(task))
        said = []
        for line in process.stdout:
            message = decode(line)
            said.append(message)
            if isinstance(message, Ready):
                tell(encode(Go(0.0)))
                tell(encode(Level(5, 1)))
            elif isinstance(message, Levelled) and message.number == 1:
                wait_until(lambda: echo_server.counts().requests >= 10)
                tell(encode(Level(0, 2)))
            elif isinstance(message, Levelled):
                tell(STOP)
    assert isinstance(said[-1], Done)
    seconds = [message for message in said if isinstance(message, Second)]
    assert seconds[-1].totals.status_codes == {200: echo_server.counts().requests}
    assert seconds[-1].sockets.created == echo_server.counts().sockets == 5
    assert process.returncode == 0
