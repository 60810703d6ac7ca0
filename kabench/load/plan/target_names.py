"""`TargetNames`: the names under which the targets of a load are counted, so that similar URLs count together.

A target that was given no name has its method and path, with what changes from one request to the next taken out:
`GET /items/{}`. The names follow from the plan alone, so all workers agree on them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kabench.load.plan.templates import in_place_of_placeholders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.load.plan.targets import LoadTarget

MOST_TARGETS = 200
"""Figures are kept for at most this many targets; all further ones count together, as `OTHER`."""

OTHER = "other"

_CHANGING = "{}"
_NUMBER = r"[0-9]+"
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_HEXADECIMAL = r"[0-9a-fA-F]{8,}"
_LONG_MIXED = r"(?=[A-Za-z_~-]*[0-9])(?=[0-9_~-]*[A-Za-z])[A-Za-z0-9_~-]{16,}"
_CHANGING_SEGMENT = re.compile(
    rf"(?<=/)(?:{_UUID}|{_NUMBER}|{_HEXADECIMAL}|{_LONG_MIXED})(?=/|$|\.[A-Za-z][A-Za-z0-9]{{0,7}}(?:/|$))",
    re.ASCII,
)
"""A whole segment of a path, except for a file's ending: a number, a UUID (RFC 9562), eight or more hexadecimal digits,
or sixteen or more characters with both letters and digits."""


def without_changing_parts(path: str) -> str:
    """Return a path with `{}` in place of each segment that names one thing of many."""
    return _CHANGING_SEGMENT.sub(_CHANGING, path)


class TargetNames:
    """The names of a plan's targets: `all` of them, in order, and `numbers`, which has the place of each target's name.

    Paths are enough where all targets have the same origin; otherwise whole URLs stand in the names.
    """

    def __init__(self, targets: Sequence[LoadTarget], *, templates: bool) -> None:
        origins = {target.url.split("/", 3)[2] for target in targets}
        self.all: list[str] = []
        self.numbers: list[int] = []
        places: dict[str, int] = {}
        for target in targets:
            name = target.name or _made_name(target, templates=templates, has_origin=len(origins) > 1)
            if name not in places:
                if len(self.all) >= MOST_TARGETS:
                    name = OTHER
                if name not in places:
                    places[name] = len(self.all)
                    self.all.append(name)
            self.numbers.append(places[name])


def _made_name(target: LoadTarget, *, templates: bool, has_origin: bool) -> str:
    url = in_place_of_placeholders(target.url, _CHANGING) if templates else target.url
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if has_origin else ""
    return f"{target.method or 'GET'} {origin}{without_changing_parts(parts.path or '/')}"
