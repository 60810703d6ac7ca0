from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from kabench.server.delay import DelayQueue
from kabench.system import alarm

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["timerfd", "loop timers"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "loop timers":
        monkeypatch.setattr(alarm, "_TimerFdAlarm", _missing)
    return str(request.param)


def _missing(*_: object) -> None:
    raise OSError


def test_everything_comes_due_in_order_and_never_early(run: Run, kind: str) -> None:
    delays_ms = [7, 3, 20, 3, 0.2, 11, 5.5, 1]

    async def main() -> list[tuple[float, float]]:
        came: list[tuple[float, float]] = []
        done = asyncio.Event()

        def due(at: float) -> None:
            came.append((at, perf_counter()))
            if len(came) == len(delays_ms):
                done.set()

        queue: DelayQueue[float] = DelayQueue(asyncio.get_running_loop(), due)
        begun_at = perf_counter()
        for milliseconds in delays_ms:
            queue.push(begun_at + milliseconds / 1000, begun_at + milliseconds / 1000)
        await done.wait()
        queue.close()
        return came

    came = run(main())
    assert [at for at, _ in came] == sorted(at for at, _ in came)
    assert all(now >= at for at, now in came)


def test_timerfd_is_finer_than_a_millisecond(run: Run) -> None:
    async def main() -> float:
        late = []
        loop = asyncio.get_running_loop()
        for _ in range(50):
            done: asyncio.Future[float] = loop.create_future()
            queue: DelayQueue[asyncio.Future[float]] = DelayQueue(loop, lambda f: f.set_result(perf_counter()))
            at = perf_counter() + 0.0033
            queue.push(at, done)
            late.append(await done - at)
            queue.close()
        return sorted(late)[5]  # the better ones: a busy machine may be late, and a coarse timer always is

    assert run(main()) < 0.0006


def test_a_queue_can_be_used_again_after_it_was_empty(run: Run, kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue: DelayQueue[asyncio.Future[None]] = DelayQueue(loop, lambda f: f.set_result(None))
        for _ in range(3):
            done: asyncio.Future[None] = loop.create_future()
            queue.push(perf_counter() + 0.002, done)
            await asyncio.wait_for(done, 5)
        queue.close()

    run(main())
