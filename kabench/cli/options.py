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
from kabench.cli.scenario import overridden, read_scenario
from kabench.published import (
    PUBLISHED_DELAY_S,
    PUBLISHED_REQUESTS_A_USER,
    PUBLISHED_USERS,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _option(*names: str, help: str, metavar: str | None = None, **settings: Any) -> Any:  # noqa: A002  # typer's own word
    return typer.Option(*names, help=help, metavar=metavar, **settings)


def _duration(*names: str, help: str) -> Any:  # noqa: A002  # typer's own word
    return typer.Option(*names, help=help, metavar="DURATION", parser=parse.duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The load as the command line or a scenario file describes it. None: not given."""

    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL]...",
            help="Send the load to this URL, or to several in turn (kabench's own delayed echo server).",
        ),
    ] = None
    scenario: Annotated[
        Path | None,
        _option(
            "--scenario",
            "-f",
            metavar="FILE",
            help="Read options from a TOML file; options on the command line override them.",
            is_eager=True,
            callback=read_scenario,
        ),
    ] = None
    agent: Annotated[
        list[str] | None,
        _option(
            "--agent",
            "-a",
            metavar="AGENT",
            help="Send through this agent: keepalive, plain, plain-handoff, urllib3-keepalive, urllib3-plain, urllib3, "
            "requests, httpx, aiohttp or package.module:factory; may be repeated (kabench run: keepalive and plain).",
        ),
    ] = None
    # -- how much, how long
    concurrency: Annotated[
        int | None,
        _option(
            "--concurrency",
            "-c",
            min=1,
            metavar="N",
            help=f"Run N users; each sends a request, waits for the answer and sends again ({PUBLISHED_USERS}).",
        ),
    ] = None
    rate: Annotated[
        float | None,
        _option(
            "--rate",
            parser=parse.rate,
            metavar="N/s",
            help="Instead of users, send requests at this rate, whether or not answers come; N/m is per minute.",
        ),
    ] = None
    arrivals: Annotated[
        str,
        _option("--arrivals", metavar="constant|poisson", help="With a rate, space requests evenly or at random."),
    ] = "constant"
    max_in_flight: Annotated[
        int | None,
        _option(
            "--max-in-flight",
            min=1,
            metavar="N",
            help="With a rate, have at most N requests under way; more are counted as not started (10000).",
        ),
    ] = None
    stage: Annotated[
        list[Any] | None,
        _option(
            "--stage",
            parser=parse.stage,
            metavar="DURATION:N",
            help="Change linearly to N users, or N requests/s (with --rate, or N/s), over this time; may be repeated.",
        ),
    ] = None
    requests: Annotated[
        int | None,
        _option(
            "--requests",
            "-r",
            min=1,
            metavar="N",
            help=f"Stop each user after N requests ({PUBLISHED_REQUESTS_A_USER}).",
        ),
    ] = None
    total: Annotated[int | None, _option("--total", "-n", min=1, metavar="N", help="Stop after N requests in all.")] = (
        None
    )
    duration: Annotated[float | None, _duration("--duration", "-d", help="Stop after this time (10s with a rate).")] = (
        None
    )
    warmup: Annotated[
        float | None, _duration("--warmup", help="Send load for this time first, and leave it out of the figures.")
    ] = None
    grace: Annotated[
        float | None, _duration("--grace", help="When time is over, wait this long for outstanding answers (5s).")
    ] = None
    workers: Annotated[
        int | None,
        _option(
            "--workers",
            "-w",
            parser=parse.workers,
            metavar="N|auto",
            help="Share the load among N processes; auto starts one for each core (1).",
        ),
    ] = None
    # -- where to, and what
    url_file: Annotated[
        Path | None,
        _option(
            "--url-file",
            metavar="FILE",
            help="Read URLs from this file, one a line, each with an optional weight first.",
        ),
    ] = None
    request_file: Annotated[
        Path | None,
        _option(
            "--request-file",
            metavar="FILE",
            help='Read requests from this file, one a line: {"url": ..., "method", "headers", "body", "weight"}.',
        ),
    ] = None
    order: Annotated[
        str | None,
        _option(
            "--order",
            metavar="turn|random",
            help="Send several URLs or requests in turn or at random (turn; random if they have weights).",
        ),
    ] = None
    method: Annotated[
        str | None,
        _option(
            "--method",
            "-X",
            metavar="METHOD",
            help="Use this method (POST with a body or to kabench's own server, else GET).",
        ),
    ] = None
    data: Annotated[
        str | None,
        _option(
            "--data",
            metavar="TEXT|@FILE",
            help="Send this body with each request (none; to kabench's own server, 128 bytes of JSON).",
        ),
    ] = None
    data_lines: Annotated[
        Path | None, _option("--data-lines", metavar="FILE", help="Send the lines of this file as bodies, in turn.")
    ] = None
    templates: Annotated[
        bool,
        _option(
            "--templates",
            help="Fill in {{counter}}, {{random}}, {{random:1-9}} and {{uuid}} in URLs (path and query) and bodies.",
        ),
    ] = False
    header: Annotated[
        list[str] | None,
        _option("--header", "-H", metavar="'NAME: VALUE'", help="Send this header with each request; may be repeated."),
    ] = None
    user: Annotated[
        str | None, _option("--user", "-u", metavar="NAME:PASSWORD", help="Send these with basic authentication.")
    ] = None
    cookies: Annotated[bool, _option("--cookies", help="Let each user keep its own cookies.")] = False
    expect_status: Annotated[
        list[int] | None,
        _option(
            "--expect-status",
            metavar="STATUS",
            help="Count any other status as a failure; may be repeated (any below 400 is expected).",
        ),
    ] = None
    expect_body: Annotated[
        str | None, _option("--expect-body", metavar="TEXT", help="Count a body without this text as a failure.")
    ] = None
    # -- the agent: the options of `AgentOptions` that have a flag
    agent_options: AgentOptions = OF_A_LOAD
    # -- the way there
    delay: Annotated[
        float | None,
        _duration(
            "--delay", help=f"Have kabench's own server answer after this time ({PUBLISHED_DELAY_S * 1000:g}ms)."
        ),
    ] = None
    tls: Annotated[
        bool, _option("--tls", help="Have kabench's own server speak https, with a certificate made for this run.")
    ] = False
    cacert: Annotated[
        str | None,
        _option("--cacert", metavar="FILE", help="Verify certificates against these authorities (the system's)."),
    ] = None
    cert: Annotated[str | None, _option("--cert", metavar="FILE", help="Present this client certificate (PEM).")] = None
    key: Annotated[
        str | None, _option("--key", metavar="FILE", help="Read the certificate's key from here (PEM; --cert's file).")
    ] = None
    insecure: Annotated[bool, _option("--insecure", "-k", help="Accept any certificate.")] = False
    connect_to: Annotated[
        str | None, _option("--connect-to", metavar="HOST:PORT", help="Connect to this address, whatever the URL says.")
    ] = None
    unix_socket: Annotated[
        str | None, _option("--unix-socket", metavar="PATH", help="Connect to this Unix socket, whatever the URL says.")
    ] = None
    seed: Annotated[int, _option("--seed", metavar="N", help="Repeat the same random choices with the same seed.")] = 1


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
