"""Makes the schedule that carries a task out: with which agent or client, and as users or as arrivals."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from kabench.agent import TlsOptions
from kabench.agent.urls import parse_url
from kabench.load.clients.contract import ClientSettings, is_async, load_factory
from kabench.load.clients.specs import OWN_AGENTS, PEERS, AgentSpecError, check_spec, is_own
from kabench.load.plan.source import PreparedSource, RequestSource
from kabench.load.schedules.agent_arrivals import AgentArrivals
from kabench.load.schedules.agent_users import AgentUsers
from kabench.load.schedules.client_arrivals import TaskArrivals, ThreadArrivals
from kabench.load.schedules.client_users import ClientUsers
from kabench.load.schedules.schedule import ScheduleSetup
from kabench.load.schedules.steered import SteeredUsers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.agent import AgentOptions
    from kabench.agent.aio import AsyncAgent
    from kabench.load.clients.contract import Client
    from kabench.load.figures.messages import Task
    from kabench.load.figures.recorder import Recorder
    from kabench.load.plan.plan import LoadPlan
    from kabench.load.plan.share import Share
    from kabench.load.plan.source import Request
    from kabench.load.schedules.schedule import Schedule


def make_agent(spec: str, options: AgentOptions, tls: TlsOptions | None, plan: LoadPlan) -> AsyncAgent:
    """Make one of kabench's asyncio agents. Raises `ValueError` for TLS options that cannot be used."""
    if spec != "keepalive":
        options = dataclasses.replace(options, keep_alive=False, hand_off=spec == "plain-handoff")
    return OWN_AGENTS[spec](options, tls=tls, connect_to=plan.connect_to, unix_socket=plan.unix_socket)


def schedule_for(task: Task, share: Share, recorder: Recorder, over: Callable[[float], None]) -> Schedule:
    """Make the schedule of a task. Raises `ValueError`, or a subclass, for an agent or client that cannot be made."""
    plan, spec = task.plan, task.agent
    setup = ScheduleSetup(plan, share, recorder, over)
    options = share.of_options(plan.agent_options)
    tls = plan.tls_options(task.ca_data)
    if is_own(spec):
        agent = make_agent(spec, options, tls, plan)
        source = PreparedSource(
            plan,
            task.url,
            share,
            lambda method, url, headers, body: agent.prepare(method, url, headers=headers, body=body),
        )
        if task.steering is not None:
            return SteeredUsers(setup, agent, source, task.steering)
        kind = AgentArrivals if plan.is_open else AgentUsers
        return kind(setup, agent, source)
    if task.steering is not None:
        raise AgentSpecError(f"{spec} cannot be steered; {', '.join(OWN_AGENTS)} can")
    check_spec(spec, plan)
    make = PEERS[spec].make if spec in PEERS else load_factory(spec)
    settings = ClientSettings(
        max_sockets=options.max_sockets,
        max_free_sockets=options.max_free_sockets,
        free_socket_timeout_s=options.free_socket_timeout,
        timeout_s=options.activity_timeout,
        connect_timeout_s=options.effective_connect_timeout,
        ssl_context=(tls or TlsOptions()).make_context(),
        agent_options=options,
        origins=len({parse_url(target.url).origin.key for target in plan.targets_for(task.url)}),
    )
    try:
        client = make(settings)
    except Exception as error:  # a user's own code raises what it likes
        raise AgentSpecError(f"{spec}: it makes no client: {type(error).__name__}: {error}") from None
    if not callable(getattr(client, "send", None)) or not callable(getattr(client, "close", None)):
        raise AgentSpecError(f"{spec}: what it makes has no send and close")
    return client_schedule(setup, client, iter(RequestSource(plan, task.url, share)))


def client_schedule(setup: ScheduleSetup, client: Client, source: Iterator[tuple[Request, int]]) -> Schedule:
    """Make the schedule of a plan through a client."""
    if not setup.plan.is_open:
        return ClientUsers(setup, client, source)
    kind = TaskArrivals if is_async(client) else ThreadArrivals
    return kind(setup, client, source)
