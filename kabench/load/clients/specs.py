"""Agent specs: the texts of `--agent`, what each stands for, and which can carry a plan out.

Nothing is made here; `schedules.factory` makes the agent or client.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.agent import AsyncKeepAliveAgent, AsyncPlainAgent
from kabench.load.clients.peers import AiohttpClient, HttpxClient, RequestsClient, Urllib3AgentClient, Urllib3Client
from kabench.load.figures.environment import installed_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent import AgentOptions
    from kabench.agent.aio import AsyncAgent
    from kabench.load.clients.contract import Client, ClientSettings
    from kabench.load.plan.plan import LoadPlan

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class AgentSpecError(ValueError):
    """The agent does not exist, is not installed, or cannot do what the plan asks for."""


@dataclass(frozen=True, slots=True)
class _Peer:
    """A client that is no asyncio agent of kabench: how it is made, and the package it needs.

    `takes_agent_options`: it is an agent of kabench, for threads, and obeys all of an agent's options.
    """

    make: Callable[[ClientSettings], Client]
    package: str
    takes_agent_options: bool = False


OWN_AGENTS: dict[str, Callable[..., AsyncAgent]] = {
    "keepalive": AsyncKeepAliveAgent,
    "plain": AsyncPlainAgent,
    "plain-handoff": AsyncPlainAgent,
}

PEERS = {
    "urllib3-keepalive": _Peer(Urllib3AgentClient, "urllib3", takes_agent_options=True),
    "urllib3-plain": _Peer(functools.partial(Urllib3Client, keep_alive=False), "urllib3"),
    "urllib3": _Peer(Urllib3Client, "urllib3"),
    "requests": _Peer(RequestsClient, "requests"),
    "httpx": _Peer(HttpxClient, "httpx"),
    "aiohttp": _Peer(AiohttpClient, "aiohttp"),
}

OWN_SPECS = tuple(OWN_AGENTS)
AGENT_SPECS = (*OWN_AGENTS, *PEERS)


def check_spec(spec: str, plan: LoadPlan | None = None) -> None:
    """Raise `AgentSpecError` if there is no such agent, or it cannot carry out the plan."""
    if spec in OWN_AGENTS:
        return
    if spec not in PEERS and not _FACTORY.fullmatch(spec):
        others = ", ".join(AGENT_SPECS)
        raise AgentSpecError(f"there is no agent {spec!r}; there are {others}, and package.module:factory")
    if spec in PEERS and importlib.util.find_spec(PEERS[spec].package) is None:
        raise AgentSpecError(f"{spec} is not installed: pip install {PEERS[spec].package}")
    if plan is not None:
        refused = plan.refused_to_peers()
        if refused:
            raise AgentSpecError(f"{spec} does not support {refused[0]}; {', '.join(OWN_AGENTS)} do")
        _check_agent_options(spec, plan.agent_options)


def _check_agent_options(spec: str, options: AgentOptions) -> None:
    """Raise `AgentSpecError` if an option is not at its default and the client cannot obey it."""
    if spec in PEERS and PEERS[spec].takes_agent_options:
        return
    by_default = type(options)()
    for name, option in options.described().items():
        if not option.is_common and (getattr(options, name) or None) != (getattr(by_default, name) or None):
            able = (*OWN_AGENTS, *(peer for peer in PEERS if PEERS[peer].takes_agent_options))
            raise AgentSpecError(f"{spec} does not support {option.called}; {', '.join(able)} do")


def peer_version(spec: str) -> dict[str, str]:
    """Return the version of the package behind a spec, by the package's name."""
    if spec in OWN_AGENTS:
        return {}
    package = PEERS[spec].package if spec in PEERS else spec.partition(".")[0].partition(":")[0]
    version = installed_version(package)
    return {} if version is None else {package: version}


def is_own(spec: str) -> bool:
    """Return whether a spec names one of kabench's asyncio agents."""
    return spec in OWN_AGENTS


def is_factory(spec: str) -> bool:
    """Return whether a spec names a user's own client."""
    return spec not in AGENT_SPECS
