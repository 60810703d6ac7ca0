"""`SteeredUsers`: users who come and go as somebody else says, and may pause after each answer."""

from __future__ import annotations

import itertools
import random
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.load.users import AgentUsers, User

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent.aio import AsyncAgent, PreparedRequest, ResponseHead
    from kabench.load.crowd import CrowdUser
    from kabench.load.driver import Setup
    from kabench.load.messages import Steering
    from kabench.load.source import PreparedSource


class PausingUser(User):
    """A user who pauses before he sends again. Told to stop in a pause, he stops at once.

    `pause_s` says for how long, by the seconds since he began to send.
    """

    def __init__(
        self,
        agent: AsyncAgent,
        prepared: PreparedRequest,
        finished: Callable[[CrowdUser, float], None],
        pause_s: Callable[[float], float],
    ) -> None:
        super().__init__(agent, prepared, finished)
        self._pause_s = pause_s

    def succeeded(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Count it, pause and go on."""
        self._recorder.record(self, head, body, now)
        if next(self._tickets, None) is None:
            self._finish(now)
        else:
            self._pause = self._loop.call_later(self._pause_s(now - self.started_at), self._pause_is_over)

    def _pause_is_over(self) -> None:
        self._pause = None
        self._agent.start(self, perf_counter())

    def _pause_after_error_s(self) -> float:
        return self._pause_s(perf_counter() - self.started_at)


class SteeredUsers(AgentUsers):
    """As many users as was said last (`have`), from none on, until the load is ended.

    `levelled` is called with the number of a level when no more users than that are busy.
    """

    def __init__(self, setup: Setup, agent: AsyncAgent, source: PreparedSource, steering: Steering) -> None:
        self._steering = steering
        super().__init__(setup, agent, source)
        self._users.clear()  # the plan's, who would end as the plan says
        self._tickets.clear()
        self._asked: deque[tuple[int, int]] = deque()
        self.levelled: Callable[[int], None] = lambda _: None

    def _make_user(self) -> CrowdUser:
        steering = self._steering
        if not steering.pauses_s and not steering.pacing_s:
            return super()._make_user()
        pause_s = self._until_paced if steering.pacing_s else self._any_pause
        return PausingUser(self._agent, self._source.first, self._user_finished, pause_s)

    def _any_pause(self, _: float) -> float:
        return random.choice(self._steering.pauses_s)

    def _until_paced(self, since_s: float) -> float:
        return max(0.0, self._steering.pacing_s - since_s)

    def begin(self, zero: float) -> None:
        """Wait for users."""
        self._zero = zero

    def have(self, users: int, number: int, now: float, *, abort: bool) -> None:
        """Have so many users, and say so by this number; with `abort`, do not wait for what the others have under way.

        Those who wait for a socket are among the first to go, so that none of them gets the socket of one who goes.
        """
        if self._has_ended:
            return
        while len(self._users) < users:
            self._users.append(self._make_user())
            self._tickets.append(itertools.repeat(0))
        self._have(users, now)
        if abort:
            for user in sorted(self._users[users:], key=lambda user: not user.waits):
                if not user.is_finished:
                    user.abort(now)
        self._asked.append((users, number))
        self._look_at_levels()

    def _look_at_levels(self) -> None:
        while self._asked and self._busy_users <= max(self._asked[0][0], self._level):
            self.levelled(self._asked.popleft()[1])

    def _user_finished(self, _: CrowdUser, now: float) -> None:
        self._busy_users -= 1
        self._look_at_levels()
        if not self._busy_users and self._has_ended:
            self._say_over(now)

    @property
    def has_got_nowhere(self) -> bool:
        """Never: users go on trying until they are told to stop."""
        return False
