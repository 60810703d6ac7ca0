"""The sentences of a report: what load was sent, what was the bottleneck, and what figures may hide."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from kabench.histogram import decoded_cells
from kabench.result import BUSY_PCT, LATE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kabench.comparison.record import Comparison
    from kabench.result import AgentRun, RunResult

_ROUNDING = 1e-6
_HIDES_FACTOR = 2.0
_HIDES_LEAST_S = 0.01
"""A corrected p99 less than twice the measured one, or less than this above it, is not mentioned."""


def headline(result: RunResult | Comparison) -> str:
    """Return what was sent where, by how many users, until when. Unexpected values in a plan are shown as they are."""
    plan = result.plan
    if plan.get("locustfile"):
        return _of_locust(result)
    unverified = "; certificates are not verified" if plan.get("insecure") else ""
    parts = [_load(plan), _sockets(plan), _until(plan)]
    if plan.get("warmup_s"):
        parts.append(f"after a warm-up of {_number(plan['warmup_s'])} s")
    if plan.get("workers") not in (None, 1):
        parts.append(counted(plan["workers"], "worker"))
    return (
        f"{result.name}: {_target(plan)}\n{', '.join(part for part in parts if part)}{unverified}"
        f" ({result.started_at}, kabench {result.kabench_version})"
    )


def _of_locust(result: RunResult | Comparison) -> str:
    """Return the headline of a locust test."""
    plan = result.plan
    users = plan.get("users")
    names = ", ".join(map(str, users)) if isinstance(users, list) else "?"
    how_many = f"shape {plan['shape']}" if plan.get("shape") else counted(plan.get("concurrency", "?"), "user")
    return (
        f"{result.name}: {plan['locustfile']} against {plan.get('url') or 'its own hosts'}\n"
        f"{how_many} of {names} ({result.started_at}, kabench {result.kabench_version})"
    )


def counted(number: object, noun: str) -> str:
    """Return a number with its noun, which is in the plural unless the number is 1."""
    return f"{_number(number)} {noun}{'' if number == 1 else 's'}"


def _number(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _target(plan: Mapping[str, object]) -> str:
    targets = plan.get("targets")
    if isinstance(targets, list) and targets:
        first = targets[0].get("url") if isinstance(targets[0], dict) else None
        others = f" and {len(targets) - 1} other{'s' if len(targets) > 2 else ''}" if len(targets) > 1 else ""
        return f"{first or 'several requests'}{others}"
    delay_s = plan.get("delay_s")
    delay_ms = delay_s * 1000 if isinstance(delay_s, int | float) else 0.0
    own = f"kabench's own echo server{' over https' if plan.get('tls') else ''}, {delay_ms:g} ms"
    return f"{plan.get('method', '?')} {plan.get('url') or own}"


def _load(plan: Mapping[str, object]) -> str:
    rate = plan.get("rate")
    start = counted(plan.get("concurrency", "?"), "user") if rate is None else f"{_number(rate)} requests/s"
    stages = plan.get("stages")
    if isinstance(stages, list) and stages:
        return f"{start} at the start, then " + ", ".join(
            f"to {_number(stage.get('level', 0))} over {_number(stage.get('duration_s', 0))} s"
            for stage in stages
            if isinstance(stage, dict)
        )
    return start + (" at random" if plan.get("arrivals") == "poisson" else "")


def _sockets(plan: Mapping[str, object]) -> str:
    options = plan.get("agent_options")
    limit = options.get("max_sockets") if isinstance(options, dict) else None
    return "unlimited sockets" if limit is None else counted(limit, "socket")


def _until(plan: Mapping[str, object]) -> str:
    if plan.get("stages"):
        return ""
    if plan.get("total") is not None:
        return counted(plan["total"], "request")
    if plan.get("duration_s") is not None:
        return f"{_number(plan['duration_s'])} s"
    return f"{counted(plan.get('requests', '?'), 'request')} a user"


def warnings(run: AgentRun, plan: Mapping[str, object]) -> list[str]:
    """Return all warnings about a run's figures."""
    said = (lost(run), bottleneck(run), not_started(run), what_the_closed_model_hides(run, plan))
    return [warning for warning in said if warning is not None]


def bottleneck(run: AgentRun) -> str | None:
    """Return why the figures may show kabench's own limits, or None if it had room."""
    if not run.saturated:
        return None
    reasons = [
        f"{worker.name} used {worker.peak_cpu_pct:.0f} % of its core in its busiest second"
        for worker in run.client.workers
        if worker.peak_cpu_pct is not None and worker.peak_cpu_pct >= BUSY_PCT
    ]
    if run.lag_s.p99 is not None and run.lag_s.p99 > LATE_S:
        reasons.append(f"requests were sent late (p99 of the lag: {run.lag_s.p99 * 1000:.1f} ms)")
    why = "; ".join(reasons) or "a worker used its core to the full"
    return f"kabench was the bottleneck: {why}. More workers, on more cores, would show what the server can do."


def lost(run: AgentRun) -> str | None:
    """Return which workers were lost and when, or None."""
    lost = [worker for worker in run.client.workers if worker.lost_at_s is not None]
    if not lost:
        return None
    each = ", ".join(
        f"{worker.name} on {worker.host or '?'} was lost; its last report came after {worker.lost_at_s:.1f} s"
        for worker in lost
    )
    return f"{each}. The figures include what was reported until then."


def not_started(run: AgentRun) -> str | None:
    """Return how many requests were due but not sent, and why, or None."""
    if not run.not_started:
        return None
    return (
        f"{counted(run.not_started, 'request')} due but not started: --max-in-flight requests were already under way, "
        "or kabench was too late. The figures above do not include them."
    )


def what_the_closed_model_hides(run: AgentRun, plan: Mapping[str, object]) -> str | None:
    """Return a warning if waiting users probably sent too few requests to show how slow the server was at times."""
    if plan.get("rate") is not None or "total" not in run.hdr:
        return None
    p50_s, p99_s = run.response_time_s.p50, run.response_time_s.p99
    if not p50_s or p99_s is None:
        return None
    corrected_s = corrected_percentile_us(list(decoded_cells(run.hdr["total"])), p50_s * 1e6, 99) / 1e6
    if corrected_s < max(p99_s * _HIDES_FACTOR, p99_s + _HIDES_LEAST_S):
        return None
    return (
        "This is the closed model: users who wait for a slow answer send nothing meanwhile, so the percentiles may "
        "hide a stall. If they had gone on sending, p99 would be about "
        f"{corrected_s * 1000:.0f} ms, not {p99_s * 1000:.0f} ms; --rate measures it."
    )


def corrected_percentile_us(cells: Sequence[tuple[int, int]], interval_us: float, percent: float) -> float:
    """Return the percentile that would result if requests had been sent every `interval_us`, answers or not.

    An answer that took longer than that stands for the requests that were not sent meanwhile. Each of them would have
    waited one interval less than the one before: this is HdrHistogram's correction for coordinated omission
    (recordValueWithExpectedInterval).
    """

    def unsent(value: int, limit_us: float) -> int:
        """Return how many requests an answer of `value` kept back that would have taken more than `limit_us`."""
        if limit_us < interval_us:
            return max(0, math.floor(value / interval_us) - 1)
        return max(0, math.ceil((value - limit_us) / interval_us) - 1)

    def above(limit_us: float) -> float:
        return sum(times * (1 + unsent(value, limit_us)) for value, times in cells if value > limit_us)

    allowed = above(0.0) * (1 - percent / 100) + _ROUNDING
    low, high = 0.0, float(max((value for value, _ in cells), default=0))
    while high - low > 1:
        middle = (low + high) / 2
        if above(middle) > allowed:
            low = middle
        else:
            high = middle
    return high


def wrapped(text: str, width: int) -> str:
    """Return a text in lines of at most `width` columns."""
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))
