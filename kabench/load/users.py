"""Users who send through a kabench agent. A user is his own exchange, sent again and again."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from time import perf_counter, time
from typing import TYPE_CHECKING

from kabench.agent import AgentClosedError, AgentError, ConnectError
from kabench.load.cookies import CookieJar
from kabench.load.crowd import PAUSE_AFTER_CONNECT_ERROR_S, Crowd, CrowdUser
from kabench.load.driver import CUT_OFF
from kabench.load.load_exchange import LoadExchange
from kabench.load.sockets import counts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent.aio import AsyncAgent, PreparedRequest, ResponseHead
    from kabench.load.driver import Setup
    from kabench.load.messages import SocketCounts
    from kabench.load.source import PreparedSource


class User(LoadExchange, CrowdUser):
    """A user who always sends the same: nothing is allocated for a request."""

    def __init__(
        self, agent: AsyncAgent, prepared: PreparedRequest, finished: Callable[[CrowdUser, float], None]
    ) -> None:
        LoadExchange.__init__(self, prepared, agent.options.activity_timeout)
        CrowdUser.__init__(self, finished)
        self._agent = agent
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None

    def _start(self, now: float) -> None:
        if next(self._tickets, None) is None:
            self._finish(now)
        else:
            self.refusal = None
            self._agent.start(self, now)

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Count it and go on."""
        self._recorder.record(self, head, body, now)
        if next(self._tickets, None) is None:
            self._finish(now)
        else:
            self._agent.start(self, now)

    def failed(self, error: Exception, now: float) -> None:
        """Count it and go on, after a pause if nobody was there."""
        if self.is_finished:
            return
        if isinstance(error, AgentClosedError):
            self._finish(now)
            return
        self._recorder.record_error(error.kind if isinstance(error, AgentError) else "error")
        pause_s = self._pause_after_error_s()
        if isinstance(error, ConnectError):
            pause_s = max(pause_s, PAUSE_AFTER_CONNECT_ERROR_S)
            self.refusal = str(error)
        self._pause = self._loop.call_later(pause_s, self._go_on)

    def _pause_after_error_s(self) -> float:
        return 0.0

    def _go_on(self) -> None:
        self._pause = None
        self._start(perf_counter())

    def stop(self) -> None:
        """Send no more; in a pause, that is the end."""
        super().stop()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._finish(perf_counter())

    @property
    def waits(self) -> bool:
        """Whether his request still waits for a socket."""
        return self.pending

    def cut_off(self, now: float) -> None:
        """Count what is still under way as an error, and do not wait for it."""
        if not self.is_finished:
            self._recorder.record_error(CUT_OFF)
            self.abort(now)

    def abort(self, now: float) -> None:
        """Send no more, and do not wait for what is under way."""
        self.stop()
        if not self.is_finished:
            self._agent.abort(self)
            self._finish(now)


class VaryingUser(User):
    """A user who sends something else each time."""

    def __init__(self, agent: AsyncAgent, source: PreparedSource, finished: Callable[[CrowdUser, float], None]) -> None:
        super().__init__(agent, source.first, finished)
        self._source = source

    def _start(self, now: float) -> None:
        if next(self._tickets, None) is None:
            self._finish(now)
        else:
            self.refusal = None
            self.carry(self._next())
            self._agent.start(self, now)

    def _next(self) -> PreparedRequest:
        return self._source.next()

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Count it and go on."""
        self._recorder.record(self, head, body, now)
        self._start(now)


class CookieUser(VaryingUser):
    """A user who sends back the cookies that an origin has given him."""

    def __init__(self, agent: AsyncAgent, source: PreparedSource, finished: Callable[[CrowdUser, float], None]) -> None:
        super().__init__(agent, source, finished)
        self._cookies: dict[str, CookieJar] = defaultdict(CookieJar)

    def _next(self) -> PreparedRequest:
        prepared = self._source.next()
        return self._cookies[prepared.origin_key].added_to(prepared)

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Keep its cookies, count it and go on."""
        for name, value in head.raw_headers:
            if name.lower() == b"set-cookie":
                self._cookies[self.prepared.origin_key].keep(value, time())
        super().succeeded(head, body, now)


class AgentUsers(Crowd):
    """Users who share one kabench agent."""

    def __init__(self, setup: Setup, agent: AsyncAgent, source: PreparedSource) -> None:
        self._agent = agent
        self._source = source
        super().__init__(setup)

    def _make_user(self) -> CrowdUser:
        user = self._new_user()
        user.keeps_body = self.plan.expect_body is not None
        return user

    def _new_user(self) -> User:
        if self.plan.cookies:
            return CookieUser(self._agent, self._source, self._user_finished)
        if self._source.only is None:
            return VaryingUser(self._agent, self._source, self._user_finished)
        return User(self._agent, self._source.only, self._user_finished)

    def socket_counts(self) -> SocketCounts:
        """What the agent's book says."""
        return counts_of(self._agent)

    async def close(self) -> None:
        """Close the agent."""
        await self._agent.close()
