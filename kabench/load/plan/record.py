"""A plan as a record may hold it: without secrets, and of long bodies and lists only as much as tells them apart.

Each function takes the value of a field; which field needs which stands in `LoadPlan`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from kabench.redaction import redacted_headers, redacted_text, redacted_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.load.plan.targets import LoadTarget

_LONGEST_BODY = 2048
_LOOKED_AT_BYTES = 4 * _LONGEST_BODY
_LONGEST_LIST = 20


def recorded_url(given: str | None) -> str | None:
    """Return a URL without secrets."""
    return None if given is None else redacted_url(given)


def recorded_text(body: bytes | None) -> str | None:
    """Return a body as text, without secrets. A long one is cut; its length and digest tell it from others."""
    return None if body is None else _text(body)


def recorded_texts(bodies: Sequence[bytes]) -> list[Any]:  # JSON
    """Return the first of many bodies as `recorded_text` does, and how many there are."""
    return _cut([_text(body) for body in bodies], bodies)


def recorded_targets(given: Sequence[LoadTarget]) -> list[Any]:  # JSON
    """Return the first of many targets, and how many there are."""
    return _cut([_target(target) for target in given], given)


def _target(target: LoadTarget) -> dict[str, Any]:  # JSON
    return {
        "url": redacted_url(target.url),
        "method": target.method,
        "headers": redacted_headers(target.headers),
        "body": recorded_text(target.body),
        "weight": target.weight,
        "name": target.name,
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
