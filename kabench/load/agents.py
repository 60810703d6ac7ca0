"""Agent specs: from the text of `--agent` to an agent."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from kabench.agent import AsyncKeepAliveAgent, AsyncPlainAgent

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.agent import AgentOptions
    from kabench.agent.aio import AsyncAgent
    from kabench.agent.tls import TlsOptions


class AgentSpecError(ValueError):
    """There is no such agent."""


def _keepalive(options: AgentOptions, tls: TlsOptions | None) -> AsyncAgent:
    return AsyncKeepAliveAgent(options, tls=tls)


def _plain(options: AgentOptions, tls: TlsOptions | None) -> AsyncAgent:
    return AsyncPlainAgent(dataclasses.replace(options, keep_alive=False), tls=tls)


def _plain_handoff(options: AgentOptions, tls: TlsOptions | None) -> AsyncAgent:
    return AsyncPlainAgent(dataclasses.replace(options, keep_alive=False, hand_off=True), tls=tls)


_FACTORIES: dict[str, Callable[[AgentOptions, TlsOptions | None], AsyncAgent]] = {
    "keepalive": _keepalive,
    "plain": _plain,
    "plain-handoff": _plain_handoff,
}

AGENT_SPECS = tuple(_FACTORIES)


def check_spec(spec: str) -> None:
    """Raise `AgentSpecError` if there is no such agent."""
    if spec not in _FACTORIES:
        raise AgentSpecError(f"{spec!r} is no agent; there are {', '.join(_FACTORIES)}")


def make_agent(spec: str, options: AgentOptions, tls: TlsOptions | None = None) -> AsyncAgent:
    """Make the agent that a spec names. Raises `ValueError` for TLS options that cannot be used."""
    check_spec(spec)
    return _FACTORIES[spec](options, tls)
