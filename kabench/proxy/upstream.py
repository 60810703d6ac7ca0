"""`Upstream`: one of the proxy's two agents, and how long its requests took."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from kabench.agent import AgentClosedError
from kabench.histogram import BUCKET_EDGES_MS, BUCKET_NAMES

if TYPE_CHECKING:
    from kabench.agent import AgentStatus
    from kabench.agent.aio import AsyncAgent, PreparedRequest
    from kabench.agent.aio.upload import Upload
    from kabench.proxy.exchange import ProxyExchange
    from kabench.proxy.rules import Route

_EDGES_S = tuple(edge / 1000 for edge in BUCKET_EDGES_MS)


class Upstream:
    """An agent, and its times, from sending a request on until the last byte, in the ten published buckets."""

    def __init__(self, name: str, agent: AsyncAgent, target: str) -> None:
        self.name = name
        self.agent = agent
        self.timeout_s = agent.options.activity_timeout
        self.failures = self.given_up = 0
        self._target = target.rstrip("/")
        self._counts = [0] * len(BUCKET_NAMES)

    def prepare(self, way: Route, headers: list[tuple[str, str]], body: bytes | Upload | None) -> PreparedRequest:
        """Return a request as it goes to the target. Raises `ValueError` for what may not go on the wire."""
        return self.agent.prepare(way.method, self._target + way.path, headers=headers, body=body)

    def start(self, exchange: ProxyExchange, now: float) -> None:
        """Send a request on."""
        try:
            self.agent.start(exchange, now)
        except AgentClosedError as error:
            exchange.failed(error, now)

    def give_up(self, exchange: ProxyExchange) -> None:
        """Give up the exchange of a client that has gone."""
        self.given_up += 1
        self.agent.abort(exchange)

    def note(self, elapsed_s: float) -> None:
        """Count a response."""
        self._counts[bisect_right(_EDGES_S, elapsed_s)] += 1

    @property
    def transactions(self) -> int:
        """Responses that were passed on whole."""
        return sum(self._counts)

    @property
    def status(self) -> AgentStatus:
        """The agent's counters and pool."""
        return self.agent.get_current_status()

    @property
    def buckets(self) -> dict[str, int]:
        """The number of responses in each bucket."""
        return dict(zip(BUCKET_NAMES, self._counts, strict=True))
