"""`kabench run`: sends load through one or more agents, in turn."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from kabench.cli import file_options as files  # noqa: TC001  # typer reads the annotations
from kabench.cli.errors import finish, warn
from kabench.cli.gates import Check, FailIf, Gates, complain
from kabench.cli.options import LoadOptions, takes_load_options
from kabench.cli.panels import Panel
from kabench.cli.parse import duration

_option = partial(typer.Option, rich_help_panel=Panel.WORKERS)


@takes_load_options
def run(
    load: LoadOptions,
    *,
    fail_if: FailIf = None,
    check: Check = None,
    json: files.Json = None,
    csv: files.Csv = None,
    hgrm: files.Hgrm = None,
    junit: files.Junit = None,
    markdown: files.Markdown = None,
    html: files.Html = None,
    no_save: files.NoSave = False,
    siege: files.Siege = False,
    name: files.Name = "run",
    distributed: Annotated[
        bool,
        _option("--distributed", help="Have workers on this and other machines send the load, through locust."),
    ] = False,
    expect_workers: Annotated[
        int | None,
        _option(
            "--expect-workers",
            min=1,
            metavar="N",
            help="With --distributed, begin when N workers have joined (those of --workers).",
        ),
    ] = None,
    bind: Annotated[
        str | None,
        _option(
            "--bind",
            metavar="HOST[:PORT]",
            help="With --distributed, listen for workers at this address (127.0.0.1:5557).",
        ),
    ] = None,
    max_wait: Annotated[
        float | None,
        _option(
            "--max-wait",
            metavar="TIME",
            parser=duration,
            help="With --distributed, wait this long for workers (10m).",
        ),
    ] = None,
    progress: files.Progress = "auto",
    quiet: files.Quiet = False,
) -> None:
    """Send load through agents, in turn, and print a report.

    With a URL: 10 users for 10 s through the keepalive agent, unless told otherwise. Without one, this is
    agentkeepalive's published benchmark: 60 users with 1000 requests each, 50 sockets, kabench's own server that
    answers after 5 ms, and the agents keepalive and plain.
    """
    from kabench.cli.distributed import DistributedOptions, workers_of
    from kabench.cli.live import run_live, shown_as, stoppable
    from kabench.cli.open_files import held_up
    from kabench.cli.outputs import Outputs, hgrm_paths
    from kabench.cli.plan import check_specs
    from kabench.cli.reports import Paths, report_of_run
    from kabench.comparison.thresholds import outcomes_of_runs
    from kabench.load import default_agents
    from kabench.result import labels

    shown = "none" if quiet else shown_as(progress)
    workers = DistributedOptions(
        distributed=distributed, expect_workers=expect_workers, started=load.workers, bind=bind, max_wait_s=max_wait
    )
    plan = workers.plan_of(load)
    agents = load.agent or default_agents(plan)
    check_specs(agents, plan)
    gates = Gates.of(fail_if, check=check)
    gates.check_agents(labels(agents), agents[:1])
    paths = Paths(csv=csv, hgrm=hgrm_paths(hgrm, agents), junit=junit, markdown=markdown, html=html)
    outputs = Outputs(paths, json=json, saves=not no_save)
    with stoppable() as control, workers_of(workers, control) as workers_for:  # workers stay until the report is out
        finished = run_live(plan, agents, name, shown, control, workers_for)
        outcomes = outcomes_of_runs(gates.thresholds, finished.result.runs)
        unsaved = outputs.write(
            finished.result, lambda: report_of_run(finished.result, paths, outcomes, finished.problem, siege=siege)
        )
    waits_s = (run.phases.queue.max for run in finished.result.runs)
    warn(held_up(plan, load.agent_options.max_sockets, waits_s))
    finish((finished.problem, unsaved), interrupted=finished.interrupted, broken=complain(outcomes))
