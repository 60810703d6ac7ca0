"""The sentences of a report: what load was sent, what was the bottleneck, and what figures may hide."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from kabench.histogram import decoded_cells
from kabench.report.binds import busy_workers, limit_that_binds
from kabench.result import INTERRUPTED, LATE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kabench.comparison.record import Comparison
    from kabench.result import AgentRun, RunResult, Unanswered

_ROUNDING = 1e-6
_FAILED_PCT_THAT_MATTERS = 1.0
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
    return f"{counted(plan.get('requests', '?'), 'request')} per user"


def answers_line(run: AgentRun) -> str:
    """Return how many answers came, by status."""
    statuses = ", ".join(f"{status}: {times}" for status, times in run.status_codes.items())
    return f"Answers by status: {statuses}." if statuses else "No answer came."


def unanswered_line(run: AgentRun) -> str:
    """Return how many requests got no answer, why, whether they had been sent and how long they waited; or nothing."""
    kinds = [_of_kind(kind, each) for kind, each in run.unanswered.items()]
    kinds += [f"{run.not_started} not started"] if run.not_started else []
    return f"Unanswered: {'; '.join(kinds)}." if kinds else ""


def _of_kind(kind: str, unanswered: Unanswered) -> str:
    sent = unanswered.sent
    facts = [] if sent is None or sent == unanswered.count else [f"{sent} of them sent"]
    longest_s = unanswered.waited_s.max
    facts += [] if longest_s is None else [f"waited up to {_ms(longest_s)}"]
    said = f" ({', '.join(facts)})" if facts else ""
    return f"{unanswered.count} {kind.replace('_', ' ')}{said}"


def warnings(run: AgentRun, plan: Mapping[str, object]) -> list[str]:
    """Return all warnings about a run's figures."""
    said = (
        stopped(run, plan),
        lost(run),
        bottleneck(run, plan),
        not_started(run),
        lost_connections(run),
        what_failures_hide(run),
        what_the_closed_model_hides(run, plan),
    )
    return [warning for warning in said if warning is not None]


def stopped(run: AgentRun, plan: Mapping[str, object]) -> str | None:
    """Return what ended the load early, besides the user, or None."""
    if run.stopped_by == "stop_after":
        return (
            f"Stopped after {_number(plan.get('stop_after_s', '?'))} s (--stop-after), before all requests were sent."
        )
    if run.stopped_by == "no_success":
        return "Stopped, because nothing had succeeded since the start; --keep-trying goes on."
    return None


def bottleneck(run: AgentRun, plan: Mapping[str, object]) -> str | None:
    """Return why the figures may show kabench's own limits, if the limit that binds does not say so; else None."""
    if not run.saturated:
        return None
    binding = limit_that_binds(run, plan)
    if binding is not None and binding.limit == "kabench":
        return None
    late_s = run.lag_s.p99
    late = late_s is not None and late_s > LATE_S
    why = busy_workers(run) or (
        f"requests were sent late (p99 of the lag: {late_s * 1000:.1f} ms)"
        if late and late_s is not None
        else "a worker used its core to the full"
    )
    return f"kabench was near its own limits: {why}. Part of the times above is its own."


def lost_connections(run: AgentRun) -> str | None:
    """Return how many connections were lost before an answer, and what became of their requests, or None."""
    stale, retries = run.sockets.stale, run.retries
    if not stale and not retries:
        return None
    lost = counted(stale if stale is not None else retries, "reused connection")
    verb = "was" if (stale if stale is not None else retries) == 1 else "were"
    again = "" if not retries else f"; {counted(retries, 'request')} {'was' if retries == 1 else 'were'} sent again"
    twice = ", so the server may have got them twice" if retries else ""
    return f"{lost} {verb} lost before an answer{again}{twice}."


def what_failures_hide(run: AgentRun) -> str | None:
    """Return the times of the successful answers alone, if enough others failed to make a difference; else None."""
    successful = run.successful_response_time_s
    if successful is None or run.failed_pct is None or run.failed_pct <= _FAILED_PCT_THAT_MATTERS:
        return None
    failed_answers = run.transactions - run.successful_transactions
    if not failed_answers or successful.p50 is None:
        return None
    return (
        f"The times include {counted(failed_answers, 'failed answer')}. Of the successful ones alone: "
        f"p50 {_ms(successful.p50)}, p99 {_ms(successful.p99)}."
    )


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
    """Return a warning if waiting users probably sent too few requests to show how slow the server was at times.

    A request that was given up has waited at least that long, so it counts with its wait.
    """
    if plan.get("rate") is not None or "total" not in run.hdr:
        return None
    p50_s, p99_s = run.response_time_s.p50, run.response_time_s.p99
    if not p50_s or p99_s is None:
        return None
    waits = [each.hdr for kind, each in run.unanswered.items() if each.hdr and kind != INTERRUPTED]
    cells = [cell for encoded in (run.hdr["total"], *waits) for cell in decoded_cells(encoded)]
    corrected_s = corrected_percentile_us(cells, p50_s * 1e6, 99) / 1e6
    if corrected_s < max(p99_s * _HIDES_FACTOR, p99_s + _HIDES_LEAST_S):
        return None
    connect_s = run.phases.connect.max or 0.0
    why = (
        f" The slowest answers spent their time connecting (up to {_ms(connect_s)}), so look there first."
        if connect_s >= corrected_s / 2
        else ""
    )
    return (
        "This is the closed model: users who wait for a slow answer send nothing meanwhile, so the percentiles may "
        "hide a stall. If they had gone on sending, p99 would be about "
        f"{corrected_s * 1000:.0f} ms, not {p99_s * 1000:.0f} ms; --rate measures it.{why}"
    )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


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
