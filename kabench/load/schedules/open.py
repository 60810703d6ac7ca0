"""The open model: requests are due on a schedule, whether or not earlier ones have been answered.

Here is counted what is in flight, what was not started, and when the load is over. The dispatcher decides when to start
a request; the subclasses send it.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.load.schedules.dispatcher import Dispatcher, DueTimes
from kabench.load.schedules.schedule import Schedule
from kabench.system.alarm import make_alarm

if TYPE_CHECKING:
    from kabench.load.figures.recorder import Recorder
    from kabench.load.schedules.schedule import ScheduleSetup

GIVES_UP_AFTER_S = 1.0
"""A target that has refused every socket for this long, and answered nothing, is taken to be unreachable."""


class Arrivals(Schedule):
    """Requests of the open model: what is common to all ways of sending them.

    While `max_in_flight` requests are in flight, what is due is counted as not started.
    """

    def __init__(self, setup: ScheduleSetup) -> None:
        super().__init__(setup)
        loop = asyncio.get_running_loop()
        self._max_in_flight = self.share.of(self.plan.max_in_flight)
        due_times = DueTimes(self.plan, self.share)
        self._dispatcher = Dispatcher(due_times, self._start, lambda wake: make_alarm(loop, wake))
        self.in_flight = 0
        self._zero = 0.0
        self._is_over = self._has_ended = False
        self._refusal: str | None = None

    def begin(self, zero: float) -> None:
        """Start what is due from now on."""
        self._zero = zero
        self._dispatcher.begin(zero)
        self._finish_if_over(perf_counter())

    def measure(self) -> None:
        """Do nothing: when a request was due says whether it belongs to the warm-up."""

    def _start(self, due_at: float, now: float) -> None:
        recorder = self.recorder if due_at >= self._zero else self.warmup_recorder
        if self.in_flight >= self._max_in_flight:
            recorder.not_started += 1
        else:
            self.in_flight += 1
            self._send(due_at, now, recorder)

    def _send(self, due_at: float, now: float, recorder: Recorder) -> None:
        raise NotImplementedError

    def _refused(self, why: str) -> None:
        """Note why a socket could not be opened."""
        self._refusal = why

    def _request_ended(self, now: float) -> None:
        self.in_flight -= 1
        if not self.in_flight and self._dispatcher.is_idle:
            self._finish_if_over(now)

    def _finish_if_over(self, now: float) -> None:
        is_due = self._has_ended or self.plan.ends_after_s is None
        if is_due and not self.in_flight and self._dispatcher.is_idle and not self._is_over:
            self._is_over = True
            self._dispatcher.stop()
            if self.plan.ends_after_s is not None:  # else, what is left was not due yet
                self.recorder.not_started += self._dispatcher.count_rest()
            self.over(now)

    def end(self, now: float) -> None:
        """Start nothing more. What was due and was not started is counted as that."""
        self._has_ended = True
        self._dispatcher.end()
        self._finish_if_over(now)

    def give_up(self, kind: str, now: float) -> None:
        """Start nothing more, count the requests in flight as unanswered, of this kind, and do not wait for them."""
        self._has_ended = True
        self._dispatcher.stop()
        self._give_up(kind, now)
        self.in_flight = 0
        self._finish_if_over(now)

    def _give_up(self, kind: str, now: float) -> None:
        """Give up the requests in flight, and count each as unanswered, of this kind."""
        raise NotImplementedError

    @property
    def refusal(self) -> str | None:
        """Why the last socket that failed could not be opened; None if none failed."""
        return self._refusal

    @property
    def has_got_nowhere(self) -> bool:
        """Whether a socket was refused, and the load has lasted long enough."""
        return self._refusal is not None and perf_counter() - self._zero >= GIVES_UP_AFTER_S - self.plan.warmup_s
