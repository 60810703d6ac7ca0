"""The options by which a run, comparison or diff fails: `--fail-if` and `--max-regression`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli.errors import CommandError, say

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kabench.comparison.thresholds import Outcome, Regression, Threshold

FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        metavar="CONDITION",
        help="Exit 1 if it holds: 'p99>50ms', 'keepalive:req_per_socket<100', 'transaction_rate.ratio<0.95'; "
        "may be repeated.",
    ),
]

MaxRegression = Annotated[
    list[str] | None,
    typer.Option(
        "--max-regression",
        metavar="[METRIC=]N%",
        help="Exit 1 if an agent is found worse than its base, and by more than this; may be repeated.",
    ),
]


@dataclass(frozen=True, slots=True)
class Gates:
    """Thresholds as given."""

    thresholds: Sequence[Threshold]
    regressions: Sequence[Regression]

    @classmethod
    def of(cls, fail_if: Sequence[str] | None, max_regression: Sequence[str] | None = None) -> Gates:
        """Read them. Raises `CommandError`."""
        from kabench.comparison.thresholds import ThresholdError, parse_regression, parse_threshold

        try:
            thresholds = [parse_threshold(text) for text in fail_if or ()]
        except ThresholdError as error:
            raise CommandError(f"--fail-if {error}") from None
        try:
            return cls(thresholds, [parse_regression(text) for text in max_regression or ()])
        except ThresholdError as error:
            raise CommandError(f"--max-regression {error}") from None

    def check_agents(self, agents: Sequence[str], bases: Collection[str]) -> None:
        """See that those they name take part, and have a base where it takes one. Raises `CommandError`."""
        from kabench.comparison.thresholds import ThresholdError, check_agents_of

        try:
            check_agents_of(self.thresholds, agents, bases)
        except ThresholdError as error:
            raise CommandError(f"--fail-if {error}") from None


def complain(outcomes: Sequence[Outcome]) -> bool:
    """Say which are broken, a line each; whether any is."""
    broken = [outcome for outcome in outcomes if outcome.is_broken]
    for outcome in broken:
        say(f"kabench: broken: {outcome}")
    return bool(broken)
