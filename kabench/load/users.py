"""The users of the closed model: send, wait for the answer, send again."""

from __future__ import annotations

import asyncio
import itertools
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.agent import AgentClosedError, AgentError, ConnectError
from kabench.agent.aio import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.agent.aio import AsyncAgent, PreparedRequest, ResponseHead
    from kabench.load.plan import LoadPlan
    from kabench.load.recorder import Recorder

CUT_OFF = "cut_off"
"""The kind of error of a request that was still unanswered a while after the end of the run."""

_PAUSE_AFTER_CONNECT_ERROR_S = 0.1
"""So that users whose server is down do not spend the machine on finding out."""


def tickets_for(plan: LoadPlan) -> list[Iterator[int]]:
    """For each user, an iterator with a ticket for every request he may send. Users of a total share theirs."""
    if plan.total is not None:
        shared = iter(range(plan.total))
        return [shared] * plan.concurrency
    if plan.requests is not None:
        return [iter(range(plan.requests)) for _ in range(plan.concurrency)]
    return [itertools.repeat(0) for _ in range(plan.concurrency)]


class User(Exchange):
    """A user is his own exchange, sent again and again: nothing is allocated for a request."""

    __slots__ = ("_agent", "_finished", "_is_finished", "_loop", "_recorder", "_tickets", "refusal")

    def __init__(
        self,
        agent: AsyncAgent,
        prepared: PreparedRequest,
        tickets: Iterator[int],
        recorder: Recorder,
        finished: Callable[[User, float], None],
    ) -> None:
        super().__init__(prepared, agent.options.timeout)
        self._agent = agent
        self._tickets = tickets
        self._recorder = recorder
        self._finished = finished
        self._is_finished = False
        self._loop = asyncio.get_running_loop()
        self.refusal: str | None = None

    def next_request(self, now: float) -> None:
        """Send a request if there is a ticket left for one."""
        if next(self._tickets, None) is None:
            self._finish(now)
        else:
            self._agent.start(self, now)

    def stop(self) -> None:
        """Send no more."""
        self._tickets = iter(())

    def stop_waiting(self, now: float) -> None:
        """Send no more, not even what still waits for a socket; what is under way may finish."""
        self.stop()
        if self.pending:
            self.abort(now)

    def cut_off(self, now: float) -> None:
        """Count what is still under way as an error, and do not wait for it."""
        if not self._is_finished:
            self._recorder.record_error(CUT_OFF)
            self.abort(now)

    def abort(self, now: float) -> None:
        """Send no more, and do not wait for what is under way."""
        self.stop()
        self._agent.abort(self)
        self._finish(now)

    @property
    def has_got_nowhere(self) -> bool:
        """Whether he is through, or the last he heard is that nobody is there."""
        return self._is_finished or self.refusal is not None

    def _finish(self, now: float) -> None:
        if not self._is_finished:
            self._is_finished = True
            self._finished(self, now)

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Count it and go on."""
        self._recorder.record(self, head, len(body), now)
        if next(self._tickets, None) is None:
            self._finish(now)
        else:
            self._agent.start(self, now)

    def failed(self, error: Exception, now: float) -> None:
        """Count it and go on, after a pause if nobody was there."""
        self.opening_at = self.first_sent_at = 0.0
        if self._is_finished:
            return
        if isinstance(error, AgentClosedError):
            self._finish(now)
            return
        self._recorder.record_error(error.kind if isinstance(error, AgentError) else "error")
        pause_s = 0.0
        if isinstance(error, ConnectError):
            pause_s = _PAUSE_AFTER_CONNECT_ERROR_S
            self.refusal = str(error)
        self._loop.call_later(pause_s, self._go_on)

    def _go_on(self) -> None:
        if not self._is_finished:
            self.next_request(perf_counter())
