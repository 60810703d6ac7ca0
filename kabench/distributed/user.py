"""`KabenchUser`: a locust user whose requests are sent by kabench's engine, in a process beside the gevent worker.

Locust decides how many users there are, and when they come and go; each is a greenlet that waits while the engine sends
for him. What the engine measures comes back once a second, into locust's own statistics.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import locust
from gevent.event import Event
from locust import User, task
from locust.runners import LocalRunner, WorkerRunner

from kabench.distributed.senders import Senders
from kabench.distributed.user_task import UserTask

if TYPE_CHECKING:
    from locust.env import Environment

_log = logging.getLogger(__name__)


class KabenchUser(UserTask, User):
    """A user who sends one request again and again. A subclass that says which is a complete scenario.

    `path` is added to locust's `host`. Without a `method`, it is POST where there are `data`, else GET. `name` is what
    locust's statistics call it (the path). All users of a class in a worker share one agent: `agent` is `keepalive`,
    `plain` or `plain-handoff`, with `agent_options`; `cacert` is a file with the authorities that https is verified
    against, `insecure` does without. `wait_time` is locust's, and can be `constant`, `between`, `constant_pacing`,
    `constant_throughput` or a function that needs nothing of the user. Tasks of the subclass's own are not carried out.
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._engine = Senders.of(environment).engine_of(type(self))
        self._may_end = Event()
        self._has_joined = self._has_left = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if any(own is not KabenchUser.send for own in cls.tasks):
            cls.tasks = [KabenchUser.send]
            _log.warning("kabench: %s: the tasks of a KabenchUser are not carried out", cls.__name__)

    @task
    def send(self) -> None:
        """Have the engine send for this user until he is stopped. Called by locust."""
        self._has_joined = True
        self._engine.join()
        try:
            self._may_end.wait()
        except BaseException:
            self._engine.give_up(is_new=not self._has_left)
            raise

    def stop(self, force: bool = False) -> bool:
        """Stop; with `force`, what is under way is given up. Called by locust."""
        killed: bool = super().stop(force)
        if self._has_joined and not self._has_left and not killed:
            self._has_left = True
            self._engine.leave(self._may_end.set)
        return killed


def _prepare(environment: Environment, **_: object) -> None:
    if isinstance(environment.runner, LocalRunner | WorkerRunner):
        Senders.of(environment).prepare()


_events: Any = locust.events
_events.init.add_listener(_prepare)
