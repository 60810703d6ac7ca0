"""The open model through a kabench agent.

A finished exchange is used again for a later request, so there are only as many objects as requests in flight. When
requests are due is not decided here but in `open` and `dispatcher`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from kabench.agent import AgentClosedError, AgentError, ConnectError
from kabench.load.figures.load_exchange import LoadExchange
from kabench.load.figures.sockets import counts_of
from kabench.load.schedules.open import Arrivals
from kabench.load.schedules.schedule import TOTAL_TIMEOUT

if TYPE_CHECKING:
    from kabench.agent.aio import AsyncAgent, PreparedRequest, ResponseHead
    from kabench.load.figures.messages import SocketCounts
    from kabench.load.figures.recorder import Recorder
    from kabench.load.plan.source import PreparedSource
    from kabench.load.schedules.schedule import ScheduleSetup


class _Arrival(LoadExchange):
    """One request in flight. When it has ended, a later request may use the object."""

    __slots__ = ("_arrivals", "due_at", "recorder")

    def __init__(self, arrivals: AgentArrivals, prepared: PreparedRequest, timeout: float) -> None:
        super().__init__(prepared, timeout)
        self.keeps_body = arrivals.plan.expect_body is not None
        self._arrivals = arrivals
        self.recorder = arrivals.recorder
        self.due_at = 0.0

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Count the answer."""
        self.recorder.record_due(self, head, body, self.due_at, now)
        self._arrivals.take_back(self, now)

    def count_unanswered(self, kind: str, now: float) -> None:
        """Count the request as unanswered."""
        self.recorder.record_unanswered(kind, now - self.due_at, was_sent=self.was_sent, target=self.target)

    def failed(self, error: Exception, now: float) -> None:
        """Count the error."""
        self._arrivals.failed(self, error, now)


class AgentArrivals(Arrivals):
    """Requests of the open model through one kabench agent."""

    def __init__(self, setup: ScheduleSetup, agent: AsyncAgent, source: PreparedSource) -> None:
        super().__init__(setup)
        self._agent = agent
        self._source = source
        self._varies = source.only is None
        self._idle: list[_Arrival] = []
        self._under_way: dict[_Arrival, None] = {}  # in the order in which they were due

    def _send(self, due_at: float, now: float, recorder: Recorder) -> None:
        idle = self._idle
        arrival = idle.pop() if idle else _Arrival(self, self._source.first, self._agent.options.activity_timeout)
        if self._varies:
            prepared, arrival.target = self._source.next()
            arrival.carry(prepared)
        arrival.recorder = recorder
        arrival.due_at = due_at
        recorder.record_lag(now - due_at)
        self._under_way[arrival] = None
        self._agent.start(arrival, now)

    def take_back(self, arrival: _Arrival, now: float) -> None:
        """Take back the object of a request that has ended."""
        self._under_way.pop(arrival, None)
        self._idle.append(arrival)
        self._request_ended(now)

    def failed(self, arrival: _Arrival, error: Exception, now: float) -> None:
        """Count the error that ended a request, unless it was given up before."""
        if arrival not in self._under_way:
            return
        if not isinstance(error, AgentClosedError):
            arrival.count_unanswered(error.kind if isinstance(error, AgentError) else "error", now)
        if isinstance(error, ConnectError):
            self._refused(str(error))
        self.take_back(arrival, now)

    def _give_up(self, kind: str, now: float) -> None:
        pending_first = sorted(self._under_way, key=lambda arrival: not arrival.pending)
        self._under_way.clear()
        for arrival in pending_first:
            arrival.count_unanswered(kind, now)
            self._agent.abort(arrival)

    def give_up_overdue(self, now: float) -> None:
        """Give up each request that has been under way for longer than the plan's `total_timeout_s`."""
        limit_s = self.plan.total_timeout_s
        if limit_s is None:
            return
        overdue = itertools.takewhile(lambda arrival: now - arrival.due_at >= limit_s, self._under_way)
        for arrival in sorted(overdue, key=lambda arrival: not arrival.pending):  # else they would get freed sockets
            arrival.count_unanswered(TOTAL_TIMEOUT, now)
            self._agent.abort(arrival)
            self.take_back(arrival, now)

    def socket_counts(self) -> SocketCounts:
        """Return what the agent's book says."""
        return counts_of(self._agent)

    async def close(self) -> None:
        """Close the agent."""
        await self._agent.close()
