"""`KabenchUser`: a locust user whose requests kabench sends, from a process beside the gevent worker.

locust decides how many users there are, and when they come and go. Each is a greenlet that waits while the sender sends
its requests. What the sender measures comes back once a second, into locust's own statistics.
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
    """A user that sends one request again and again. A subclass that names the request is a complete scenario.

    `path` is added to locust's `host`. Without a `method`, the request is POST if there are `data`, else GET. `name` is
    the request's name in locust's statistics (the path). All users of a class in a worker share one agent: `agent` is
    `keepalive`, `plain` or `plain-handoff`, with `agent_options`. https is verified against the authorities in the file
    `cacert`, or not at all if `insecure`. `wait_time` is locust's, and can be `constant`, `between`, `constant_pacing`,
    `constant_throughput` or a function that needs nothing of the user. A subclass's own tasks are not carried out.
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._sender = Senders.of(environment).sender_of(type(self))
        self._may_end = Event()
        self._has_joined = self._has_left = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if any(own is not KabenchUser.send for own in cls.tasks):
            cls.tasks = [KabenchUser.send]
            _log.warning("kabench: %s: the tasks of a KabenchUser are not carried out", cls.__name__)

    @task
    def send(self) -> None:
        """Have the sender send for this user until the user is stopped. locust calls it."""
        self._has_joined = True
        self._sender.join()
        try:
            self._may_end.wait()
        except BaseException:
            self._sender.give_up(is_new=not self._has_left)
            raise

    def stop(self, force: bool = False) -> bool:
        """Stop the user; with `force`, give up the request that is under way. locust calls it."""
        killed: bool = super().stop(force)
        if self._has_joined and not self._has_left and not killed:
            self._has_left = True
            self._sender.leave(self._may_end.set)
        return killed


def _prepare(environment: Environment, **_: object) -> None:
    if isinstance(environment.runner, LocalRunner | WorkerRunner):
        Senders.of(environment).prepare()


_events: Any = locust.events
_events.init.add_listener(_prepare)
