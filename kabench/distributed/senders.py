"""`Senders`: the senders beside one locust worker, one for each class of users that kabench sends for."""

from __future__ import annotations

import functools
import logging
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from locust.runners import STATE_SPAWNING, WorkerRunner

from kabench.distributed.exits import CANNOT_START
from kabench.distributed.gathering import AgentReport
from kabench.distributed.locust_stats import add_second
from kabench.distributed.sender import Sender
from kabench.distributed.user_task import method_of, target_of, task_of, users_of
from kabench.load import AgentSpecError, PlanError

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.env import Environment

    from kabench.distributed.user_task import UserTask
    from kabench.load.figures.messages import Counts, Second

_log = logging.getLogger(__name__)


class Senders:
    """The senders of one environment, one for each class of users.

    `listeners` are called with each second of a sender, as an agent's report.
    """

    _of: ClassVar[weakref.WeakKeyDictionary[Environment, Senders]] = weakref.WeakKeyDictionary()

    def __init__(self, environment: Environment) -> None:
        self._environment = weakref.ref(environment)
        self._senders: dict[type[UserTask], Sender] = {}
        self._refused: set[type[UserTask]] = set()
        self.listeners: list[Callable[[AgentReport], None]] = []
        events: Any = environment.events  # locust's hooks have no types
        events.test_start.add_listener(self._begin)
        events.test_stop.add_listener(self._finish)
        events.quit.add_listener(self._close)

    @classmethod
    def of(cls, environment: Environment) -> Senders:
        """Return the senders of an environment."""
        senders = cls._of.get(environment)
        if senders is None:
            senders = cls._of[environment] = cls(environment)
        return senders

    def prepare(self) -> None:
        """Start the processes of all classes of the test, so that they are running when it begins."""
        senders = [self._sender(user_class) for user_class in self._classes()]
        for sender in senders:
            sender.prepare()
        for sender in senders:
            sender.wait_until_up()

    def _classes(self) -> list[type[UserTask]]:
        environment = self._environment()
        return users_of(environment) if environment is not None else []

    def _sender(self, user_class: type[UserTask]) -> Sender:
        sender = self._senders.get(user_class)
        if sender is None:
            sender = self._senders[user_class] = Sender(functools.partial(self._add, user_class), self._fail)
        return sender

    def sender_of(self, user_class: type[UserTask]) -> Sender:
        """Return the sender of a class, and begin the test if none was announced before its first user."""
        sender = self._sender(user_class)
        if not sender.has_begun and user_class not in self._refused:
            self._begin_with(user_class, sender)
        return sender

    def _begin(self, **_: object) -> None:
        environment = self._environment()
        if environment is not None and isinstance(environment.runner, WorkerRunner):
            # A race in locust: without this, a stop that comes before the first user is taken for one that is over.
            environment.runner.update_state(STATE_SPAWNING)
        self._refused.clear()
        for user_class in self._classes():
            self._begin_with(user_class, self._sender(user_class))

    def _begin_with(self, user_class: type[UserTask], sender: Sender) -> None:
        environment = self._environment()
        try:
            sender.begin(task_of(user_class, (environment.host if environment else None) or user_class.host))
        except (AgentSpecError, PlanError) as error:
            self._refused.add(user_class)
            self._fail(f"{user_class.__name__}: {error}", CANNOT_START)

    def _add(self, user_class: type[UserTask], counts: list[Counts], second: Second, new: Second, at: float) -> None:
        environment = self._environment()
        if environment is None:
            return
        method, path = method_of(user_class), user_class.name or user_class.path
        add_second(environment.stats, method, path, counts, new.totals, at - new.elapsed_s, at)
        report = AgentReport(
            user_class.__name__,
            counts,
            second,
            self._senders[user_class].event_loop,
            target=target_of(user_class),
        )
        for listener in self.listeners:
            listener(report)

    def _fail(self, why: str, exit_code: int) -> None:
        """Leave the test; the other workers go on without this one."""
        _log.error("kabench: %s", why)
        environment = self._environment()
        if environment is not None and environment.runner is not None:
            environment.process_exit_code = exit_code
            gevent.spawn(environment.runner.quit)

    def finish(self) -> None:
        """End the test. When this returns, all that was measured has been handed over."""
        for sender in self._senders.values():
            sender.finish()

    def _finish(self, **_: object) -> None:
        self.finish()
        for sender in self._senders.values():
            sender.prepare()  # there may be another test

    def _close(self, **_: object) -> None:
        for sender in self._senders.values():
            sender.close()
