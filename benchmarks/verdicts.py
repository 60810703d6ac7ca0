"""Checks that verdicts are right: compares agents with themselves, and with a copy that is 5 % slower.

There are 40 comparisons of `keepalive` with itself, half of them against a server that answers after 5 ms and half
against one that answers at once; at most 5 may find a difference. There are 10 comparisons of an agent with a copy that
a delay makes 5 % slower; at least 9 must find the difference. Each has 12 trials. `--noise FILE` writes the figures of
all trials in the order of measurement, with their times; the simulations in tests/comparison use them as noise. The
machine must be idle.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

import kabench
from kabench import LoadPlan
from kabench.comparison.record import BETTER, WORSE
from kabench.metrics import COMPARED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.comparison.record import Comparison
    from kabench.result import RunResult

TRIALS = 12
LOADS = {
    "answers after 5 ms": LoadPlan(duration_s=0.5, warmup_s=0.2),
    "answers at once": LoadPlan(duration_s=0.5, warmup_s=0.2, delay_s=0.0),
}
FOR_A_DELAY = LoadPlan(duration_s=0.5, warmup_s=0.2, concurrency=50)  # one user a socket, so that none waits


class Noise:
    """The figures of `keepalive`, load by load, in order."""

    def __init__(self) -> None:
        self.metrics = [metric.name for metric in COMPARED]
        self.rows: dict[str, list[list[float | None]]] = {}
        self._began_at = monotonic()

    def note(self, load: str, result: RunResult) -> None:
        at_s = round(monotonic() - self._began_at, 1)
        figures = [metric.of(result.runs[0]) for metric in COMPARED]
        self.rows.setdefault(load, []).append([at_s, *figures])

    def save(self, path: Path) -> None:
        lines = [
            f"  {json.dumps(load)}: [\n    " + ",\n    ".join(map(json.dumps, rows)) + "\n  ]"
            for load, rows in self.rows.items()
        ]
        path.write_text(f'{{\n  "columns": {json.dumps(["at_s", *self.metrics])},\n' + ",\n".join(lines) + "\n}\n")


def differences(comparison: Comparison) -> list[str]:
    """Return the differences that a comparison has found, in words."""
    return [
        f"{figures.metric} {figure.ratio:.3f}, {figure.verdict}"
        for figures in comparison.metrics
        for figure in figures.agents
        if figure.verdict in (BETTER, WORSE)
    ]


def compare(plan: LoadPlan, agents: Sequence[str], **options: Any) -> Comparison:
    return kabench.compare(plan, agents, trials=TRIALS, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--equals", type=int, default=40, help="comparisons of an agent with itself")
    parser.add_argument("--slowed", type=int, default=10, help="comparisons with one that is 5 %% slower")
    parser.add_argument("--noise", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    noise_file = given.noise.resolve() if given.noise else None
    os.chdir(Path(__file__).parent)  # so that `slowed` is found
    console = Console(width=140)
    noise, equals, slowed = Noise(), [], []
    for number in range(given.equals):
        load = list(LOADS)[number % len(LOADS)]
        found = compare(
            LOADS[load], ["keepalive", "keepalive"], keep=lambda result, load=load: noise.note(load, result)
        )
        equals.append(differences(found))
        console.print(f"equals {number + 1}, {load}: {'; '.join(equals[-1]) or 'no difference found'}")
    for number in range(given.slowed):
        found = compare(FOR_A_DELAY, ["slowed:Agent", "slowed:SlowedAgent"])
        slowed.append("transaction_rate" in " ".join(differences(found)))
        console.print(f"5 % slower {number + 1}: {'; '.join(differences(found)) or 'no difference found'}")
    if noise_file is not None:
        noise.save(noise_file)
    table = Table(box=None, pad_edge=False)
    for column in ("comparisons of 12 trials", "found a difference", "required", "verdict"):
        table.add_column(column)
    wrong = sum(map(bool, equals))
    table.add_row(f"{len(equals)} of equals", str(wrong), "at most 5", "true" if wrong <= 5 else "FALSE")
    right = sum(slowed)
    enough = right >= 0.9 * len(slowed)
    table.add_row(
        f"{len(slowed)} with 5 % less", f"{right} in the rate", "at least 9 of 10", "true" if enough else "FALSE"
    )
    console.print(table)


if __name__ == "__main__":
    main()
