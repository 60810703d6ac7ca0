"""Parsers from an option's text to its value. A wrong text raises a `CommandError` that names the option."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kabench.cli.errors import CommandError
from kabench.cli.standard_input import read_input
from kabench.text_files import EncodingError, without_mark

if TYPE_CHECKING:
    from kabench.server import Fault


def duration(text: str) -> float:
    """Return seconds from `250ms`, `5s`, `1.5m` or plain seconds, for typer."""
    from kabench.agent.options import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


_BYTES_PER_UNIT = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmg]?b?)", re.IGNORECASE)


def size(text: str | int) -> int:
    """Return bytes from `10kb`, `64mb` or a plain number, for typer. A kb is 1024 bytes."""
    match = _SIZE.fullmatch(str(text).strip())
    unit = match[2].lower() if match is not None else ""
    if match is None or unit not in _BYTES_PER_UNIT:
        raise typer.BadParameter(f"{text!r} is no size (try '10kb', '64mb' or plain bytes)")
    return int(float(match[1]) * _BYTES_PER_UNIT[unit])


def fault(text: str | Fault) -> Fault:
    """Return a fault of the echo server, for typer."""
    from kabench.faults import FaultError, parse_fault

    try:
        return parse_fault(str(text))
    except FaultError as error:
        raise typer.BadParameter(str(error)) from None


_SECONDS_PER_RATE_UNIT = {"": 1.0, "s": 1.0, "m": 60.0}


def rate(text: str | float) -> float:
    """Return requests/s from `2000/s`, `120/m` or a plain number, for typer."""
    number, _, unit = str(text).strip().partition("/")
    try:
        value = float(number) / _SECONDS_PER_RATE_UNIT[unit.strip()]
    except (ValueError, KeyError):
        raise typer.BadParameter(f"{text!r} is no rate (try '2000/s', '120/m' or plain requests a second)") from None
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{text!r} is no finite rate of 0 or more")
    return value


@dataclass(frozen=True, slots=True)
class GivenStage:
    """A stage as the user writes it. `is_rate` says that the level ends in `/s` or `/m`."""

    duration_s: float
    level: float
    is_rate: bool


def stage(text: str) -> GivenStage:
    """Return a stage from `10s:500`, `10s:500/s` or `1m:60/m`, for typer."""
    time_text, colon, level_text = text.partition(":")
    if not colon:
        raise typer.BadParameter(f"{text!r} is no stage (try '10s:500')")
    return GivenStage(duration(time_text), rate(level_text), "/" in level_text)


def percent(option: str, text: str) -> float:
    """Return a share from `5%`, as a part of 1."""
    from kabench.comparison.thresholds import ThresholdError, parse_share

    try:
        return parse_share(text, text)
    except ThresholdError as error:
        raise CommandError(f"{option} {error}") from None


AUTO = 0
"""Stands for as many workers as there are cores for."""


def workers(text: str | int) -> int:
    """Return a number of workers, or `AUTO` from `auto`, for typer."""
    if text == "auto":
        return AUTO
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise typer.BadParameter(f"{text!r} is neither 'auto' nor a number of processes above 0")
    return number


def headers(given: list[str]) -> tuple[tuple[str, str], ...]:
    """Return headers from texts such as `Name: value`."""
    pairs = []
    for text in given:
        name, colon, value = text.partition(":")
        if not colon:
            begins = text.split()[0] if text.split() else ""  # what follows may be secret
            raise CommandError(f"--header '{begins} ...': there is no colon; write 'Name: value'")
        pairs.append((name.strip(), value.strip()))
    return tuple(pairs)


def data(text: str) -> bytes:
    """Return a body from text, or from the file that `@file` names; `@-` is standard input."""
    if not text.startswith("@"):
        return text.encode()
    return file_bytes("--data", Path(text[1:]), shown=text)


def file_bytes(option: str, path: Path, shown: str | None = None) -> bytes:
    """Return the bytes of a file that an option names. Errors show it as `shown`, the way the user wrote it."""
    try:
        return read_input(path)
    except OSError as error:
        raise CommandError(f"{option} {shown or path}: {error.strerror}") from None


def text_bytes(option: str, path: Path) -> bytes:
    """Return the bytes of a text file that an option names, without a byte order mark."""
    try:
        return without_mark(file_bytes(option, path))
    except EncodingError as error:
        raise CommandError(f"{option} {path}: {error}") from None


_LINE_END = re.compile(r"\r\n|\n|\r")
"""Others that `str.splitlines` knows, such as U+2028, may stand inside JSON's texts."""


def file_lines(option: str, path: Path) -> list[str]:
    """Return the lines of a text file that an option names."""
    try:
        return _LINE_END.split(text_bytes(option, path).decode())
    except UnicodeDecodeError as error:
        raise CommandError(f"{option} {path}: not a text in UTF-8 ({error.reason})") from None


def address(option: str, text: str, default_port: int) -> tuple[str, int]:
    """Return a host and a port from `HOST[:PORT]`, IPv6 in brackets. Raises `CommandError`."""
    from kabench.agent.urls import parse_address

    if text.isdigit():
        raise CommandError(f"{option}: {text!r} is only a port; name a host, as in 127.0.0.1:{text}")
    try:
        has_port = ":" in text.rpartition("]")[2]
        host, port = parse_address(text if has_port else f"{text}:{default_port}")
    except ValueError as error:
        raise CommandError(f"{option}: {error}") from None
    return f"[{host}]" if ":" in host else host, port
