"""Options that commands share: where a server listens, what it takes from clients, how to reach one over TLS."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli import parse
from kabench.cli.errors import CommandError
from kabench.cli.panels import Panel

if TYPE_CHECKING:
    from kabench.server import ClientLimits

_listening = partial(typer.Option, rich_help_panel=Panel.LISTENING)
_limit = partial(typer.Option, rich_help_panel=Panel.LIMITS)
_server = partial(typer.Option, rich_help_panel=Panel.SERVER)

Host = Annotated[
    str,
    _listening("--host", metavar="ADDRESS", help="Listen on this address; only this machine reaches a loopback one."),
]
Port = Annotated[
    int,
    _listening("--port", "-p", min=0, max=65535, metavar="PORT", help="Listen on this port; 0 takes any free one."),
]
MaxConnections = Annotated[
    int | None,
    _limit("--max-connections", min=1, metavar="N", help="Turn away clients beyond N at a time (10000)."),
]
MaxHead = Annotated[
    int | None,
    _limit("--max-head", parser=parse.size, metavar="SIZE", help="Refuse a larger request line and headers (64kb)."),
]
MaxBody = Annotated[
    int | None,
    _limit("--max-body", parser=parse.size, metavar="SIZE", help="Refuse a larger request body (64mb)."),
]
MaxForwardedBody = Annotated[
    int | None,
    _limit("--max-body", parser=parse.size, metavar="SIZE", help="Refuse a larger request body (unlimited)."),
]
HeadTimeout = Annotated[
    float | None,
    _limit(
        "--head-timeout",
        parser=parse.duration,
        metavar="TIME",
        help="Wait this long for a request's line and headers (60s).",
    ),
]
MaxHeld = Annotated[
    int | None,
    _limit("--max-held", parser=parse.size, metavar="SIZE", help="Hold at most this much of all request bodies (1gb)."),
]
SendTimeout = Annotated[
    float | None,
    _limit(
        "--send-timeout",
        parser=parse.duration,
        metavar="TIME",
        help="Cut off a client that reads nothing of its response for this long (60s).",
    ),
]
RequestTimeout = Annotated[
    float | None,
    _limit("--request-timeout", parser=parse.duration, metavar="TIME", help="Wait this long for a whole request (5m)."),
]
CaCert = Annotated[
    str | None,
    _server("--cacert", metavar="FILE", help="Verify certificates against these authorities (the system's)."),
]
Insecure = Annotated[bool, _server("--insecure", "-k", help="Accept any certificate.")]


def limits_from(
    *,
    max_connections: int | None,
    max_head: int | None,
    max_body: int | None,
    head_timeout: float | None,
    request_timeout: float | None,
    send_timeout: float | None,
    max_held: int | None = None,
) -> ClientLimits:
    """Return the given limits, with defaults for the others. Raises `CommandError`."""
    from kabench.server import ClientLimits

    given = {
        "max_connections": max_connections,
        "max_head_bytes": max_head,
        "max_body_bytes": max_body,
        "head_timeout_s": head_timeout,
        "request_timeout_s": request_timeout,
        "send_timeout_s": send_timeout,
        "max_held_bytes": max_held,
    }
    try:
        return ClientLimits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # each has the type of its option
    except ValueError as error:
        raise CommandError(str(error)) from None
