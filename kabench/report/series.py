"""A run as text for other tools: its series as CSV, its latencies as HdrHistogram's percentile text."""

from __future__ import annotations

import csv
import dataclasses
import io
from typing import TYPE_CHECKING

from kabench.histogram import percentile_distribution
from kabench.result import SeriesPoint

if TYPE_CHECKING:
    from kabench.result import AgentRun, RunResult


def series_csv(result: RunResult) -> str:
    """Return a line for each second of each agent, below a line of names: `agent`, and those of the record's series."""
    names = [field.name for field in dataclasses.fields(SeriesPoint)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["agent", *names])
    for run in result.runs:
        for point in run.series:
            values = [getattr(point, name) for name in names]
            writer.writerow([run.agent, *("" if value is None else value for value in values)])
    return out.getvalue()


def percentile_text(run: AgentRun) -> str:
    """Return the percentiles of a run's response times (ms), as text that HdrHistogram's plotters read."""
    encoded = run.hdr.get("total")
    return "" if encoded is None else percentile_distribution(encoded)
