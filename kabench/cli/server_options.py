"""The options that `kabench serve` and `kabench proxy` share: where they listen, and the limits of a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kabench.cli import parse
from kabench.cli.errors import CommandError

if TYPE_CHECKING:
    from kabench.server import ClientLimits

Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Listen on this address; on a loopback address, other machines cannot connect.",
    ),
]
MaxConnections = Annotated[
    int | None,
    typer.Option("--max-connections", min=1, metavar="N", help="Turn away clients beyond N at a time (10000)."),
]
MaxHead = Annotated[
    int | None,
    typer.Option(
        "--max-head", parser=parse.size, metavar="SIZE", help="Refuse a larger request line and headers (64kb)."
    ),
]
MaxBody = Annotated[
    int | None,
    typer.Option("--max-body", parser=parse.size, metavar="SIZE", help="Refuse a larger request body (64mb)."),
]
HeadTimeout = Annotated[
    float | None,
    typer.Option(
        "--head-timeout",
        parser=parse.duration,
        metavar="DURATION",
        help="Wait this long for a request's line and headers (60s).",
    ),
]
MaxHeld = Annotated[
    int | None,
    typer.Option(
        "--max-held", parser=parse.size, metavar="SIZE", help="Hold at most this much of all request bodies (1gb)."
    ),
]
SendTimeout = Annotated[
    float | None,
    typer.Option(
        "--send-timeout",
        parser=parse.duration,
        metavar="DURATION",
        help="Cut off a client that reads nothing of its response for this long (60s).",
    ),
]
RequestTimeout = Annotated[
    float | None,
    typer.Option(
        "--request-timeout", parser=parse.duration, metavar="DURATION", help="Wait this long for a whole request (5m)."
    ),
]


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
