"""Placeholders in URLs and bodies, which are filled in anew for each request.

| placeholder | what stands there |
| --- | --- |
| `{{counter}}` | the number of the request, from 0; no two requests of an agent have the same |
| `{{random}}` | a random whole number from 0 to 999999999 |
| `{{random:A-B}}` | a random whole number from A to B |
| `{{uuid}}` | a random UUID (RFC 9562 section 5.4) |

All placeholders of a request get the same counter. A template is text that was cut at its placeholders, so filling it
in is joining pieces. Nothing in a template is code.
"""

from __future__ import annotations

import random
import re
import uuid
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

_PLACEHOLDER = re.compile(rb"\{\{\s*([^{}]*?)\s*\}\}")
_RANDOM_BETWEEN = re.compile(r"random:(\d{1,18})-(\d{1,18})", re.ASCII)
_HIGHEST_RANDOM = 999_999_999

Slot: TypeAlias = "Callable[[int], bytes]"
"""Returns what stands at a placeholder, by the number of the request."""


class TemplateError(ValueError):
    """There is no such placeholder, or it stands where none may."""


def _slot(name: str, random_source: random.Random) -> Slot:
    if name == "counter":
        return lambda number: b"%d" % number
    if name == "uuid":
        return lambda _: str(uuid.UUID(int=random_source.getrandbits(128), version=4)).encode()
    low, high = 0, _HIGHEST_RANDOM
    if name != "random":
        bounds = _RANDOM_BETWEEN.fullmatch(name)
        if bounds is None:
            raise TemplateError(
                f"{{{{{name}}}}} is no placeholder; there are {{{{counter}}}}, {{{{random}}}}, {{{{random:1-9}}}} and "
                "{{uuid}}"
            )
        low, high = int(bounds[1]), int(bounds[2])
        if low > high:
            raise TemplateError(f"{{{{{name}}}}}: {low} is above {high}")
    return lambda _: b"%d" % random_source.randint(low, high)


def check_placeholders(text: bytes) -> None:
    """Raise `TemplateError` if the text has a placeholder that does not exist."""
    for name in _PLACEHOLDER.findall(text):
        _slot(name.decode("utf-8", "replace"), random.Random(0))


def without_placeholders(url: str) -> str:
    """Return a URL with a digit in place of each placeholder. Raises `TemplateError` for one before the path."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "{{" in scheme or "{{" in authority:
        raise TemplateError(f"{url!r}: a placeholder may stand only in the path or the query")
    return in_place_of_placeholders(url, "0")


def in_place_of_placeholders(text: str, stand_in: str) -> str:
    """Return a text with `stand_in` at each placeholder."""
    return _PLACEHOLDER.sub(stand_in.encode(), text.encode()).decode()


def without_blanks(text: str) -> str:
    """Return a text with its placeholders emptied, because blanks may stand in them."""
    return in_place_of_placeholders(text, "{{}}")


class Template:
    """Bytes with placeholders, which `fill` fills in."""

    def __init__(self, pieces: list[bytes], slots: list[Slot]) -> None:
        self._pieces = pieces
        self._slots = slots

    @classmethod
    def of(cls, text: bytes, random_source: random.Random) -> Template:
        """Make a template of `text`. Raises `TemplateError`."""
        cut = _PLACEHOLDER.split(text)
        return cls(cut[::2], [_slot(name.decode("utf-8", "replace"), random_source) for name in cut[1::2]])

    @property
    def is_constant(self) -> bool:
        """Whether nothing is to be filled in."""
        return not self._slots

    def joined_by(self, mark: bytes) -> bytes:
        """Return the text with `mark` at each placeholder."""
        return mark.join(self._pieces)

    def in_place_of(self, mark: bytes, text: bytes) -> Template:
        """Return a template of `text` with these placeholders in place of its marks."""
        return Template(text.split(mark), self._slots)

    def fill(self, number: int) -> bytes:
        """Return the bytes for the request with this number."""
        filled = [self._pieces[0]]
        for slot, piece in zip(self._slots, self._pieces[1:], strict=True):
            filled += (slot(number), piece)
        return b"".join(filled)
