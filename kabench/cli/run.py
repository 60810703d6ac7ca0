"""`kabench run`: load through one or more agents, in turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kabench.cli import parse
from kabench.cli.errors import CommandError

if TYPE_CHECKING:
    from kabench.agent.options import AgentOptions
    from kabench.load import LoadPlan
    from kabench.result import RunResult

_LONGEST_NAME = 80
"""Of a run's name, in the name of its file."""


def run(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="Where to send the load. Without it: kabench's own delayed echo server."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            "--agent",
            "-a",
            metavar="AGENT",
            help="keepalive, plain or plain-handoff; may be repeated. Without it: keepalive and plain.",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option("--concurrency", "-c", min=1, metavar="N", help="Users who send, wait and send again."),
    ] = 60,
    requests: Annotated[
        int | None,
        typer.Option("--requests", "-r", min=1, metavar="N", help="Stop after so many requests a user (1000)."),
    ] = None,
    total: Annotated[
        int | None,
        typer.Option("--total", "-n", min=1, metavar="N", help="Stop after so many requests in all."),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", "-d", parser=parse.duration, metavar="DURATION", help="Stop after this time."),
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(
            "--delay",
            parser=parse.duration,
            metavar="DURATION",
            help="How long kabench's own server waits before it answers (5ms).",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-X",
            metavar="METHOD",
            help="Without it: POST to kabench's own server and with --data, else GET.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="TEXT|@FILE",
            help="Body of each request. Without it: 128 bytes of JSON to kabench's own server.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A header of each request; may be repeated."),
    ] = None,
    max_sockets: Annotated[int, typer.Option("--max-sockets", min=1, metavar="N", help="Sockets at most.")] = 50,
    max_free_sockets: Annotated[
        int, typer.Option("--max-free-sockets", min=1, metavar="N", help="Free sockets at most.")
    ] = 256,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            parser=parse.duration,
            metavar="DURATION",
            help="Give up a request after this time without a byte; 0: never. Twice the free time (60s).",
        ),
    ] = None,
    connect_timeout: Annotated[
        float | None,
        typer.Option(
            "--connect-timeout",
            parser=parse.duration,
            metavar="DURATION",
            help="Give up connecting after this time; as --timeout.",
        ),
    ] = None,
    free_socket_timeout: Annotated[
        float,
        typer.Option(
            "--free-socket-timeout",
            parser=parse.duration,
            metavar="DURATION",
            help="Close a socket that is free for this long; 0: never.",
        ),
    ] = "30s",  # type: ignore[assignment]  # typer parses a default like the text that a user gives
    ttl: Annotated[
        float | None,
        typer.Option(
            "--ttl", parser=parse.duration, metavar="DURATION", help="Send nothing more on a socket of this age."
        ),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Have kabench's own server speak https, with a certificate made for this run.")
    ] = False,
    cacert: Annotated[
        str | None,
        typer.Option("--cacert", metavar="FILE", help="Verify certificates against these authorities (the system's)."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any certificate.")] = False,
    json: Annotated[
        str | None,
        typer.Option("--json", metavar="PATH", help="Write the record there too; - is stdout."),
    ] = None,
    no_save: Annotated[bool, typer.Option("--no-save", help="Write no record into results/.")] = False,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call this run in its record.")] = "run",
) -> None:
    """Send load through one or more agents, in turn, and report.

    With no options it is agentkeepalive's published benchmark: 60 users with 1000 requests each, 50 sockets, a server
    that answers after 5 ms.
    """
    from kabench.cli.live import run_live
    from kabench.load import AgentSpecError, PlanError, TargetUnreachableError
    from kabench.load.agents import check_spec
    from kabench.server import ServerError

    if url is not None and delay is not None:
        raise CommandError("--delay is for kabench's own server; leave it out, or leave the URL out")
    if url is not None and tls:
        raise CommandError("--tls is for kabench's own server; leave it out, and begin the URL with https://")
    if cacert is not None and insecure:
        raise CommandError("--cacert and --insecure: give only one of them")
    if (cacert is not None or insecure) and not (url or "").startswith("https:"):
        raise CommandError("--cacert and --insecure are for https URLs")
    agents = agent or ["keepalive", "plain"]
    try:
        for spec in agents:
            check_spec(spec)
        options = _agent_options(
            max_sockets=max_sockets,
            max_free_sockets=max_free_sockets,
            timeout=timeout,
            connect_timeout=connect_timeout,
            free_socket_timeout=free_socket_timeout,
            socket_active_ttl=ttl,
        )
        plan = _plan(
            url,
            method,
            data,
            options,
            headers=parse.headers(header or []),
            concurrency=concurrency,
            requests=requests,
            total=total,
            duration_s=duration,
            delay_s=0.005 if delay is None else delay,
            tls=tls,
            cacert=cacert,
            insecure=insecure,
        )
        if cacert is not None:
            _check_authorities(cacert)
    except AgentSpecError as error:
        raise CommandError(f"--agent {error}") from None
    except (PlanError, ValueError) as error:
        raise CommandError(str(error)) from None
    outputs = _Outputs(json, name, saves=not no_save)
    try:
        finished = run_live(plan, agents, name)
    except ServerError as error:
        raise CommandError(str(error)) from None
    except TargetUnreachableError as error:
        is_unknown = cacert is None and "the certificate was not accepted" in str(error)
        advice = "; name its authority with --cacert FILE" if is_unknown else ""
        raise CommandError(f"cannot reach the target: {error}{advice}", CommandError.COULD_NOT_MEASURE) from None
    unsaved = outputs.write(finished.result)
    problems = [problem for problem in (finished.problem, unsaved) if problem is not None]
    if problems:
        code = CommandError.INTERRUPTED if finished.interrupted else CommandError.COULD_NOT_MEASURE
        raise CommandError("; ".join(problems), code)
    if finished.interrupted:
        raise typer.Exit(CommandError.INTERRUPTED)


def _check_authorities(cacert: str) -> None:
    """Find out before the load whether the file can be used."""
    from kabench.agent.tls import TlsOptions

    try:
        TlsOptions(ca_file=cacert).make_context()
    except ValueError as error:
        raise CommandError(str(error).replace("ca_file:", "--cacert", 1)) from None


def _agent_options(**given: Any) -> AgentOptions:  # the option's own values
    from kabench.agent.options import AgentOptions

    return AgentOptions(**given)


def _plan(url: str | None, method: str | None, data: str | None, options: AgentOptions, **given: Any) -> LoadPlan:
    from kabench.load import LoadPlan
    from kabench.load.plan import PUBLISHED_BODY

    method = None if method is None else method.upper()
    has_published_body = url is None and data is None and method in (None, "POST")
    default_body = PUBLISHED_BODY if has_published_body else b""
    body = default_body if data is None else parse.data(data)
    if method is None:
        method = "POST" if data is not None or has_published_body else "GET"
    headers = given.pop("headers")
    if has_published_body and not any(name.lower() == "content-type" for name, _ in headers):
        headers = (("Content-Type", "application/json"), *headers)
    return LoadPlan(url=url, method=method, data=body, headers=headers, agent_options=options, **given)


class _Outputs:
    """Where the record goes. Looked at before the load starts, so that nothing measured is lost to it."""

    def __init__(self, json: str | None, name: str, *, saves: bool) -> None:
        from kabench.result import ResultError, check_writable

        self._to_stdout = json == "-"
        self._path = None if json is None or self._to_stdout else Path(json)
        self._folder = Path("results") if saves else None
        self._name = name
        try:
            if self._path is not None:
                if self._path.is_dir():
                    raise CommandError(f"--json {self._path}: that is a folder; name a file")
                if not self._path.parent.is_dir():
                    raise CommandError(f"--json {self._path}: there is no folder {self._path.parent}")
                check_writable(self._path.parent)
            if self._folder is not None:
                check_writable(self._folder)
        except ResultError as error:
            raise CommandError(f"{error}; --no-save writes none there" if saves else str(error)) from None

    def write(self, result: RunResult) -> str | None:
        """Write the record, then print the report; what could not be written, and why, if anything."""
        from kabench.cli.console import report_console
        from kabench.cli.published import published_result
        from kabench.report import render_result
        from kabench.result import ResultError, save_result

        paths = [self._path] if self._path is not None else []
        if self._folder is not None:
            paths.append(self._folder / _file_name(result))
        written, problems = [], []
        for path in paths:
            try:
                save_result(result, path)
                written.append(path)
            except ResultError as error:
                problems.append(str(error))
        console = report_console(stderr=self._to_stdout)
        console.print(render_result(result, published_result()))
        for path in written:
            console.print(f"\nRecord: {path}", style="dim", soft_wrap=True)
        if self._to_stdout:
            typer.echo(result.to_json(), nl=False)
        return "; ".join(problems) or None


def _file_name(result: RunResult) -> str:
    started = result.started_at.replace("-", "").replace(":", "")
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in result.name).strip(".")[:_LONGEST_NAME] or "run"
    return f"{started}-{name}-{result.id[:6]}.json"
