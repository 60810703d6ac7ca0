"""`Users`: the users of the closed model, as many as the plan wants at each time.

How many requests a user may send is a supply of tickets, one a request: its own, one that all users share, or one
without an end. A user draws a ticket before it sends, and has finished when there is none. How a user sends is the
subclasses' part: `agent_users` and `client_users`.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.load.schedules.schedule import Schedule, tickets_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.load.figures.recorder import Recorder
    from kabench.load.schedules.schedule import ScheduleSetup

PAUSE_AFTER_CONNECT_ERROR_S = 0.1
"""While a server is down, its users would else use up the machine with trying."""

_LOOK_AT_LEVEL_EVERY_S = 0.02
_ROUNDING = 1e-9


class User(ABC):
    """A user: it sends, waits for the answer, and sends again as long as it has tickets.

    `finished(self, now)` is called when it has stopped. `refusal` says why its last socket could not be opened.
    """

    _recorder: Recorder

    def __init__(self, finished: Callable[[User, float], None]) -> None:
        self._finished = finished
        self._tickets: Iterator[int] = iter(())
        self.is_finished = True
        self.refusal: str | None = None

    def begin(self, tickets: Iterator[int], recorder: Recorder, now: float) -> None:
        """Begin to send with these tickets, and record in `recorder`."""
        self.is_finished = False
        self._tickets = tickets
        self._recorder = recorder
        self._start(now)

    @abstractmethod
    def _start(self, now: float) -> None:
        """Send the first request, if there is a ticket for it."""

    def measure(self, tickets: Iterator[int], recorder: Recorder) -> None:
        """Go on with these tickets and this recorder from the next request on."""
        self._tickets = self._measured(tickets, recorder)

    def _measured(self, tickets: Iterator[int], recorder: Recorder) -> Iterator[int]:
        """Yield the first ticket after the warm-up. When it is drawn, the last request of the warm-up has ended."""
        self._recorder = recorder
        self._tickets = tickets
        yield from itertools.islice(tickets, 1)

    def stop(self) -> None:
        """Send no more."""
        self._tickets = iter(())

    @property
    def waits(self) -> bool:
        """Whether its request is pending."""
        return False

    def count_in(self, recorder: Recorder) -> None:
        """Record the request in flight in `recorder`."""
        self._recorder = recorder

    @abstractmethod
    def give_up(self, kind: str, now: float) -> None:
        """Send no more, count the request in flight as unanswered, of this kind, and do not wait for it."""

    @property
    def has_got_nowhere(self) -> bool:
        """Whether it has finished, or its last socket could not be opened."""
        return self.is_finished or self.refusal is not None

    def _finish(self, now: float) -> None:
        if not self.is_finished:
            self.is_finished = True
            self._finished(self, now)


class Users(Schedule):
    """All users of one worker."""

    def __init__(self, setup: ScheduleSetup) -> None:
        super().__init__(setup)
        self._loop = asyncio.get_running_loop()
        self._ramp = self.plan.ramp
        self._users = [self._make_user() for _ in range(self.share.of(int(self.plan.most + _ROUNDING)))]
        self._tickets = tickets_for(self.plan, self.share, len(self._users))
        self._busy_users = self._level = 0
        self._is_over = self._has_ended = False
        self._zero = 0.0

    @abstractmethod
    def _make_user(self) -> User:
        """Make a user whose `finished` is `self._user_finished`."""

    def begin(self, zero: float) -> None:
        """Let the first users begin: as many as the ramp has at its start."""
        self._zero = zero
        recorder = self.warmup_recorder if self.plan.warmup_s else self.recorder
        self._level = self._level_at(0.0)
        users = self._users[: self._level]
        self._busy_users = len(users)
        for user, tickets in zip(users, self._tickets, strict=False):
            user.begin(itertools.repeat(0) if self.plan.warmup_s else tickets, recorder, perf_counter())
        if self.plan.stages and not self.plan.warmup_s:
            self._follow_ramp()

    def measure(self) -> None:
        """Tell the users that requests count from now on, and let the stages begin."""
        for user, tickets in zip(self._users[: self._level], self._tickets, strict=False):
            if not user.is_finished:
                user.measure(tickets, self.recorder)
        if self.plan.stages:
            self._follow_ramp()

    def _level_at(self, elapsed_s: float) -> int:
        return self.share.of(int(self._ramp.level_at(elapsed_s) + _ROUNDING))

    def _follow_ramp(self) -> None:
        """Have as many users as the ramp says now, and look again later."""
        if self._has_ended:
            return
        now = perf_counter()
        self._set_level(self._level_at(max(0.0, now - self._zero)), now)
        self._loop.call_later(_LOOK_AT_LEVEL_EVERY_S, self._follow_ramp)

    def _set_level(self, level: int, now: float) -> None:
        """Have `level` users: tell the others to stop, or let new ones begin."""
        for user in self._users[level : self._level]:
            user.stop()
        for user, tickets in list(zip(self._users, self._tickets, strict=True))[self._level : level]:
            self._let_begin(user, tickets, now)
        self._level = level

    def _let_begin(self, user: User, tickets: Iterator[int], now: float) -> None:
        if user.is_finished:
            self._busy_users += 1
            user.begin(tickets, self.recorder, now)
        else:  # it was told to stop, and still waits for its last answer
            user.measure(tickets, self.recorder)

    def _user_finished(self, _: User, now: float) -> None:
        self._busy_users -= 1
        if not self._busy_users and (self._has_ended or not self.plan.stages):
            self._say_over(now)

    def _say_over(self, now: float) -> None:
        if not self._is_over:
            self._is_over = self._has_ended = True
            self.over(now)

    def end(self, now: float) -> None:
        """Let every user finish its request in flight."""
        self._has_ended = True
        for user in self._users:
            user.stop()
        if not self._busy_users:
            self._say_over(now)

    def give_up(self, kind: str, now: float) -> None:
        """End every user. A request from the warm-up counts too if it was unanswered all the time that counts."""
        is_measuring = now >= self._zero
        self.end(now)
        for user in self._waiting_first():
            if is_measuring:
                user.count_in(self.recorder)
            user.give_up(kind, now)

    def _waiting_first(self) -> list[User]:
        """Return all users, pending ones first: else they would get the sockets of users that are ended."""
        return sorted(self._users, key=lambda user: not user.waits)

    @property
    def refusal(self) -> str | None:
        """Why a user's socket could not be opened."""
        return next((user.refusal for user in self._users if user.refusal is not None), None)

    @property
    def has_got_nowhere(self) -> bool:
        """Whether every user has failed to connect."""
        return self._level > 0 and all(user.has_got_nowhere for user in self._users)
