"""The options that describe the load: one dataclass, for each command that sends load.

typer reads a command's signature. `takes_load_options` adds the dataclass's fields to it, and gives the command
the dataclass.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from kabench.agent.options import AgentOptions  # noqa: TC001  # the dataclass's hints are read
from kabench.cli import parse
from kabench.cli.agent_options import OF_A_LOAD, agent_options_from, agent_parameters, as_keyword, with_parameters
from kabench.cli.panels import Panel
from kabench.cli.scenario import overridden, read_scenario
from kabench.published import (
    PUBLISHED_DELAY_S,
    PUBLISHED_USERS,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _option(panel: Panel, *names: str, help: str, metavar: str | None = None, **settings: Any) -> Any:  # noqa: A002  # typer's own word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, **settings)


def _duration(panel: Panel, *names: str, help: str) -> Any:  # noqa: A002  # typer's own word
    return _option(panel, *names, help=help, metavar="TIME", parser=parse.duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The load as the command line or a scenario file describes it. None: not given.

    Where a help text says in parentheses what holds otherwise, `LoadPlan` decides it.
    """

    # -- what is sent
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="URL",
            help="Send to this URL, or to several in turn (kabench's own delayed echo server).",
            rich_help_panel=Panel.WHAT,
        ),
    ] = None
    scenario: Annotated[
        Path | None,
        _option(
            Panel.WHAT,
            "--scenario",
            "-f",
            metavar="FILE",
            help="Read options from a TOML file; the command line overrides them.",
            is_eager=True,
            callback=read_scenario,
        ),
    ] = None
    url_file: Annotated[
        Path | None,
        _option(Panel.WHAT, "--url-file", metavar="FILE", help="Read URLs from lines: [WEIGHT] URL; - is stdin."),
    ] = None
    request_file: Annotated[
        Path | None,
        _option(
            Panel.WHAT,
            "--request-file",
            metavar="FILE",
            help='Read requests from lines of JSON: {"url": ..., "method", "headers", "body", "weight", "name"}.',
        ),
    ] = None
    order: Annotated[
        str | None,
        _option(
            Panel.WHAT,
            "--order",
            metavar="turn|random",
            help="Choose among URLs or requests in turn or at random (turn; random if they have weights).",
        ),
    ] = None
    method: Annotated[
        str | None,
        _option(Panel.WHAT, "--method", "-X", metavar="METHOD", help="Use this method (GET; POST with a body)."),
    ] = None
    data: Annotated[
        str | None,
        _option(Panel.WHAT, "--data", metavar="TEXT|@FILE", help="Send this body with each request; @- is stdin."),
    ] = None
    data_lines: Annotated[
        Path | None,
        _option(Panel.WHAT, "--data-lines", metavar="FILE", help="Send the lines of this file as bodies, in turn."),
    ] = None
    templates: Annotated[
        bool,
        _option(
            Panel.WHAT,
            "--templates",
            help="Fill in {{counter}}, {{random}}, {{random:1-9}} and {{uuid}} in URLs and bodies.",
        ),
    ] = False
    header: Annotated[
        list[str] | None,
        _option(
            Panel.WHAT,
            "--header",
            "-H",
            metavar="NAME:VALUE",
            help="Send this header with each request; may be repeated.",
        ),
    ] = None
    user: Annotated[
        str | None,
        _option(Panel.WHAT, "--user", "-u", metavar="NAME:PASSWORD", help="Send this name and password (basic)."),
    ] = None
    cookies: Annotated[bool, _option(Panel.WHAT, "--cookies", help="Let each user keep its own cookies.")] = False
    seed: Annotated[
        int, _option(Panel.WHAT, "--seed", metavar="N", help="Make the random choices of another run with this seed.")
    ] = 1
    # -- how much
    concurrency: Annotated[
        int | None,
        _option(
            Panel.HOW_MUCH,
            "--concurrency",
            "-c",
            min=1,
            metavar="N",
            help=f"Run N users; each sends, waits for the answer, and sends again (10; without URL {PUBLISHED_USERS}).",
        ),
    ] = None
    rate: Annotated[
        float | None,
        _option(
            Panel.HOW_MUCH,
            "--rate",
            parser=parse.rate,
            metavar="N/s",
            help="Send at this rate, without waiting for answers, in place of users; N/m is per minute.",
        ),
    ] = None
    arrivals: Annotated[
        str,
        _option(
            Panel.HOW_MUCH,
            "--arrivals",
            metavar="constant|poisson",
            help="With a rate, space requests evenly or at random.",
        ),
    ] = "constant"
    max_in_flight: Annotated[
        int | None,
        _option(
            Panel.HOW_MUCH,
            "--max-in-flight",
            min=1,
            metavar="N",
            help="With a rate, have at most N requests under way; others count as not started (10000).",
        ),
    ] = None
    stage: Annotated[
        list[Any] | None,
        _option(
            Panel.HOW_MUCH,
            "--stage",
            parser=parse.stage,
            metavar="TIME:N",
            help="Change to N users, or to N/s, over this time; may be repeated.",
        ),
    ] = None
    # -- how long
    requests: Annotated[
        int | None,
        _option(
            Panel.HOW_LONG,
            "--requests",
            "-r",
            min=1,
            metavar="N",
            help="Stop each user after N requests.",
        ),
    ] = None
    total: Annotated[
        int | None, _option(Panel.HOW_LONG, "--total", "-n", min=1, metavar="N", help="Stop after N requests in all.")
    ] = None
    duration: Annotated[
        float | None,
        _duration(Panel.HOW_LONG, "--duration", "-d", help="Stop after this time."),
    ] = None
    stop_after: Annotated[
        float | None,
        _duration(Panel.HOW_LONG, "--stop-after", help="Stop after this time, even if --requests or --total are left."),
    ] = None
    keep_trying: Annotated[
        bool,
        _option(Panel.HOW_LONG, "--keep-trying", help="Go on although nothing has succeeded in the first 10 s."),
    ] = False
    warmup: Annotated[
        float | None,
        _duration(Panel.HOW_LONG, "--warmup", help="Send for this time first, and leave it out of the figures."),
    ] = None
    grace: Annotated[
        float | None,
        _duration(Panel.HOW_LONG, "--grace", help="When time is over, wait this long for outstanding answers (5s)."),
    ] = None
    # -- the agent: the options of `AgentOptions` that have a flag come after `agent`
    agent: Annotated[
        list[str] | None,
        _option(
            Panel.AGENT,
            "--agent",
            "-a",
            metavar="AGENT",
            help="Send through this agent; may be repeated: keepalive, plain, plain-handoff, urllib3-keepalive, "
            "urllib3-plain, urllib3, requests, httpx, aiohttp, or package.module:factory.",
        ),
    ] = None
    agent_options: AgentOptions = OF_A_LOAD
    # -- how the server is reached
    cacert: Annotated[
        str | None,
        _option(
            Panel.SERVER,
            "--cacert",
            metavar="FILE",
            help="Verify certificates against these authorities (the system's).",
        ),
    ] = None
    cert: Annotated[
        str | None, _option(Panel.SERVER, "--cert", metavar="FILE", help="Present this client certificate (PEM).")
    ] = None
    key: Annotated[
        str | None,
        _option(
            Panel.SERVER, "--key", metavar="FILE", help="Read the certificate's key from here (PEM; --cert's file)."
        ),
    ] = None
    insecure: Annotated[bool, _option(Panel.SERVER, "--insecure", "-k", help="Accept any certificate.")] = False
    connect_to: Annotated[
        str | None,
        _option(
            Panel.SERVER, "--connect-to", metavar="HOST:PORT", help="Connect to this address, whatever the URL says."
        ),
    ] = None
    unix_socket: Annotated[
        str | None,
        _option(
            Panel.SERVER, "--unix-socket", metavar="PATH", help="Connect to this Unix socket, whatever the URL says."
        ),
    ] = None
    # -- kabench's own server
    delay: Annotated[
        float | None,
        _duration(Panel.OWN_SERVER, "--delay", help=f"Answer after this time ({PUBLISHED_DELAY_S * 1000:g}ms)."),
    ] = None
    tls: Annotated[
        bool, _option(Panel.OWN_SERVER, "--tls", help="Speak https, with a certificate made for this run.")
    ] = False
    # -- what fails
    total_timeout: Annotated[
        float | None,
        _duration(Panel.FAILURES, "--total-timeout", help="Give a request up when it has taken this long in all."),
    ] = None
    expect_status: Annotated[
        list[int] | None,
        _option(
            Panel.FAILURES,
            "--expect-status",
            metavar="STATUS",
            help="Count any other status as a failure; may be repeated (any below 400 is expected).",
        ),
    ] = None
    expect_body: Annotated[
        str | None,
        _option(Panel.FAILURES, "--expect-body", metavar="TEXT", help="Count a body without this text as a failure."),
    ] = None
    # -- which processes send it
    workers: Annotated[
        int | None,
        _option(
            Panel.WORKERS,
            "--workers",
            "-w",
            parser=parse.workers,
            metavar="N|auto",
            help="Share the load among N processes on this machine; auto: one for each core (1).",
        ),
    ] = None


def takes_load_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put the fields of `LoadOptions` in front of a command's other parameters, as typer sees them.

    The command is called with a `LoadOptions` as `load`.
    """
    load_hints = get_type_hints(LoadOptions, include_extras=True)
    own = [as_keyword(p) for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "load"]
    block = agent_parameters()
    fields: list[inspect.Parameter] = []
    for each in dataclasses.fields(LoadOptions):
        if each.name == "agent_options":
            fields += block
        else:
            fields.append(
                inspect.Parameter(
                    each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=load_hints[each.name]
                )
            )

    @functools.wraps(command)
    def wrapped(context: typer.Context, **given: Any) -> None:
        load = {parameter.name: given.pop(parameter.name) for parameter in fields}
        for name in overridden(context):
            load[name] = next(parameter.default for parameter in fields if parameter.name == name)
        agent_options = agent_options_from({parameter.name: load.pop(parameter.name) for parameter in block})
        command(LoadOptions(**load, agent_options=agent_options), **given)

    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    return with_parameters(wrapped, [context, *fields, *own])
