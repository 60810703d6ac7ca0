"""From the text of options to values. What is wrong is a `CommandError` that names the option."""

from __future__ import annotations

from pathlib import Path

import typer

from kabench.cli.errors import CommandError


def duration(text: str) -> float:
    """A duration in seconds from `250ms`, `5s`, `1.5m` or plain seconds, for typer."""
    from kabench.agent.options import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def headers(given: list[str]) -> tuple[tuple[str, str], ...]:
    """Headers from `Name: value`."""
    pairs = []
    for text in given:
        name, colon, value = text.partition(":")
        if not colon:
            raise CommandError(f"--header {text!r}: there is no colon; write 'Name: value'")
        pairs.append((name.strip(), value.strip()))
    return tuple(pairs)


def data(text: str) -> bytes:
    """A body from text, or from the file that `@file` names."""
    if not text.startswith("@"):
        return text.encode()
    path = Path(text[1:])
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"--data {text}: {error.strerror}") from None
