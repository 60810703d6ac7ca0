"""Draws the pictures of docs/measuring.md from real runs: `pip install matplotlib`, `python benchmarks/pictures.py`.

Each picture's figures are saved beside it as JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from truth import Stalls

from kabench import LoadPlan, run
from kabench.agent import AgentOptions
from kabench.histogram import decoded_cells
from kabench.server import EmbeddedServer, ServerOptions

if TYPE_CHECKING:
    from kabench.result import AgentRun

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
PLENTY = AgentOptions(max_sockets=1000, free_socket_timeout=30)
USERS = 10
OPEN_RATE = 200.0
ASKED = (10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000)
OPEN_COLOUR, CLOSED_COLOUR = "tab:blue", "tab:orange"


def stalled(seconds: float) -> tuple[AgentRun, AgentRun]:
    """Run the open and the closed model against a server that is stopped for a second, once in five."""
    runs = []
    with EmbeddedServer(ServerOptions(delay_s=0.005)) as server:
        for load in ({"rate": OPEN_RATE, "concurrency": None}, {"concurrency": USERS}):
            plan = replace(
                LoadPlan(url=server.url, method="GET", data=b"", duration_s=seconds, agent_options=PLENTY), **load
            )
            with Stalls(server, 5.0):
                runs.append(run(plan, ["keepalive"]).runs[0])
    return runs[0], runs[1]


def percentile_curve(measured: AgentRun) -> tuple[list[float], list[float]]:
    """Return shares of the requests, and the milliseconds that each share took at least."""
    cells = list(decoded_cells(measured.hdr["total"]))
    whole = sum(times for _, times in cells)
    left, shares, values = whole, [], []
    for value_us, times in cells:
        shares.append(left / whole)
        values.append(value_us / 1000)
        left -= times
    return shares, values


def draw_percentiles(open_run: AgentRun, closed_run: AgentRun) -> dict[str, Any]:
    figure, axes = plt.subplots(figsize=(7.5, 4))
    for measured, colour, name in (
        (open_run, OPEN_COLOUR, f"open model, {OPEN_RATE:.0f} requests/s"),
        (closed_run, CLOSED_COLOUR, f"closed model, {USERS} users"),
    ):
        axes.plot(*percentile_curve(measured), color=colour, label=name, drawstyle="steps-post")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xticks([1, 0.1, 0.01, 0.001, 0.0001], ["all", "p90", "p99", "p99.9", "p99.99"])
    axes.set_xlabel("requests that took at least as long")
    axes.set_ylabel("response time, ms")
    axes.set_title("One server, stopped for a second once in five, measured twice")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    save(figure, "stall-percentiles")
    return {name: figures_of(measured) for name, measured in (("open", open_run), ("closed", closed_run))}


def figures_of(measured: AgentRun) -> dict[str, Any]:
    times = measured.response_time_s
    shown = {"p50_s": times.p50, "p90_s": times.p90, "p99_s": times.p99, "max_s": times.max}
    return {**shown, "transactions": measured.transactions}


def draw_over_time(open_run: AgentRun, closed_run: AgentRun) -> None:
    figure, (rates, times) = plt.subplots(2, 1, figsize=(7.5, 5), sharex=True)
    for measured, colour, name in ((open_run, OPEN_COLOUR, "open model"), (closed_run, CLOSED_COLOUR, "closed model")):
        seconds = [point.t_s for point in measured.series]
        rates.plot(seconds, [point.transactions for point in measured.series], color=colour, marker=".", label=name)
        p99 = [None if point.p99_s is None else point.p99_s * 1000 for point in measured.series]
        times.plot(seconds, p99, color=colour, marker=".")
    rates.set_ylabel("answers in the second")
    rates.set_yscale("symlog", linthresh=10)
    rates.legend()
    rates.set_title("The same two runs, second by second")
    times.set_ylabel("p99 of the second, ms")
    times.set_yscale("log")
    times.set_xlabel("seconds")
    for axes in (rates, times):
        axes.grid(visible=True, alpha=0.3)
    save(figure, "stall-over-time")


def draw_saturation(seconds: float) -> list[dict[str, Any]]:
    found = []
    for rate in ASKED:
        options = AgentOptions(max_sockets=200, free_socket_timeout=30)
        seen = run(LoadPlan(rate=float(rate), duration_s=seconds, delay_s=0.0, agent_options=options), ["keepalive"])
        measured = seen.runs[0]
        found.append(
            {
                "asked": rate,
                "got": round(measured.transaction_rate),
                "lag_p99_ms": round((measured.lag_s.p99 or 0.0) * 1000, 3),
                "service_p99_ms": round((measured.service_time_s.p99 or 0.0) * 1000, 3),
                "response_p99_ms": round((measured.response_time_s.p99 or 0.0) * 1000, 3),
                "saturated": measured.saturated,
            }
        )
    figure, (got, lag) = plt.subplots(2, 1, figsize=(7.5, 5.5), sharex=True)
    due = [row["asked"] for row in found]
    got.plot(due, due, color="grey", linestyle=":", label="due")
    got.plot(due, [row["got"] for row in found], color=OPEN_COLOUR, label="finished", zorder=1)
    for is_saturated, colour, name in ((False, "tab:green", "had room"), (True, "tab:red", "saturated, and says so")):
        rows = [row for row in found if row["saturated"] == is_saturated]
        got.scatter([r["asked"] for r in rows], [r["got"] for r in rows], color=colour, label=name, zorder=2)
    got.set_ylabel("requests/s")
    got.set_title("One worker at higher and higher rates")
    got.legend()
    for key, name, colour in (
        ("response_p99_ms", "response", OPEN_COLOUR),
        ("service_p99_ms", "service", "tab:purple"),
        ("lag_p99_ms", "lag", "tab:red"),
    ):
        lag.plot(due, [row[key] for row in found], label=name, color=colour, marker=".")
    lag.axhline(10, color="grey", linestyle=":", label="10 ms of lag: saturated")
    lag.set_yscale("log")
    lag.set_ylabel("p99, ms")
    lag.set_xlabel("requests/s due")
    lag.legend()
    for axes in (got, lag):
        axes.grid(visible=True, alpha=0.3)
    save(figure, "saturated")
    return found


def save(figure: Any, name: str) -> None:  # matplotlib's
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the runs with a stall")
    given = parser.parse_args()
    mpl.use("svg")
    FOLDER.mkdir(exist_ok=True)
    open_run, closed_run = stalled(given.seconds)
    figures: dict[str, Any] = {"stall": draw_percentiles(open_run, closed_run)}
    draw_over_time(open_run, closed_run)
    figures["saturated"] = draw_saturation(3.0)
    (FOLDER / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
