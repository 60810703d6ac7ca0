"""The options that let a run, comparison or diff fail: `--fail-if` and `--max-regression`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli.errors import CommandError, say
from kabench.cli.panels import Panel

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kabench.comparison.thresholds import Outcome, Regression, Threshold

FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        metavar="CONDITION",
        help="Exit with 1 if this holds: 'failed>0.1%', 'p99>50ms', 'keepalive:req_per_socket<100', "
        "'transaction_rate.ratio<0.95'; may be repeated.",
        rich_help_panel=Panel.FAILURES,
    ),
]

Check = Annotated[
    list[str] | None,
    typer.Option(
        "--check",
        metavar="CONDITION",
        help="Exit with 1 unless this holds: 'failed<0.1%', 'p99<50ms', 'p99[GET /items/{}]<50ms'; may be repeated.",
        rich_help_panel=Panel.FAILURES,
    ),
]

MaxRegression = Annotated[
    list[str] | None,
    typer.Option(
        "--max-regression",
        metavar="[METRIC=]N%",
        help="Exit with 1 if an agent is worse than its base by more than this; may be repeated.",
        rich_help_panel=Panel.FAILURES,
    ),
]


@dataclass(frozen=True, slots=True)
class Gates:
    """The thresholds and regressions that the user gave."""

    thresholds: Sequence[Threshold]
    regressions: Sequence[Regression]

    @classmethod
    def of(
        cls,
        fail_if: Sequence[str] | None,
        max_regression: Sequence[str] | None = None,
        check: Sequence[str] | None = None,
    ) -> Gates:
        """Parse the options' values. Raises `CommandError`."""
        from kabench.comparison.thresholds import ThresholdError, parse_regression, parse_threshold

        thresholds = []
        for option, texts, must_hold in (("--fail-if", fail_if, False), ("--check", check, True)):
            try:
                thresholds += [parse_threshold(text, must_hold=must_hold) for text in texts or ()]
            except ThresholdError as error:
                raise CommandError(f"{option} {error}") from None
        try:
            return cls(thresholds, [parse_regression(text) for text in max_regression or ()])
        except ThresholdError as error:
            raise CommandError(f"--max-regression {error}") from None

    def check_agents(self, agents: Sequence[str], bases: Collection[str]) -> None:
        """Raise `CommandError` if a named agent takes no part, or has no base where a ratio needs one."""
        from kabench.comparison.thresholds import ThresholdError, check_agents_of

        try:
            check_agents_of(self.thresholds, agents, bases)
        except ThresholdError as error:
            raise CommandError(f"threshold {error}") from None


def complain(outcomes: Sequence[Outcome]) -> bool:
    """Print a line for each broken threshold. Return whether any is broken."""
    broken = [outcome for outcome in outcomes if outcome.is_broken]
    for outcome in broken:
        say(f"kabench: broken: {outcome}")
    return bool(broken)
