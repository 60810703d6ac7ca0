"""`LoadTarget`: a request to be sent, and how lists of them are read from lines of a file.

Which target is sent when is decided in `source`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from kabench.agent.aio.request import prepare
from kabench.load.plan.templates import check_placeholders, without_blanks, without_placeholders

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTarget:
    """Where a request goes, and what it is. A field that is None is as the plan says; `headers` come after the plan's.

    Of several targets, one with twice the `weight` is chosen twice as often. Targets with the same `name` count
    together; `target_names` makes one for those without.
    """

    url: str
    method: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    weight: float = 1.0
    name: str | None = None


def check_target(target: LoadTarget, *, templates: bool) -> None:
    """Raise `ValueError` or `TypeError` for a target that cannot be sent."""
    url, body = target.url, target.body
    if templates:
        check_placeholders(url.encode())
        check_placeholders(body or b"")
        url = without_placeholders(url)
        body = None
    prepare(target.method or "GET", url, target.headers, body, keep_alive=True)
    if target.name is not None and not (target.name.strip() and target.name.isprintable()):
        raise ValueError(f"{target.url}: its name {target.name!r} is empty, or cannot be printed")
    if not (math.isfinite(target.weight) and target.weight > 0):
        raise ValueError(f"{target.url}: its weight {target.weight:g} is not above 0")


def read_urls(lines: Iterable[str]) -> tuple[LoadTarget, ...]:
    """Read targets from lines with a URL each, and perhaps a weight before it. Empty and `#` lines are skipped.

    Raises `ValueError`, naming the line.
    """
    targets = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        first, *rest = text.split(maxsplit=1)
        weight, url = 1.0, text
        if rest and "://" not in first:
            (url,) = rest
            try:
                weight = float(first)
            except ValueError:
                raise ValueError(f"line {number}: the weight {first!r} is not a number") from None
        if len(without_blanks(url).split()) > 1:
            raise ValueError(f"line {number}: {text!r} is more than a weight and a URL")
        targets.append(_checked(LoadTarget(url=url, weight=weight), number))
    return _not_empty(targets)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a request file."""

    url: str
    method: str | None = None
    headers: dict[str, str] = {}
    body: msgspec.Raw = msgspec.Raw(b"null")
    weight: float = 1.0
    name: str | None = None


def read_requests(lines: Iterable[str]) -> tuple[LoadTarget, ...]:
    """Read targets from JSON lines, each with `url`, `method`, `headers`, `body`, `weight` and `name`.

    A body is text, or JSON to be sent as it is. A target with a body and no method is a POST. Empty and `#`
    lines are skipped.

    Raises `ValueError`, naming the line.
    """
    targets = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            given = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number}: {error}") from None
        body = _body(bytes(given.body))
        method = given.method or ("POST" if body is not None else None)
        target = LoadTarget(
            url=given.url,
            method=method and method.upper(),
            headers=tuple(given.headers.items()),
            body=body,
            weight=given.weight,
            name=given.name,
        )
        targets.append(_checked(target, number))
    return _not_empty(targets)


def _body(given: bytes) -> bytes | None:
    """Return the body that is meant: the characters of a text, none for null, any other JSON as it stands."""
    if given == b"null":
        return None
    return msgspec.json.decode(given, type=str).encode() if given.startswith(b'"') else given


def _checked(target: LoadTarget, number: int) -> LoadTarget:
    try:
        check_target(target, templates=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"line {number}: {error}") from None
    return target


def _not_empty(targets: list[LoadTarget]) -> tuple[LoadTarget, ...]:
    if not targets:
        raise ValueError("there is no request in it")
    return tuple(targets)
