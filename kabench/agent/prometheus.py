"""`AgentCollector`: the counters and pools of agents, for Prometheus. Needs prometheus-client (extra `prometheus`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from kabench.agent.status import AgentStatus

_COUNTERS = {
    "create_socket_count": ("sockets_created", "Sockets connected."),
    "create_socket_error_count": ("socket_create_errors", "Sockets that could not be connected."),
    "close_socket_count": ("sockets_closed", "Sockets closed, for whatever reason."),
    "timeout_socket_count": ("sockets_timed_out", "Sockets closed by a free or an activity timeout."),
    "error_socket_count": ("sockets_failed", "Sockets closed by any other error."),
    "stale_socket_count": ("stale_sockets", "Requests that met a stale socket, sent again or not."),
    "request_count": ("requests", "Responses finished."),
    "retry_count": ("requests_retried", "Requests sent again because their reused socket was stale."),
}
_MOST_ATTEMPTS = 10


class Agent(Protocol):
    """Any of this package's agents."""

    def get_current_status(self) -> AgentStatus:
        """Return counters, and sockets and pending requests by origin."""


class AgentCollector(Collector):
    """Collects the status of agents, by the names they are given here, whenever it is scraped.

    REGISTRY.register(AgentCollector({"backend": agent}))

    Counters are `kabench_agent_..._total{agent}`: among them the event that this package exists to prevent,
    `kabench_agent_stale_sockets_total`. `kabench_agent_sockets_closed_by_reason_total{agent, reason}` says why sockets
    were closed. Gauges are `kabench_agent_sockets{agent, origin, state}` with the states `free` and `active`, and
    `kabench_agent_pending_requests{agent, origin}`.
    """

    def __init__(self, agents: Mapping[str, Agent]) -> None:
        self._agents = dict(agents)

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering the collector reads no agent."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        statuses = {name: _status(agent) for name, agent in self._agents.items()}
        for field, (metric, text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"kabench_agent_{metric}", text, labels=["agent"])
            for name, status in statuses.items():
                counter.add_metric([name], getattr(status, field))
            yield counter
        by_reason = CounterMetricFamily(
            "kabench_agent_sockets_closed_by_reason", "Sockets closed, by reason.", labels=["agent", "reason"]
        )
        for name, status in statuses.items():
            for reason, count in status.closed_by.items():
                by_reason.add_metric([name, reason], count)
        yield by_reason
        sockets = GaugeMetricFamily("kabench_agent_sockets", "Sockets.", labels=["agent", "origin", "state"])
        pending = GaugeMetricFamily(
            "kabench_agent_pending_requests", "Requests that wait for a socket.", labels=["agent", "origin"]
        )
        for name, status in statuses.items():
            for state, by_origin in (("free", status.free_sockets), ("active", status.sockets)):
                for origin, count in by_origin.items():
                    sockets.add_metric([name, origin, state], count)
            for origin, count in status.requests.items():
                pending.add_metric([name, origin], count)
        yield sockets
        yield pending


def _status(agent: Agent) -> AgentStatus:
    """Return an agent's status, which an asyncio agent's loop may be changing in another thread meanwhile."""
    for _ in range(_MOST_ATTEMPTS):
        try:
            return agent.get_current_status()
        except RuntimeError:  # a dict changed while it was read
            continue
    return agent.get_current_status()
