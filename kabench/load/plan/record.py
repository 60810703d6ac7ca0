"""A plan as a record may hold it: no secrets, and no more of long bodies and lists than tells them apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from kabench.redaction import redacted_headers, redacted_text, redacted_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.load.plan.plan import LoadPlan
    from kabench.load.plan.targets import LoadTarget

_LONGEST_BODY = 2048
_LOOKED_AT_BYTES = 4 * _LONGEST_BODY
_LONGEST_LIST = 20


def redacted_plan(fields: dict[str, Any], plan: LoadPlan) -> dict[str, Any]:  # JSON
    """The fields of a plan, as JSON has them, for its record."""
    return fields | {
        "url": None if plan.url is None else redacted_url(plan.url),
        "headers": redacted_headers(plan.headers),
        "stages": list(fields["stages"]),
        "expect_status": list(plan.expect_status),
        "data": _text(plan.data),
        "data_lines": _cut([_text(line) for line in plan.data_lines], plan.data_lines),
        "targets": _cut([_target(target) for target in plan.targets], plan.targets),
        "expect_body": None if plan.expect_body is None else _text(plan.expect_body),
    }


def _target(target: LoadTarget) -> dict[str, Any]:  # JSON
    return {
        "url": redacted_url(target.url),
        "method": target.method,
        "headers": redacted_headers(target.headers),
        "body": None if target.body is None else _text(target.body),
        "weight": target.weight,
    }


def _text(body: bytes) -> str:
    shown = redacted_text(body[:_LOOKED_AT_BYTES].decode("utf-8", "replace"))
    shown = shown if len(body) <= _LONGEST_BODY else shown[:_LONGEST_BODY]
    return shown if len(body) <= _LONGEST_BODY else f"{shown}... [{len(body)} bytes, {_digest(body)}]"


def _cut(shown: list[Any], things: Sequence[object]) -> list[Any]:  # JSON
    if len(shown) <= _LONGEST_LIST:
        return shown
    return [*shown[:_LONGEST_LIST], f"... [{len(shown)} in all, {_digest(repr(things).encode())}]"]


def _digest(data: bytes) -> str:
    return f"SHA-256 {hashlib.sha256(data).hexdigest()[:16]}"
