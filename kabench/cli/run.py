"""`kabench run`: load through one or more agents, in turn."""

from __future__ import annotations

from typing import Annotated

import typer

from kabench.cli import file_options as files  # noqa: TC001  # typer reads the annotations
from kabench.cli.errors import finish
from kabench.cli.gates import FailIf, Gates, complain
from kabench.cli.options import LoadOptions, takes_load_options


@takes_load_options
def run(
    load: LoadOptions,
    *,
    fail_if: FailIf = None,
    json: files.Json = None,
    csv: files.Csv = None,
    hgrm: files.Hgrm = None,
    junit: files.Junit = None,
    markdown: files.Markdown = None,
    html: files.Html = None,
    no_save: files.NoSave = False,
    name: files.Name = "run",
    progress: Annotated[
        str,
        typer.Option("--progress", metavar="auto|live|plain|none", help="While it runs; plain is a line a second."),
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="As --progress none.")] = False,
) -> None:
    """Send load through one or more agents, in turn, and report.

    With no options it is agentkeepalive's published benchmark: 60 users with 1000 requests each, 50 sockets, a server
    that answers after 5 ms.
    """
    from kabench.cli.live import run_live, shown_as, stoppable
    from kabench.cli.outputs import Outputs, hgrm_paths
    from kabench.cli.plan import check_specs, plan_of
    from kabench.cli.reports import Paths, report_of_run
    from kabench.comparison.thresholds import outcomes_of_runs
    from kabench.result import labels

    shown = "none" if quiet else shown_as(progress)
    plan = plan_of(load)
    agents = load.agent or ["keepalive", "plain"]
    check_specs(agents, plan)
    gates = Gates.of(fail_if)
    gates.check_agents(labels(agents), agents[:1])
    paths = Paths(csv=csv, hgrm=hgrm_paths(hgrm, agents), junit=junit, markdown=markdown, html=html)
    outputs = Outputs(paths, json=json, saves=not no_save)
    with stoppable() as control:
        finished = run_live(plan, agents, name, shown, control)
        outcomes = outcomes_of_runs(gates.thresholds, finished.result.runs)
        unsaved = outputs.write(
            finished.result, lambda: report_of_run(finished.result, paths, outcomes, finished.problem)
        )
    finish((finished.problem, unsaved), interrupted=finished.interrupted, broken=complain(outcomes))
