"""Agent specs: from the text of `--agent` to an agent."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from kabench.agent import AsyncKeepAliveAgent, AsyncPlainAgent

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent import AgentOptions
    from kabench.agent.aio import AsyncAgent


class AgentSpecError(ValueError):
    """There is no such agent."""


def _keepalive(options: AgentOptions) -> AsyncAgent:
    return AsyncKeepAliveAgent(options)


def _plain(options: AgentOptions) -> AsyncAgent:
    return AsyncPlainAgent(dataclasses.replace(options, keep_alive=False))


def _plain_handoff(options: AgentOptions) -> AsyncAgent:
    return AsyncPlainAgent(dataclasses.replace(options, keep_alive=False, hand_off=True))


_FACTORIES: dict[str, Callable[[AgentOptions], AsyncAgent]] = {
    "keepalive": _keepalive,
    "plain": _plain,
    "plain-handoff": _plain_handoff,
}

AGENT_SPECS = tuple(_FACTORIES)


def check_spec(spec: str) -> None:
    """Raise `AgentSpecError` if there is no such agent."""
    if spec not in _FACTORIES:
        raise AgentSpecError(f"{spec!r} is no agent; there are {', '.join(_FACTORIES)}")


def make_agent(spec: str, options: AgentOptions) -> AsyncAgent:
    """Make the agent that a spec names."""
    check_spec(spec)
    return _FACTORIES[spec](options)
