"""`UserTask`: the request of a class of users, and the task that its sender gets: request, agent, pauses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from kabench.agent import AgentOptions
from kabench.load import AgentSpecError, LoadPlan, PlanError
from kabench.load.clients.specs import OWN_SPECS, is_own
from kabench.load.figures.messages import Steering, Task
from kabench.load.plan.target_names import without_changing_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locust.env import Environment

_SAMPLED_PAUSES = 1000
"""How many pauses are drawn from a `wait_time` that varies. The sender picks from them at random."""

_OF_A_REQUEST = ("url", "method", "headers", "data", "agent_options")


class UserTask:
    """The request of a class of users. `KabenchUser` says what each attribute means.

    It is mixed with locust's `User`, which sets `host` and `wait_time`.
    """

    host: str | None
    wait_time: Any  # locust's own functions, or the user's
    path: str = "/"
    method: str | None = None
    data: str | bytes | None = None
    headers: ClassVar[Mapping[str, str]] = {}
    name: str | None = None
    agent: str = "keepalive"
    agent_options: ClassVar[AgentOptions] = AgentOptions()
    cacert: str | None = None
    insecure: bool = False


def users_of(environment: Environment) -> list[type[UserTask]]:
    """Return the classes of a test that kabench sends for."""
    return [each for each in environment.user_classes if issubclass(each, UserTask)]


def method_of(user_class: type[UserTask]) -> str:
    """Return the method of a class's request."""
    return user_class.method or ("POST" if user_class.data is not None else "GET")


def target_of(user_class: type[UserTask]) -> str:
    """Return the name under which a class's requests count."""
    return f"{method_of(user_class)} {without_changing_parts(user_class.name or user_class.path)}"


def task_of(user_class: type[UserTask], host: str | None) -> Task:
    """Return the task of a class's sender. Raises `PlanError` and `AgentSpecError`."""
    if not host:
        raise PlanError("host: there is none; set it in the class, or with --host")
    if not isinstance(user_class.data, str | bytes | None):
        raise PlanError(f"data: text or bytes, not {type(user_class.data).__name__}")
    if not isinstance(user_class.agent_options, AgentOptions):
        raise PlanError(f"agent_options: an AgentOptions, not {type(user_class.agent_options).__name__}")
    if not is_own(user_class.agent):
        raise AgentSpecError(f"agent: locust cannot steer {user_class.agent!r}; there are {', '.join(OWN_SPECS)}")
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


def request_of(user_class: type[UserTask], host: str | None) -> dict[str, Any]:  # JSON
    """Return the request and the agent of a class of users, without secrets."""
    try:
        plan = task_of(user_class, host or user_class.host).plan.as_record()
    except (AgentSpecError, PlanError):
        return {}
    return {"agent": user_class.agent, **{name: plan[name] for name in _OF_A_REQUEST}}


class _Probe:
    """A stand-in for a user, with the attributes that locust's `constant_pacing` reads."""

    def __init__(self) -> None:
        self._cp_last_run = time.perf_counter()
        self._cp_last_wait_time = 0.0


def steering_of(user_class: type[UserTask]) -> Steering:
    """Return how long users pause, from their `wait_time`. Raises `PlanError` if that needs a real user."""
    probe = _Probe()
    wait: Any = user_class.wait_time
    try:
        pauses_s = [float(wait(probe)), float(wait(_Probe()))]
        if probe.__dict__["_cp_last_wait_time"]:
            return Steering(pacing_s=pauses_s[0])
        if pauses_s[0] != pauses_s[1]:
            pauses_s += [float(wait(_Probe())) for _ in range(_SAMPLED_PAUSES)]
    except Exception as error:  # a user's own function
        raise PlanError(f"wait_time: it cannot be called without a user: {error!r}") from None
    return Steering(pauses_s=tuple(pauses_s)) if any(pauses_s) else Steering()
