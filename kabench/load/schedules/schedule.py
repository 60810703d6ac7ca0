"""`Schedule`: what a worker drives. Users or arrivals, through kabench's agents or others: they begin and end alike."""

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

CUT_OFF = "cut_off"
"""The kind of error of a request that was still unanswered a while after the end of the run."""


@dataclass(frozen=True, slots=True)
class ScheduleSetup:
    """What every load is made from: the plan, the worker's share of it, where it records, and whom it tells.

    `over` is called once, with the time, when nothing more will happen.
    """

    plan: LoadPlan
    share: Share
    recorder: Recorder
    over: Callable[[float], None]


class Schedule(ABC):
    """The load of one worker.

    What starts before the end of the warm-up is recorded in `warmup_recorder`, which nobody reads; the rest in
    `recorder`. `refusal` says why a socket could not be opened, if that is the last that was heard.
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
        """Answers so far, those of the warm-up included."""
        return self.recorder.transactions + self.warmup_recorder.transactions

    @property
    @abstractmethod
    def refusal(self) -> str | None:
        """Why a socket could not be opened; None where that is not what was heard last."""

    @property
    @abstractmethod
    def has_got_nowhere(self) -> bool:
        """Whether there is no sense in going on, as long as nothing has been answered."""

    @abstractmethod
    def begin(self, zero: float) -> None:
        """Begin now: with the warm-up, if there is one. `zero` is when it ends, and the first second begins."""

    @abstractmethod
    def measure(self) -> None:
        """The warm-up is over: what starts from now on counts."""

    @abstractmethod
    def end(self, now: float) -> None:
        """Time is over: start nothing more. What is under way may finish."""

    @abstractmethod
    def cut_off(self, now: float) -> None:
        """Count what is still under way as errors, and do not wait for it."""

    @abstractmethod
    def abort(self, now: float) -> None:
        """Stop at once, and count nothing of what is under way."""

    @abstractmethod
    def socket_counts(self) -> SocketCounts:
        """What became of the sockets."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything."""


def tickets_for(plan: LoadPlan, share: Share, users: int) -> list[Iterator[int]]:
    """For each of a worker's users, an iterator with a ticket for every request he may send. Those of a total share."""
    if plan.total is not None:
        shared = iter(range(share.of(plan.total)))
        return [shared] * users
    if plan.requests is not None:
        return [iter(range(plan.requests)) for _ in range(users)]
    return [itertools.repeat(0) for _ in range(users)]
