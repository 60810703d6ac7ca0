"""Checks that kabench's figures are true, by what is known without kabench. Prints measured, true, and a verdict.

The test suite runs it with `--short`: less time, and the same bounds except where a comment says otherwise.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from counting_server import Orders, counting_server
from rich.console import Console
from rich.table import Table

from kabench import LoadPlan, run
from kabench.agent import AgentOptions
from kabench.histogram import decoded_cells
from kabench.load import MeasurementError
from kabench.report.words import what_the_closed_model_hides
from kabench.server import EmbeddedServer, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kabench.result import AgentRun

PLENTY = AgentOptions(max_sockets=1000, free_socket_timeout=30)


@dataclass(frozen=True)
class Finding:
    """One figure beside the truth."""

    what: str
    measured: str
    true: str
    holds: bool


@dataclass(frozen=True)
class Form:
    """How long to measure, and how far figures may be off on a machine that may be busy."""

    seconds: float = 15.0
    stall_seconds: float = 15.0
    stall_every_s: float = 5.0
    rate: float = 200.0
    fast_rate: float = 5000.0
    delay_error_s: float = 0.0005
    delay_error: float = 0.03
    stall_error: float = 0.10
    rate_error: float = 0.005
    lag_p99_s: float = 0.002


FULL = Form()
SHORT = replace(
    FULL,
    seconds=2.0,
    stall_seconds=4.0,
    stall_every_s=4.0,
    delay_error_s=0.02,
    stall_error=0.25,
    fast_rate=1000.0,
    rate_error=0.05,
    lag_p99_s=1.0,
)
"""Bounds that hold even if both cores are busy."""


def measured(plan: LoadPlan) -> AgentRun:
    """Return the run of a plan through the keep-alive agent, even if it could not be finished."""
    try:
        return run(plan, ["keepalive"]).runs[0]
    except MeasurementError as error:
        return error.result.runs[0]


def ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.2f} ms"


# -- a server that stalls ----------------------------------------------------------------------------------------------


class Stalls:
    """Stops a process for a second, once in `every_s`, the first time after a third of that."""

    def __init__(self, server: EmbeddedServer, every_s: float) -> None:
        self._server = server
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._stall)
        self.lengths_s: list[float] = []

    def _stall(self) -> None:
        wait_s = self._every_s / 3
        while not self._over.wait(wait_s):
            began_at = time.perf_counter()
            self._server.process.send_signal(signal.SIGSTOP)
            self._over.wait(1.0)
            self._server.process.send_signal(signal.SIGCONT)
            self.lengths_s.append(time.perf_counter() - began_at)
            wait_s = self._every_s - 1.0

    def __enter__(self) -> Stalls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def slowest(encoded: str, share: float) -> float:
    """Return the mean of the slowest `share` of a histogram, in seconds."""
    cells = list(decoded_cells(encoded))
    wanted = left = share * sum(times for _, times in cells)
    total_us = 0.0
    for value_us, times in reversed(cells):
        taken = min(left, times)
        total_us += taken * value_us
        left -= taken
    return total_us / wanted / 1e6


def stalling_server(form: Form) -> Iterator[Finding]:
    """Check that the open model shows a stall, and that the closed model says that it may hide one.

    Requests that are due in the stalled second wait for its end, so their waits are evenly spread between 0 and 1 s. A
    share of 1 s / period of all requests is stalled, and the slowest of them are the end of a straight line.
    """
    with EmbeddedServer(ServerOptions(delay_s=0.005)) as server:
        plan = LoadPlan(
            url=server.url, method="GET", data=b"", rate=form.rate, duration_s=form.stall_seconds, agent_options=PLENTY
        )
        with Stalls(server, form.stall_every_s) as stalls:
            open_run = measured(plan)
        length_s = sum(stalls.lengths_s) / len(stalls.lengths_s)
        share = sum(stalls.lengths_s) / form.stall_seconds
        p99 = open_run.response_time_s.p99 or 0.0
        yield Finding("stall of 1 s, open model, p99", ms(p99), "at least 700 ms", p99 >= 0.7)
        p90 = length_s * (1 - 0.1 / share)
        mean_of_slowest = length_s * (1 - 0.05 / share)
        for what, seen_s, true_s in (
            ("p90", open_run.response_time_s.p90 or 0.0, p90),
            ("mean of the slowest 10 %", slowest(open_run.hdr["total"], 0.1), mean_of_slowest),
        ):
            holds = abs(seen_s - true_s) <= form.stall_error * true_s
            yield Finding(f"stall of 1 s, open model, {what}", ms(seen_s), ms(true_s), holds)
        closed = replace(plan, rate=None, concurrency=1)
        with Stalls(server, form.stall_every_s):
            closed_run = measured(closed)
        warning = what_the_closed_model_hides(closed_run, closed.as_record())
        p99_closed = ms(closed_run.response_time_s.p99)
        yield Finding(
            "stall of 1 s, closed model, one user, p99",
            f"{p99_closed}, and {'says' if warning else 'does not say'} that it may hide it",
            "says so",
            warning is not None,
        )


# -- known delays ------------------------------------------------------------------------------------------------------

DELAYS = {
    "constant 10 ms": Orders(delays_s=(0.01,)),
    "4 of 5 after 5 ms, 1 after 50 ms": Orders(delays_s=(0.005, 0.05), weights=(0.8, 0.2)),
    "exponential, mean 20 ms": Orders(exponential_mean_s=0.02),
}


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def known_delays(form: Form) -> Iterator[Finding]:
    """Check reported percentiles by those of the delays that the server logged."""
    for name, orders in DELAYS.items():
        with counting_server(orders) as server:
            plan = LoadPlan(
                url=server.url,
                method="GET",
                data=b"",
                rate=2 * form.rate,
                arrivals="poisson",
                duration_s=form.seconds,
                agent_options=PLENTY,
            )
            times = measured(plan).response_time_s
            delays = server.finish().delays_s
        for percentile, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            seen_s, true_s = getattr(times, percentile) or 0.0, quantile(delays, share)
            holds = abs(seen_s - true_s) <= max(form.delay_error_s, form.delay_error * true_s)
            yield Finding(f"{name}, {percentile}", ms(seen_s), ms(true_s), holds)


# -- the rate ----------------------------------------------------------------------------------------------------------


def the_rate(form: Form) -> Iterator[Finding]:
    """Check that the given rate is sent, and on time; also a low rate, whose last request is long before the end."""
    for workers, rate in ((1, form.fast_rate), (2, form.fast_rate), (1, 2.0)):
        plan = LoadPlan(rate=rate, duration_s=form.seconds, workers=workers)
        seen = measured(plan)
        name = f"{rate:g}/s by {workers} worker{'s' if workers > 1 else ''}"
        holds = abs(seen.transaction_rate - rate) <= form.rate_error * rate
        yield Finding(name, f"{seen.transaction_rate:.1f}/s", f"{rate:g}/s ± {form.rate_error:.1%}", holds)
        due = math.ceil(rate * form.seconds)
        started = seen.transactions + seen.socket_errors + seen.not_started
        yield Finding(f"{name}: finished, failed and not started", str(started), str(due), started == due)
        if workers == 1:
            lag_s = seen.lag_s.p99 or 0.0
            yield Finding(
                f"{name}: p99 of the lag", ms(lag_s), f"at most {ms(form.lag_p99_s)}", lag_s <= form.lag_p99_s
            )


# -- counts ------------------------------------------------------------------------------------------------------------


def counts_where_nothing_is_reset(form: Form) -> Iterator[Finding]:
    """Check kabench's counts by the server's, for each way of splitting the load."""
    total = round(1000 * form.seconds)
    for workers in (1, 2, 3):
        with counting_server(Orders(delays_s=(0.001,))) as server:
            plan = LoadPlan(url=server.url, method="GET", data=b"", total=total, workers=workers)
            seen = measured(plan)
            truth = server.finish()
        ours = (seen.transactions, seen.sockets.created, seen.data_transferred_bytes)
        theirs = (truth.requests, truth.sockets, truth.body_bytes)
        holds = ours == theirs and seen.transactions == total and sum(seen.buckets.values()) == total
        yield Finding(
            f"{total} requests of {workers} worker{'s' if workers > 1 else ''}: requests, sockets, bytes",
            str(ours),
            str(theirs),
            holds,
        )


def counts_where_sockets_are_reset(form: Form) -> Iterator[Finding]:
    """Check that every difference between the two sides has a kind that one of them counted.

    A request that the server read and answered with a reset is an error or a retry here. The server never read a
    request that met an idle socket which it had reset. Such a request is a retry or a stale socket here, and there are
    no more of them than idle sockets that the server has reset.
    """
    total = round(1000 * form.seconds)
    for method in ("GET", "POST"):
        orders = Orders(delays_s=(0.001,), reset_every=50)
        with counting_server(orders) as server:
            seen = measured(LoadPlan(url=server.url, method=method, data=b"", total=total))
            truth = server.finish()
        yield Finding(
            f"{method}, every 50th request reset: answers and bytes",
            str((seen.transactions, seen.data_transferred_bytes)),
            str((truth.answers, truth.body_bytes)),
            (seen.transactions, seen.data_transferred_bytes) == (truth.answers, truth.body_bytes),
        )
        yield Finding(
            f"{method}, every 50th request reset: sockets; errors and retries",
            f"{seen.sockets.created}; {seen.socket_errors} + {seen.retries}",
            f"{truth.sockets}; {truth.resets_after_request}",
            seen.sockets.created == truth.sockets
            and seen.socket_errors + (seen.retries or 0) == truth.resets_after_request,
        )
    with counting_server(Orders(delays_s=(0.001,), reset_idle_s=0.02)) as server:
        plan = LoadPlan(url=server.url, method="GET", data=b"", rate=300, arrivals="poisson", duration_s=form.seconds)
        seen = measured(plan)
        truth = server.finish()
    never_read = seen.transactions + seen.socket_errors + (seen.retries or 0) - truth.requests
    # Only the server counts a socket that is reset before the client has seen that it is connected.
    never_connected = truth.sockets - (seen.sockets.created or 0)
    yield Finding(
        "idle sockets reset: answers; sockets; sent and never read",
        f"{seen.transactions}; {seen.sockets.created}; {never_read}",
        f"{truth.answers}; {truth.sockets}; at most {truth.resets_idle} resets",
        seen.transactions == truth.answers
        and 0 <= never_connected <= (seen.sockets.create_errors or 0)
        and never_read == (seen.retries or 0) + seen.socket_errors
        and 0 <= never_read <= truth.resets_idle,
    )


CHECKS: dict[str, Callable[[Form], Iterator[Finding]]] = {
    "stall": stalling_server,
    "delays": known_delays,
    "rate": the_rate,
    "counts": counts_where_nothing_is_reset,
    "resets": counts_where_sockets_are_reset,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="as the test suite runs it")
    parser.add_argument("--only", choices=list(CHECKS), help="one of the checks")
    given = parser.parse_args()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("what", "measured", "true", "verdict"):
        table.add_column(heading)
    findings = []
    for name, check in CHECKS.items():
        if given.only in (None, name):
            for finding in check(SHORT if given.short else FULL):
                findings.append(finding)
                table.add_row(finding.what, finding.measured, finding.true, "true" if finding.holds else "NOT TRUE")
    Console(width=160).print(table)
    return 0 if all(finding.holds for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
