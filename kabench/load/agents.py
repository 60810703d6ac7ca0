"""Agent specs: from the text of `--agent` to the load that goes through that agent."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.agent import AsyncKeepAliveAgent, AsyncPlainAgent, TlsOptions
from kabench.agent.urls import parse_url
from kabench.load.arrivals import AgentArrivals
from kabench.load.client_load import client_load
from kabench.load.clients import (
    AiohttpClient,
    ClientSettings,
    HttpxClient,
    RequestsClient,
    Urllib3AgentClient,
    Urllib3Client,
    load_factory,
)
from kabench.load.driver import Setup
from kabench.load.environment import installed_version
from kabench.load.source import PreparedSource, RequestSource
from kabench.load.steered import SteeredUsers
from kabench.load.users import AgentUsers

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent import AgentOptions
    from kabench.agent.aio import AsyncAgent
    from kabench.load.clients import Client
    from kabench.load.driver import Load
    from kabench.load.messages import Task
    from kabench.load.plan import LoadPlan
    from kabench.load.recorder import Recorder
    from kabench.load.share import Share

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class AgentSpecError(ValueError):
    """There is no such agent, it is not installed, or it cannot do what the plan asks for."""


@dataclass(frozen=True, slots=True)
class _Peer:
    """Somebody else's client: how it is made, and the package it needs."""

    make: Callable[[ClientSettings], Client]
    package: str


_OWN: dict[str, Callable[..., AsyncAgent]] = {
    "keepalive": AsyncKeepAliveAgent,
    "plain": AsyncPlainAgent,
    "plain-handoff": AsyncPlainAgent,
}

_PEERS = {
    "urllib3-keepalive": _Peer(Urllib3AgentClient, "urllib3"),
    "urllib3-plain": _Peer(functools.partial(Urllib3Client, keep_alive=False), "urllib3"),
    "urllib3": _Peer(Urllib3Client, "urllib3"),
    "requests": _Peer(RequestsClient, "requests"),
    "httpx": _Peer(HttpxClient, "httpx"),
    "aiohttp": _Peer(AiohttpClient, "aiohttp"),
}

_FOR_OWN_AGENTS = {
    "unix_socket": "Unix sockets",
    "connect_to": "another address than the URL's",
    "cookies": "users who keep their cookies",
}

OWN_SPECS = tuple(_OWN)
AGENT_SPECS = (*_OWN, *_PEERS)


def check_spec(spec: str, plan: LoadPlan | None = None) -> None:
    """Raise `AgentSpecError` if there is no such agent, or it cannot carry out the plan."""
    if spec in _OWN:
        return
    if spec not in _PEERS and not _FACTORY.fullmatch(spec):
        raise AgentSpecError(f"{spec!r} is no agent; there are {', '.join(AGENT_SPECS)}, and package.module:factory")
    if spec in _PEERS and importlib.util.find_spec(_PEERS[spec].package) is None:
        raise AgentSpecError(f"{spec} is not installed: pip install {_PEERS[spec].package}")
    if plan is not None:
        for name, words in _FOR_OWN_AGENTS.items():
            if getattr(plan, name):
                raise AgentSpecError(f"{spec} cannot be told of {words}; {', '.join(_OWN)} can")
        if plan.agent_options.socket_active_ttl and spec != "urllib3-keepalive":
            raise AgentSpecError(f"{spec} cannot be told of a TTL; {', '.join(_OWN)} and urllib3-keepalive can")


def peer_version(spec: str) -> dict[str, str]:
    """The version of the package behind a spec, by its name."""
    if spec in _OWN:
        return {}
    package = _PEERS[spec].package if spec in _PEERS else spec.partition(".")[0].partition(":")[0]
    version = installed_version(package)
    return {} if version is None else {package: version}


def is_own(spec: str) -> bool:
    """Whether a spec names one of kabench's asyncio agents."""
    return spec in _OWN


def is_factory(spec: str) -> bool:
    """Whether a spec names a client of the user's own."""
    return spec not in AGENT_SPECS


def make_agent(spec: str, options: AgentOptions, tls: TlsOptions | None, plan: LoadPlan) -> AsyncAgent:
    """Make one of kabench's asyncio agents. Raises `ValueError` for TLS options that cannot be used."""
    if spec != "keepalive":
        options = dataclasses.replace(options, keep_alive=False, hand_off=spec == "plain-handoff")
    return _OWN[spec](options, tls=tls, connect_to=plan.connect_to, unix_socket=plan.unix_socket)


def make_load(task: Task, share: Share, recorder: Recorder, over: Callable[[float], None]) -> Load:
    """Make the load of a task. Raises `ValueError` and its kinds for what cannot be used."""
    plan, spec = task.plan, task.agent
    setup = Setup(plan, share, recorder, over)
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
        raise AgentSpecError(f"{spec} cannot be steered; {', '.join(_OWN)} can")
    check_spec(spec, plan)
    make = _PEERS[spec].make if spec in _PEERS else load_factory(spec)
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
    except Exception as error:  # whatever the user has written there
        raise AgentSpecError(f"{spec}: it makes no client: {type(error).__name__}: {error}") from None
    if not callable(getattr(client, "send", None)) or not callable(getattr(client, "close", None)):
        raise AgentSpecError(f"{spec}: what it makes has no send and close")
    return client_load(setup, client, iter(RequestSource(plan, task.url, share)))
