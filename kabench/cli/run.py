"""`kabench run`: load through one or more agents, in turn."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import Annotated

import typer

from kabench.cli.errors import CommandError
from kabench.cli.options import LoadOptions, takes_load_options


@takes_load_options
def run(
    load: LoadOptions,
    *,
    json: Annotated[
        str | None,
        typer.Option("--json", metavar="PATH", help="Write the record there too; - is stdout."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="PATH", help="Write the series, second by second.")
    ] = None,
    hgrm: Annotated[
        Path | None,
        typer.Option(
            "--hgrm", metavar="PATH", help="Write the latency percentiles as HdrHistogram has them, a file an agent."
        ),
    ] = None,
    no_save: Annotated[bool, typer.Option("--no-save", help="Write no record into results/.")] = False,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call this run in its record.")] = "run",
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
    from kabench.cli.live import run_live
    from kabench.cli.outputs import Outputs
    from kabench.cli.plan import plan_of
    from kabench.load import AgentSpecError, PlanError, TargetUnreachableError
    from kabench.load.agents import check_spec
    from kabench.server import ServerError

    if progress not in ("auto", "live", "plain", "none"):
        raise CommandError(f"--progress {progress}: there are auto, live, plain and none")
    plan = plan_of(load)
    agents = load.agent or ["keepalive", "plain"]
    try:
        for spec in agents:
            check_spec(spec, plan)
    except AgentSpecError as error:
        raise CommandError(f"--agent {error}") from None
    outputs = Outputs(name, agents, json=json, csv=csv, hgrm=hgrm, saves=not no_save)
    try:
        finished = run_live(plan, agents, name, "none" if quiet else progress)
    except (ServerError, PlanError) as error:
        raise CommandError(str(error)) from None
    except TargetUnreachableError as error:
        is_unknown = plan.cacert is None and "the certificate was not accepted" in str(error)
        advice = "; name its authority with --cacert FILE" if is_unknown else ""
        raise CommandError(f"cannot reach the target: {error}{advice}", CommandError.COULD_NOT_MEASURE) from None
    unsaved = outputs.write(finished.result)
    problems = [problem for problem in (finished.problem, unsaved) if problem is not None]
    if problems:
        code = CommandError.INTERRUPTED if finished.interrupted else CommandError.COULD_NOT_MEASURE
        raise CommandError("; ".join(problems), code)
    if finished.interrupted:
        raise typer.Exit(CommandError.INTERRUPTED)
