"""The figures by name, and how they are shown."""

from __future__ import annotations

import pytest

from kabench.metrics import COMPARED, METRICS
from tests.comparison.figures import agent_run

METRICS_OF_COUNTS = (
    "throughput_mb_s",
    "max_rss_mb",
    "transactions",
    "successful_transactions",
    "failed_transactions",
    "socket_errors",
    "retries",
    "not_started",
    "sockets_created",
    "failed_pct",
    "availability",
    "siege_availability",
    "answered_p50",
    "answered_p99",
)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("availability", 100.0, "100.00%"),
        ("availability", 99.99999, "99.99%"),  # one request was lost
        ("transaction_rate", 8850.239, "8850.24/s"),
        ("p99", 0.0112349, "11.235 ms"),
        ("req_per_socket", 1200.0, "1200"),
        ("req_per_socket", 1.5625, "1.56"),
        ("cpu_us_per_transaction", 19.637, "19.64 us"),
        ("p99", None, "-"),
    ],
)
def test_figures_are_shown_with_their_units(metric: str, value: float | None, text: str) -> None:
    assert METRICS[metric].text(value) == text


def test_every_figure_can_be_had_of_every_run() -> None:
    run = agent_run()
    missing = {name for name, metric in METRICS.items() if metric.of(run) is None}
    assert missing == set(METRICS) - {metric.name for metric in COMPARED} - set(METRICS_OF_COUNTS)
    assert all(metric.of(run) is not None for metric in COMPARED)
