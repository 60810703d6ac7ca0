"""The limit that binds: what kept a load from going faster, and what to do about it.

It follows from where the time of the answers went. By Little's law, sockets are busy for the rate times how long a
request occupies one; if that is nearly all of them while requests wait, the pool binds, however small the wait is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kabench.result import BUSY_PCT, LATE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kabench.result import AgentRun

Limit = Literal["kabench", "answers", "pool", "connecting", "body", "server", "nothing"]

_NEARLY_ALL = 0.9
"""A pool of which this share of sockets is busy is taken to be full."""

_LEAST_QUEUE_SHARE = 0.03
"""Requests that wait for less of their time than this do not wait for the pool."""

_REACHED = 0.98
"""A rate is reached if this part of it was answered."""

_LEAST_ANSWERED_PCT = 90.0
"""If fewer requests than this were answered, where the time of the answers went says little."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The limit that binds, and a sentence or two on it: how that shows, and what would change it."""

    limit: Limit
    text: str


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where the mean response time went, in seconds: each phase over all requests, whether they had it or not."""

    queue: float
    connect: float
    first_byte: float
    body: float

    @classmethod
    def of(cls, run: AgentRun) -> _Parts | None:
        phases = run.phases
        if phases.first_byte.mean is None or not run.transactions:
            return None
        opened = min(1.0, (run.sockets.created or 0) / run.transactions)
        return cls(
            phases.queue.mean or 0.0,
            (phases.connect.mean or 0.0) * opened,
            phases.first_byte.mean,
            phases.body.mean or 0.0,
        )

    @property
    def whole(self) -> float:
        return self.queue + self.occupied

    @property
    def occupied(self) -> float:
        """How long a request occupies a socket."""
        return self.connect + self.first_byte + self.body


def limit_that_binds(run: AgentRun, plan: Mapping[str, object]) -> Binding | None:
    """Return what kept the load from going faster; None if the client does not tell where its time went."""
    of_all = run.response_time_all_s
    if of_all is not None and of_all.answered_pct is not None and of_all.answered_pct < _LEAST_ANSWERED_PCT:
        return Binding(
            "answers",
            f"answers that did not come: {100 - of_all.answered_pct:.1f} % of the requests got none. What they failed "
            "with stands above; mend that first.",
        )
    busy = busy_workers(run)
    if busy:
        return Binding("kabench", f"kabench itself: {busy}. More workers, on more cores, would send more.")
    parts = _Parts.of(run)
    if parts is None or not parts.whole:
        return None
    sockets = _max_sockets(plan)
    queue_share = parts.queue / parts.whole
    if sockets is not None and queue_share >= _LEAST_QUEUE_SHARE:
        in_use = run.transaction_rate * parts.occupied
        if in_use >= _NEARLY_ALL * sockets:
            return Binding(
                "pool",
                f"the pool: requests waited {_of(parts.queue, parts)} for one of {sockets} sockets, which carry "
                f"{sockets / parts.occupied:.0f} requests/s at most. More of them (--max-sockets) would carry more.",
            )
    late = run.lag_s.p99
    if late is not None and late > LATE_S:
        return Binding(
            "kabench",
            f"kabench itself: it sent requests late (p99 of the lag: {_ms(late)}). More workers, on more cores, would "
            "send in time.",
        )
    return _by_phase(parts, run, plan)


def _by_phase(parts: _Parts, run: AgentRun, plan: Mapping[str, object]) -> Binding:
    rate = plan.get("rate")
    is_open = isinstance(rate, int | float)
    if is_open and not plan.get("stages") and run.transaction_rate >= _REACHED * float(rate) and not run.not_started:  # type: ignore[arg-type]  # is_open
        return Binding("nothing", f"nothing: the {rate:g} requests/s asked for were sent and answered.")
    most = max(parts.queue, parts.connect, parts.first_byte, parts.body)
    if most == parts.connect:
        return Binding(
            "connecting",
            f"connecting: it took {_of(parts.connect, parts)}. Sockets that are kept (keepalive, a longer "
            "--free-socket-timeout) would save it.",
        )
    if most == parts.body:
        return Binding(
            "body",
            f"the body: it took {_of(parts.body, parts)} from its first byte to its last. A faster network, or smaller "
            "answers, would help.",
        )
    if most == parts.queue:
        return Binding(
            "pool",
            f"the pool: requests waited {_of(parts.queue, parts)} for a socket. More of them (--max-sockets) would "
            "carry more.",
        )
    more = "A higher --rate" if is_open else "More users (--concurrency)"
    return Binding(
        "server",
        f"the server: it took {_of(parts.first_byte, parts)} until its first byte. {more} would show whether it can "
        "do more.",
    )


def busy_workers(run: AgentRun) -> str:
    """Return which workers used their core to the full, in words; empty if none did."""
    return "; ".join(
        f"{worker.name} used {worker.peak_cpu_pct:.0f} % of its core in its busiest second"
        for worker in run.client.workers
        if worker.peak_cpu_pct is not None and worker.peak_cpu_pct >= BUSY_PCT
    )


def _max_sockets(plan: Mapping[str, object]) -> int | None:
    options = plan.get("agent_options")
    limit = options.get("max_sockets") if isinstance(options, dict) else None
    return limit if isinstance(limit, int) else None


def _of(part_s: float, parts: _Parts) -> str:
    return f"{_ms(part_s)} of {_ms(parts.whole)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
