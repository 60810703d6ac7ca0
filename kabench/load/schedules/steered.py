"""`SteeredUsers`: users that come and go as the worker is told, and may pause after each answer.

A distributed run needs them: there, the master decides how many users there are.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import deque
from typing import TYPE_CHECKING

from kabench.load.schedules.agent_users import Abilities, AgentUsers
from kabench.result import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent.aio import AsyncAgent
    from kabench.load.figures.messages import Steering
    from kabench.load.plan.source import PreparedSource
    from kabench.load.schedules.closed import User
    from kabench.load.schedules.schedule import ScheduleSetup


class SteeredUsers(AgentUsers):
    """As many users as the last `set_users` asked for, and none at first, until the load is ended.

    `levelled` is called with the number of a level when no more users are busy than it asked for.
    """

    def __init__(self, setup: ScheduleSetup, agent: AsyncAgent, source: PreparedSource, steering: Steering) -> None:
        self._steering = steering
        self._random = random.Random(f"{setup.plan.seed}-{setup.share.index}-pauses")
        super().__init__(setup, agent, source)
        self._users.clear()  # those of the plan, which would end as the plan says
        self._tickets.clear()
        self._awaited: deque[tuple[int, int]] = deque()
        self.levelled: Callable[[int], None] = lambda _: None

    def _abilities_of_a_user(self) -> Abilities:
        steering = self._steering
        abilities = super()._abilities_of_a_user()
        if not steering.pauses_s and not steering.pacing_s:
            return abilities
        return dataclasses.replace(abilities, pause_s=self._until_paced if steering.pacing_s else self._any_pause)

    def _any_pause(self, _: float) -> float:
        return self._random.choice(self._steering.pauses_s)

    def _until_paced(self, since_s: float) -> float:
        return max(0.0, self._steering.pacing_s - since_s)

    def begin(self, zero: float) -> None:
        """Begin without users: the first level brings them."""
        self._zero = zero

    def set_users(self, users: int, number: int, now: float, *, abort: bool) -> None:
        """Have `users` users. When no more are busy, `levelled` is called with `number`.

        With `abort`, the others give up their requests in flight; pending ones first, because they would otherwise get
        the sockets of those that are given up.
        """
        if self._has_ended:
            return
        while len(self._users) < users:
            self._users.append(self._make_user())
            self._tickets.append(itertools.repeat(0))
        self._set_level(users, now)
        if abort:
            for user in sorted(self._users[users:], key=lambda user: not user.waits):
                if not user.is_finished:
                    user.give_up(INTERRUPTED, now)
        self._awaited.append((users, number))
        self._report_levels()

    def _report_levels(self) -> None:
        while self._awaited and self._busy_users <= max(self._awaited[0][0], self._level):
            self.levelled(self._awaited.popleft()[1])

    def _user_finished(self, _: User, now: float) -> None:
        self._busy_users -= 1
        self._report_levels()
        if not self._busy_users and self._has_ended:
            self._say_over(now)

    @property
    def has_got_nowhere(self) -> bool:
        """Always False: users go on trying until they are told to stop."""
        return False
