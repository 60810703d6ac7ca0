"""`Schedule`: what a worker drives. Users and arrivals, through kabench's agents or other clients, begin and end alike.

The worker says when to begin, to measure, to end and to give up; the schedule says when it is over.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.load.figures.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.load.figures.messages import SocketCounts
    from kabench.load.plan.plan import LoadPlan
    from kabench.load.plan.share import Share

TOTAL_TIMEOUT = "total_timeout"
"""The kind of error of a request that was still unanswered after the plan's `total_timeout_s`."""

CUT_OFF = "cut_off"
"""The kind of error of a request that was still unanswered when the grace after the end was over."""


@dataclass(frozen=True, slots=True)
class ScheduleSetup:
    """What every schedule is made from: the plan, the worker's share of it, a recorder, and a callback.

    `over` is called once, with the time, when nothing more will happen.
    """

    plan: LoadPlan
    share: Share
    recorder: Recorder
    over: Callable[[float], None]


class Schedule(ABC):
    """The load of one worker.

    A request that starts before the end of the warm-up is recorded in `warmup_recorder`, which goes into no figures.
    Any other is recorded in `recorder`.
    """

    def __init__(self, setup: ScheduleSetup) -> None:
        self.plan = setup.plan
        self.share = setup.share
        self.recorder = setup.recorder
        self.warmup_recorder = Recorder()
        self.over = setup.over

    @property
    def has_been_answered(self) -> bool:
        """Whether any answer has ever come."""
        return bool(self.recorder.status_codes or self.warmup_recorder.status_codes)

    @property
    def error_kinds(self) -> set[str]:
        """The kinds of all errors so far."""
        return {*self.recorder.errors, *self.warmup_recorder.errors}

    @property
    def finished_requests(self) -> int:
        """The answers so far, including those of the warm-up."""
        return self.recorder.transactions + self.warmup_recorder.transactions

    @property
    @abstractmethod
    def refusal(self) -> str | None:
        """Why a socket could not be opened; None where there is no such failure."""

    @property
    @abstractmethod
    def has_got_nowhere(self) -> bool:
        """Whether to give up, if nothing has been answered either."""

    @abstractmethod
    def begin(self, zero: float) -> None:
        """Begin now, with the warm-up if there is one. `zero` is when that ends, and the first second begins."""

    @abstractmethod
    def measure(self) -> None:
        """Count what starts from now on: the warm-up is over."""

    @abstractmethod
    def end(self, now: float) -> None:
        """Start nothing more: time is over. What is in flight may finish."""

    @abstractmethod
    def give_up(self, kind: str, now: float) -> None:
        """Start nothing more, count the requests in flight as unanswered, of this kind, and do not wait for them."""

    def give_up_overdue(self, now: float) -> None:  # noqa: B027  # only kabench's own agents can
        """Give up each request that has been under way for longer than the plan's `total_timeout_s`."""

    @abstractmethod
    def socket_counts(self) -> SocketCounts:
        """Return what became of the sockets."""

    @abstractmethod
    async def close(self) -> None:
        """Close the agent or client."""


def tickets_for(plan: LoadPlan, share: Share, users: int) -> list[Iterator[int]]:
    """Return for each user an iterator with a ticket for every request it may send. With a `total`, they share one."""
    if plan.total is not None:
        shared = iter(range(share.of(plan.total)))
        return [shared] * users
    if plan.requests is not None:
        return [iter(range(plan.requests)) for _ in range(users)]
    return [itertools.repeat(0) for _ in range(users)]
