"""Compares another checkout's build with this one: rows of both in turn, in one run, with the ratio and its interval.

`peers.py`, `threads.py` and `tls.py` take `--against PATH`, the folder of another checkout, and then measure kabench's
own rows only. The other build runs in the same Python with the same packages, by `PYTHONPATH`.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from kabench.comparison.statistics import LEVEL, Sample

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from peers import Figures
    from rich.console import Console

    Row = Callable[[dict[str, str]], Figures]
    """Measures a row once, with these variables in the environment of the processes that it starts."""

LEAST_ROUNDS = 15
HERE = Path(__file__).parent


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", type=Path, default=None, metavar="PATH", help="another checkout's folder")


def checked(path: Path) -> Path:
    """Return the folder of a checkout, or exit if it is not one."""
    if not (path / "kabench" / "__init__.py").is_file():
        sys.exit(f"--against {path}: there is no kabench in this folder")
    return path.resolve()


def environment_of(build: Path) -> dict[str, str]:
    """Return the environment in which Python takes this build, and none from the working directory."""
    return os.environ | {"PYTHONPATH": str(build), "PYTHONSAFEPATH": "1"}


def against_table(title: str, rows: Mapping[str, Row], other: Path, rounds: int, console: Console) -> Table:
    """Measure each row with both builds in turn, ours first in every second round, and return the table."""
    ours, theirs = environment_of(HERE.parent), environment_of(checked(other))
    made = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("row", "requests/s", "before", "rate, ratio", "95 %", "CPU us", "before", "CPU, ratio", "95 %"):
        made.add_column(column, justify="left" if column == "row" else "right")
    measured: dict[str, tuple[list[Figures], list[Figures]]] = {name: ([], []) for name in rows}
    for number in range(max(rounds, LEAST_ROUNDS)):
        for name, measure in rows.items():
            sides = ((ours, measured[name][0]), (theirs, measured[name][1]))
            for environment, figures in sides if number % 2 else sides[::-1]:
                figures.append(measure(environment))
            now, before = measured[name][0][-1], measured[name][1][-1]
            console.print(
                f"round {number + 1}  {name:<34}{now.rate:>10.0f}/s {before.rate:>10.0f}/s",
                style="dim",
                highlight=False,
            )
    for name, (of_ours, of_theirs) in measured.items():
        cells = [name]
        for figure in ("rate", "cpu_us"):
            rates = [[getattr(figures, figure) for figures in side] for side in (of_ours, of_theirs)]
            cells += [f"{statistics.median(side):.4g}" for side in rates]
            sample = Sample(base=np.array(rates[1]), other=np.array(rates[0]), is_paired=True)
            interval = sample.interval(LEVEL)
            cells += [f"{sample.ratio():.3f}", "-" if interval is None else "{:.3f} - {:.3f}".format(*interval)]
        made.add_row(*cells)
    return made
