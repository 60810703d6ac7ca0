"""`kabench proxy`: the published benchmark's proxy in front of a target, for any load tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kabench.agent.options import AgentOptions  # noqa: TC001  # typer reads the annotations
from kabench.cli import parse, server_options
from kabench.cli.agent_options import takes_agent_options
from kabench.cli.errors import CommandError, not_listening
from kabench.cli.panels import Panel

if TYPE_CHECKING:
    from kabench.proxy import AgentFigures, ProxyOptions


@takes_agent_options
def proxy(
    *,
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="Pass all requests on to this URL, and only to it.", rich_help_panel=Panel.WHAT
        ),
    ],
    host: server_options.Host = "127.0.0.1",
    port: server_options.Port = 1985,
    agent_options: AgentOptions,
    cacert: server_options.CaCert = None,
    insecure: server_options.Insecure = False,
    every: Annotated[
        float,
        typer.Option(
            "--every",
            parser=parse.duration,
            metavar="TIME",
            help="Print counts this often; 0: only at the end.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = "2s",  # type: ignore[assignment]  # typer parses a default like the text that a user gives
    max_connections: server_options.MaxConnections = None,
    max_head: server_options.MaxHead = None,
    max_body: server_options.MaxForwardedBody = None,
    head_timeout: server_options.HeadTimeout = None,
    request_timeout: server_options.RequestTimeout = None,
    send_timeout: server_options.SendTimeout = None,
) -> None:
    """Pass requests on through a keep-alive agent and a normal one.

    /k/PATH goes to PATH through the keep-alive agent, /PATH through the normal one, which keeps no free socket. A
    leading /post turns a GET into the published benchmark's POST: siege -b -c60 -r500 http://127.0.0.1:1985/post/k/5.
    The proxy prints both agents' counts every two seconds and at the end; /-/status has them as JSON. Ctrl-C ends it.
    """
    from kabench.agent import TlsOptions
    from kabench.proxy import ProxyOptions
    from kabench.proxy.foreground import ProxyError, proxy_until_signal
    from kabench.server import ClientLimits

    if cacert is not None and insecure:
        raise CommandError("--cacert and --insecure: give only one of them")
    limits = server_options.limits_from(
        max_connections=max_connections,
        max_head=max_head,
        max_body=ClientLimits.UNLIMITED if max_body is None else max_body,
        head_timeout=head_timeout,
        request_timeout=request_timeout,
        send_timeout=send_timeout,
    )
    try:
        options = ProxyOptions(
            target=target,
            host=host,
            port=port,
            agent_options=agent_options,
            tls=TlsOptions(verify=not insecure, ca_file=cacert) if insecure or cacert is not None else None,
            limits=limits,
        )
        proxy_until_signal(options, every, lambda url: _say_where(url, options), _print)
    except ProxyError as error:
        raise not_listening(error) from None
    except ValueError as error:
        raise CommandError(str(error)) from None


def _say_where(url: str, options: ProxyOptions) -> None:
    from kabench.cli.console import report_console

    target = options.shown_target
    report_console().print(
        f"kabench proxy: {url} leads to {target}\n"
        f"kabench proxy: {url}k/PATH through the keep-alive agent, {url}PATH through the normal one",
        markup=False,
        soft_wrap=True,
    )


def _print(agents: list[AgentFigures]) -> None:
    from kabench.cli.console import report_console
    from kabench.report.proxy import proxy_text

    report_console().print(proxy_text(agents), "", sep="\n", markup=False)
