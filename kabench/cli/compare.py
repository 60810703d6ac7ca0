"""`kabench compare`: compares agents in interleaved trials, and gives a verdict."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import Annotated

import typer

from kabench.cli import file_options as files
from kabench.cli import parse
from kabench.cli.errors import CommandError, finish, warn
from kabench.cli.gates import Check, FailIf, Gates, MaxRegression, complain
from kabench.cli.options import LoadOptions, takes_load_options
from kabench.cli.panels import Panel

_option = partial(typer.Option, rich_help_panel=Panel.TRIALS)

_DURATION_S = 2.0
_WARMUP_S = 0.5
"""How long a trial lasts by default. It is short because many short trials tell more than a few long ones."""


@takes_load_options
def compare(
    load: LoadOptions,
    *,
    trials: Annotated[
        int | None,
        _option("--trials", min=1, metavar="N", help="Run N trials of each agent (until the verdict is certain)."),
    ] = None,
    max_time: Annotated[
        float | None,
        _option(
            "--max-time",
            parser=parse.duration,
            metavar="TIME",
            help="Begin no trial that would end after this time (3m without --trials).",
        ),
    ] = None,
    margin: Annotated[
        str,
        _option(
            "--margin",
            metavar="N%",
            help="Without --trials, stop when each figure differs, or is sure to differ by no more than this.",
        ),
    ] = "2%",
    fail_if: FailIf = None,
    check: Check = None,
    max_regression: MaxRegression = None,
    json: files.Json = None,
    junit: files.Junit = None,
    markdown: files.Markdown = None,
    html: files.Html = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            metavar="FOLDER",
            help="Save the whole record of each trial in this folder.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = None,
    no_save: files.NoSave = False,
    name: files.Name = "compare",
    progress: files.Progress = "auto",
    quiet: files.Quiet = False,
) -> None:
    """Compare agents in interleaved trials, and give a verdict.

    Give --agent twice or more; all agents are compared with the first. A trial has a warm-up of half a second
    (--warmup), and then sends load for 2 s, unless another stop rule is given. Without --trials, trials go on until
    the verdict is certain, for 3 minutes at most.
    """
    from kabench.cli.extras import needs_extra

    needs_extra("kabench compare", "compare", ["scipy"])
    from kabench.cli.live import shown_as, stoppable
    from kabench.cli.live_trials import StopOptions, compare_live
    from kabench.cli.open_files import held_up
    from kabench.cli.outputs import Outputs, check_folder
    from kabench.cli.plan import check_specs, plan_of
    from kabench.cli.reports import Paths, report_of_comparison
    from kabench.comparison.thresholds import outcomes_of_comparison
    from kabench.comparison.trials import DEFAULT_MAX_TIME_S
    from kabench.result import labels

    shown = "none" if quiet else shown_as(progress)
    plan = plan_of(_of_short_trials(load))
    agents = load.agent or []
    if len(agents) < 2:
        raise CommandError("give two or more agents, the first as the base: --agent keepalive --agent plain")
    check_specs(agents, plan)
    if trials is None and max_time is None:
        max_time = DEFAULT_MAX_TIME_S
    stop = StopOptions(trials=trials, max_time_s=max_time, margin=parse.percent("--margin", margin))
    gates = Gates.of(fail_if, max_regression, check)
    gates.check_agents(labels(agents), agents[:1])
    paths = Paths(junit=junit, markdown=markdown, html=html)
    outputs = Outputs(paths, json=json, saves=not no_save)
    if records is not None:
        check_folder("--records", records)
    with stoppable() as control:
        finished = compare_live(plan, agents, stop, name, shown, records, control)
        comparison = finished.comparison
        outcomes = outcomes_of_comparison(gates.thresholds, gates.regressions, comparison)
        unsaved = outputs.write(comparison, lambda: report_of_comparison(comparison, paths, outcomes))
    waits_s = (run.figures.get("queue_p99") for trial in comparison.trials for run in trial.runs)
    warn(held_up(plan, load.agent_options.max_sockets, waits_s))
    problems = (comparison.problem, *finished.unsaved, unsaved)
    finish(problems, interrupted=finished.interrupted, broken=complain(outcomes))


def _of_short_trials(load: LoadOptions) -> LoadOptions:
    has_stop_rule = any(given is not None for given in (load.requests, load.total, load.duration)) or load.stage
    if not has_stop_rule:
        load = dataclasses.replace(load, duration=_DURATION_S)
    return load if load.warmup is not None else dataclasses.replace(load, warmup=_WARMUP_S)
