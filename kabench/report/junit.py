"""Reports as JUnit XML, which every CI system reads: a test case for each threshold, verdict and agent.

Only a broken threshold is a failure. A verdict alone is not: a threshold says how much worse is too much. "Cannot tell"
is a skipped test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from kabench.comparison.record import CANNOT_TELL
from kabench.comparison.thresholds import UNTOLD
from kabench.metrics import METRICS
from kabench.report.comparison import ending, verdict_tables
from kabench.report.siege import siege_lines, socket_line
from kabench.report.terminal import printable
from kabench.report.words import answers_line, unanswered_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kabench.comparison.record import Comparison
    from kabench.comparison.thresholds import Outcome
    from kabench.result import RunResult


def junit_of_run(result: RunResult, outcomes: Sequence[Outcome] = (), problem: str | None = None) -> str:
    """Return a run as JUnit XML. `problem` says why it could not be finished."""
    cases = []
    for run in result.runs:
        case = _case(f"kabench.{run.agent}", "run", run.elapsed_s)
        said = [METRICS["failed_pct"].label + " " + METRICS["failed_pct"].text_of(run), answers_line(run)]
        said += [unanswered_line(run)] if run.unanswered else []
        case.system_out = printable("\n".join([*said, "", *siege_lines(run), "", socket_line(run)]))
        cases.append(case)
    return _document(f"kabench {result.name}", [*cases, *_outcomes(outcomes), *_problem(problem)], result.started_at)


def junit_of_comparison(comparison: Comparison, outcomes: Sequence[Outcome] = ()) -> str:
    """Return a comparison as JUnit XML. A case's name does not depend on its verdict, so CI systems recognize it."""
    cases = []
    for table in verdict_tables(comparison):
        for row in table.rows:
            case = _case(f"kabench.{table.agent} against {table.base}", row.metric)
            case.system_out = printable(
                f"{row.verdict}: {table.base} {row.base}, {table.agent} {row.agent}, ratio {row.ratio} ({row.interval})"
            )
            if row.verdict == CANNOT_TELL:
                needed = row.figure.trials_needed
                case.result = [Skipped("no such figure" if needed is None else f"it needs at least {needed} trials")]
            cases.append(case)
    ended = ending(comparison)
    cases += [*_outcomes(outcomes), *_problem(ended)]
    return _document(f"kabench {comparison.name}", cases, comparison.started_at)


def _outcomes(outcomes: Iterable[Outcome]) -> list[TestCase]:
    cases: list[TestCase] = []
    for outcome in outcomes:
        case = _case(f"kabench.{outcome.agent}", outcome.text)
        if outcome.is_broken:
            case.result = [Failure(printable(str(outcome)), "threshold")]
        elif outcome.verdict == UNTOLD:
            case.result = [Skipped(printable(outcome.found))]
        if (case.classname, case.name) in [(other.classname, other.name) for other in cases]:
            cases[-1].result += case.result  # several figures break one threshold
        else:
            cases.append(case)
    return cases


def _problem(problem: str | None) -> list[TestCase]:
    if problem is None:
        return []
    case = _case("kabench", "finished")
    case.result = [Error(printable(problem), "not measured")]
    return [case]


def _case(classname: str, name: str, time_s: float = 0.0) -> TestCase:
    return TestCase(printable(name), printable(classname), round(time_s, 3))


def _document(name: str, cases: Iterable[TestCase], started_at: str) -> str:
    suite = TestSuite(printable(name))
    suite.timestamp = printable(started_at).removesuffix("Z")
    for case in cases:
        suite.add_testcase(case)
    document = JUnitXml("kabench")
    document.add_testsuite(suite)
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]  # junitparser's
    return text.decode()
