"""The closed model through a kabench agent. A user is its own exchange, which it sends again and again.

Whatever else a user does, its `Abilities` say: what it sends next, which cookies it keeps, how long it pauses. They are
independent, so any of them go together. A user without abilities always sends the same request, and nothing is
allocated for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter, time
from typing import TYPE_CHECKING, cast

from kabench.agent import AgentClosedError, AgentError, ConnectError
from kabench.load.figures.load_exchange import LoadExchange
from kabench.load.figures.sockets import counts_of
from kabench.load.schedules.closed import PAUSE_AFTER_CONNECT_ERROR_S, User, Users
from kabench.load.schedules.cookies import Cookies
from kabench.load.schedules.schedule import TOTAL_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent.aio import AsyncAgent, PreparedRequest, ResponseHead
    from kabench.load.figures.messages import SocketCounts
    from kabench.load.plan.source import PreparedSource
    from kabench.load.schedules.schedule import ScheduleSetup


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a user does besides sending the same request at once. What is None, it does not do.

    `next_request` returns what the user sends next, and the number of its target. `cookies` are its own. `pause_s`
    takes the seconds since it began to send, and returns how many seconds it waits after the answer or error.
    """

    next_request: Callable[[], tuple[PreparedRequest, int]] | None = None
    cookies: Cookies | None = None
    pause_s: Callable[[float], float] | None = None


NO_ABILITIES = Abilities()


class AgentUser(LoadExchange, User):
    """A user of a kabench agent. It sends `prepared` each time, unless its abilities have a `next_request`."""

    def __init__(
        self,
        agent: AsyncAgent,
        prepared: PreparedRequest,
        finished: Callable[[User, float], None],
        abilities: Abilities = NO_ABILITIES,
    ) -> None:
        LoadExchange.__init__(self, prepared, agent.options.activity_timeout)
        User.__init__(self, finished)
        self._agent = agent
        self._always = prepared
        self._abilities = None if abilities == NO_ABILITIES else abilities
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None

    def _start(self, now: float) -> None:
        if next(self._tickets, None) is None:
            self._finish(now)
        else:
            self.refusal = None
            self._send(now)

    def _send(self, now: float) -> None:
        abilities = self._abilities
        if abilities is not None:
            prepared = self._always
            if abilities.next_request is not None:
                prepared, self.target = abilities.next_request()
            self.carry(prepared if abilities.cookies is None else abilities.cookies.added_to(prepared))
        self._agent.start(self, now)

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Count the answer, and send the next request."""
        self._recorder.record(self, head, body, now)
        abilities = self._abilities
        if abilities is not None and abilities.cookies is not None:
            abilities.cookies.keep_those_of(head, self.prepared.origin_key, time())
        if next(self._tickets, None) is None:
            self._finish(now)
        elif abilities is None:
            self._agent.start(self, now)
        elif abilities.pause_s is None:
            self._send(now)
        else:
            self._pause = self._loop.call_later(abilities.pause_s(now - self.started_at), self._send_after_pause)

    def failed(self, error: Exception, now: float) -> None:
        """Count the error, and go on after the user's pause, or a short one if no socket could be opened."""
        if self.is_finished:
            return
        if isinstance(error, AgentClosedError):
            self._finish(now)
            return
        least_pause_s = 0.0
        if isinstance(error, ConnectError):
            least_pause_s = PAUSE_AFTER_CONNECT_ERROR_S
            self.refusal = str(error)
        self._go_on(error.kind if isinstance(error, AgentError) else "error", now, least_pause_s)

    def _go_on(self, kind: str, now: float, least_pause_s: float = 0.0) -> None:
        """Count the request as unanswered, and send the next one after the user's pause."""
        waited_s = now - self.started_at
        self._count_unanswered(kind, waited_s)
        pause_s = least_pause_s
        if self._abilities is not None and self._abilities.pause_s is not None:
            pause_s = max(pause_s, self._abilities.pause_s(waited_s))
        self._pause = self._loop.call_later(pause_s, self._start_after_pause)

    def give_up_if_overdue(self, limit_s: float, now: float) -> None:
        """Give the request in flight up if it has taken `limit_s`, and go on."""
        if not self.is_finished and self._pause is None and now - self.started_at >= limit_s:
            self._agent.abort(self)
            self._go_on(TOTAL_TIMEOUT, now)

    def _count_unanswered(self, kind: str, waited_s: float) -> None:
        self._recorder.record_unanswered(kind, waited_s, was_sent=self.was_sent, target=self.target)

    def _send_after_pause(self) -> None:
        self._pause = None
        self._send(perf_counter())

    def _start_after_pause(self) -> None:
        self._pause = None
        self._start(perf_counter())

    def stop(self) -> None:
        """Send no more. A user that pauses is finished at once."""
        super().stop()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._finish(perf_counter())

    @property
    def waits(self) -> bool:
        """Whether the request is pending."""
        return self.pending

    def give_up(self, kind: str, now: float) -> None:
        """Send no more, count the request in flight as unanswered, of this kind, and do not wait for it."""
        self.stop()
        if not self.is_finished:
            self._count_unanswered(kind, now - self.started_at)
            self._agent.abort(self)
            self._finish(now)


class AgentUsers(Users):
    """Users that share one kabench agent."""

    def __init__(self, setup: ScheduleSetup, agent: AsyncAgent, source: PreparedSource) -> None:
        self._agent = agent
        self._source = source
        super().__init__(setup)

    def _make_user(self) -> User:
        user = AgentUser(self._agent, self._source.first, self._user_finished, self._abilities_of_a_user())
        user.keeps_body = self.plan.expect_body is not None
        return user

    def _abilities_of_a_user(self) -> Abilities:
        return Abilities(
            next_request=None if self._source.only is not None else self._source.next,
            cookies=Cookies() if self.plan.cookies else None,
        )

    def give_up_overdue(self, now: float) -> None:
        """Give up each request that has been under way for longer than the plan's `total_timeout_s`."""
        limit_s = self.plan.total_timeout_s
        if limit_s is None:
            return
        for user in self._waiting_first():
            cast("AgentUser", user).give_up_if_overdue(limit_s, now)

    def socket_counts(self) -> SocketCounts:
        """Return what the agent's book says."""
        return counts_of(self._agent)

    async def close(self) -> None:
        """Close the agent."""
        await self._agent.close()
