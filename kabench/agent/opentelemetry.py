"""OpenTelemetry metrics of agents, by the names of its semantic conventions for HTTP clients.

Needs opentelemetry-api (extra `opentelemetry`). The names are those of
https://opentelemetry.io/docs/specs/semconv/http/http-metrics/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from kabench.agent.events import AgentEvent, EventKind
from kabench.version import __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from kabench.agent.events import EventListener
    from kabench.agent.status import AgentStatus


class Agent(Protocol):
    """Any of this package's agents."""

    def get_current_status(self) -> AgentStatus:
        """Return counters, and sockets and pending requests by origin."""

    def add_event_listener(self, listener: EventListener, kinds: Collection[EventKind]) -> None:
        """Call a listener with each event of these kinds from now on."""


def instrument(agent: Agent, meter_provider: metrics.MeterProvider | None = None) -> None:
    """Report an agent's sockets: `http.client.open_connections` and, in seconds, `http.client.connection.duration`.

    Where `meter_provider` is None, the global one is used.
    """
    meter = metrics.get_meter("kabench.agent", __version__, meter_provider)

    def observe(_: CallbackOptions) -> Iterator[Observation]:
        status = agent.get_current_status()
        for state, by_origin in (("idle", status.free_sockets), ("active", status.sockets)):
            for origin, count in by_origin.items():
                yield Observation(count, {**_attributes(origin), "http.connection.state": state})

    meter.create_observable_up_down_counter(
        "http.client.open_connections",
        [observe],
        unit="{connection}",
        description="Number of outbound HTTP connections that are currently active or idle on the client.",
    )
    duration = meter.create_histogram(
        "http.client.connection.duration",
        unit="s",
        description="The duration of the successfully established outbound HTTP connections.",
    )

    def note(event: AgentEvent) -> None:
        duration.record(event.age_s, _attributes(event.origin))

    agent.add_event_listener(note, {EventKind.CLOSED})


def _attributes(origin: str) -> dict[str, str | int]:
    parts = urlsplit(origin)
    return {"url.scheme": parts.scheme, "server.address": parts.hostname or "", "server.port": parts.port or 0}
