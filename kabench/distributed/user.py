"""`KabenchUser`: a locust user whose requests are sent by kabench's engine, in a process beside the gevent worker.

Locust decides how many users there are, and when they come and go; each is a greenlet that waits while the engine sends
for him. What the engine measures comes back once a second, into locust's own statistics.
"""

from __future__ import annotations

import functools
import logging
import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
import locust
from gevent.event import Event
from locust import User, task
from locust.runners import STATE_SPAWNING, LocalRunner, WorkerRunner

from kabench.agent import AgentOptions
from kabench.distributed.engine import Engine
from kabench.distributed.entries import add_second
from kabench.distributed.exits import CANNOT_START
from kabench.distributed.gathering import AgentReport
from kabench.load import AgentSpecError, LoadPlan, PlanError
from kabench.load.agents import OWN_SPECS, is_own
from kabench.load.messages import Steering, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from locust.env import Environment

    from kabench.load.messages import Counts, Second

_SAMPLED_PAUSES = 1000
"""Of a `wait_time` that differs from one time to the next, as many are drawn, and the engine takes any of them."""

_log = logging.getLogger(__name__)


class KabenchUser(User):
    """A user who sends one request again and again. A subclass that says which is a complete scenario.

    `path` is added to locust's `host`. Without a `method`, it is POST where there are `data`, else GET. `name` is what
    locust's statistics call it (the path). All users of a class in a worker share one agent: `agent` is `keepalive`,
    `plain` or `plain-handoff`, with `agent_options`; `cacert` is a file with the authorities that https is verified
    against, `insecure` does without. `wait_time` is locust's, and can be `constant`, `between`, `constant_pacing`,
    `constant_throughput` or a function that needs nothing of the user. Tasks of the subclass's own are not carried out.
    """

    abstract = True
    path: str = "/"
    method: str | None = None
    data: str | bytes | None = None
    headers: ClassVar[Mapping[str, str]] = {}
    name: str | None = None
    agent: str = "keepalive"
    agent_options: ClassVar[AgentOptions] = AgentOptions()
    cacert: str | None = None
    insecure: bool = False

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._engine = Engines.of(environment).engine_of(type(self))
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


class Engines:
    """The engines of one environment, an engine a class of users, and the tests they are in.

    `listeners` are called with what each second of an engine is, as an agent's report.
    """

    _of: ClassVar[weakref.WeakKeyDictionary[Environment, Engines]] = weakref.WeakKeyDictionary()

    def __init__(self, environment: Environment) -> None:
        self._environment = weakref.ref(environment)
        self._engines: dict[type[KabenchUser], Engine] = {}
        self._refused: set[type[KabenchUser]] = set()
        self.listeners: list[Callable[[AgentReport], None]] = []
        events: Any = environment.events  # locust's hooks have no types
        events.test_start.add_listener(self._begin)
        events.test_stop.add_listener(self._finish)
        events.quit.add_listener(self._close)

    @classmethod
    def of(cls, environment: Environment) -> Engines:
        """Those of an environment."""
        engines = cls._of.get(environment)
        if engines is None:
            engines = cls._of[environment] = cls(environment)
        return engines

    def prepare(self) -> None:
        """Start the processes of all classes that may be used, so that they are there when a test begins."""
        engines = [self._engine(user_class) for user_class in self._classes()]
        for engine in engines:
            engine.prepare()
        for engine in engines:
            engine.wait_until_up()

    def _classes(self) -> list[type[KabenchUser]]:
        environment = self._environment()
        return [each for each in environment.user_classes if issubclass(each, KabenchUser)] if environment else []

    def _engine(self, user_class: type[KabenchUser]) -> Engine:
        engine = self._engines.get(user_class)
        if engine is None:
            engine = self._engines[user_class] = Engine(functools.partial(self._add, user_class), self._fail)
        return engine

    def engine_of(self, user_class: type[KabenchUser]) -> Engine:
        """The engine of a class, which has begun: where no test was announced, it begins with its first user."""
        engine = self._engine(user_class)
        if not engine.has_begun and user_class not in self._refused:
            self._begin_with(user_class, engine)
        return engine

    def _begin(self, **_: object) -> None:
        environment = self._environment()
        if environment is not None and isinstance(environment.runner, WorkerRunner):
            # else a stop that comes before the first user is taken for one that has been: locust's own race
            environment.runner.update_state(STATE_SPAWNING)
        self._refused.clear()
        for user_class in self._classes():
            self._begin_with(user_class, self._engine(user_class))

    def _begin_with(self, user_class: type[KabenchUser], engine: Engine) -> None:
        environment = self._environment()
        try:
            engine.begin(task_of(user_class, (environment.host if environment else None) or user_class.host))
        except (AgentSpecError, PlanError) as error:
            self._refused.add(user_class)
            self._fail(f"{user_class.__name__}: {error}", CANNOT_START)

    def _add(self, user_class: type[KabenchUser], counts: list[Counts], second: Second, new: Second, at: float) -> None:
        environment = self._environment()
        if environment is None:
            return
        method, path = method_of(user_class), user_class.name or user_class.path
        add_second(environment.stats, method, path, counts, new.totals, at - new.elapsed_s, at)
        report = AgentReport(user_class.__name__, counts, second, self._engines[user_class].event_loop)
        for listener in self.listeners:
            listener(report)

    def _fail(self, why: str, exit_code: int) -> None:
        """Leave: the others go on without this worker."""
        _log.error("kabench: %s", why)
        environment = self._environment()
        if environment is not None and environment.runner is not None:
            environment.process_exit_code = exit_code
            gevent.spawn(environment.runner.quit)

    def finish(self) -> None:
        """See the test end; what was measured has been handed over then."""
        for engine in self._engines.values():
            engine.finish()

    def _finish(self, **_: object) -> None:
        self.finish()
        for engine in self._engines.values():
            engine.prepare()  # there may be another test

    def _close(self, **_: object) -> None:
        for engine in self._engines.values():
            engine.close()


def method_of(user_class: type[KabenchUser]) -> str:
    """The method of a class's request."""
    return user_class.method or ("POST" if user_class.data is not None else "GET")


def task_of(user_class: type[KabenchUser], host: str | None) -> Task:
    """What the engine is to do for a class of users. Raises `PlanError` and `AgentSpecError`."""
    if not host:
        raise PlanError("host: there is none; set it in the class, or with --host")
    if not isinstance(user_class.data, str | bytes | None):
        raise PlanError(f"data: text or bytes, not {type(user_class.data).__name__}")
    if not isinstance(user_class.agent_options, AgentOptions):
        raise PlanError(f"agent_options: an AgentOptions, not {type(user_class.agent_options).__name__}")
    if not is_own(user_class.agent):
        raise AgentSpecError(
            f"agent: {user_class.agent!r} is none that locust can steer; there are {', '.join(OWN_SPECS)}"
        )
    data = user_class.data or b""
    path = user_class.path
    url = path if "://" in path else f"{host.rstrip('/')}/{path.removeprefix('/')}"
    plan = LoadPlan(
        url=url,
        method=method_of(user_class),
        headers=tuple(user_class.headers.items()),
        data=data.encode() if isinstance(data, str) else data,
        agent_options=user_class.agent_options,
        concurrency=1,
        cacert=user_class.cacert,
        insecure=user_class.insecure,
    )
    return Task(plan, user_class.agent, "", steering=steering_of(user_class))


_OF_A_REQUEST = ("url", "method", "headers", "data", "agent_options")


def request_of(user_class: type[KabenchUser], host: str | None) -> dict[str, Any]:  # JSON
    """What users of a class send, and through what, without secrets."""
    try:
        plan = task_of(user_class, host or user_class.host).plan.as_record()
    except (AgentSpecError, PlanError):
        return {}
    return {"agent": user_class.agent, **{name: plan[name] for name in _OF_A_REQUEST}}


class _Probe:
    """What locust's `constant_pacing` looks at of a user."""

    def __init__(self) -> None:
        self._cp_last_run = time.perf_counter()
        self._cp_last_wait_time = 0.0


def steering_of(user_class: type[KabenchUser]) -> Steering:
    """How long users pause, by their `wait_time`. Raises `PlanError` if it cannot be asked without a user."""
    probe = _Probe()
    wait: Any = user_class.wait_time
    try:
        pauses_s = [float(wait(probe)), float(wait(_Probe()))]
        if probe.__dict__["_cp_last_wait_time"]:
            return Steering(pacing_s=pauses_s[0])
        if pauses_s[0] != pauses_s[1]:
            pauses_s += [float(wait(_Probe())) for _ in range(_SAMPLED_PAUSES)]
    except Exception as error:  # a user's own function
        raise PlanError(f"wait_time: it takes more than a function of its own: {error!r}") from None
    return Steering(pauses_s=tuple(pauses_s)) if any(pauses_s) else Steering()


def _prepare(environment: Environment, **_: object) -> None:
    if isinstance(environment.runner, LocalRunner | WorkerRunner):
        Engines.of(environment).prepare()


_events: Any = locust.events
_events.init.add_listener(_prepare)
