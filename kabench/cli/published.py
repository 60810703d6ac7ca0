"""Reads the published benchmark's record, which a report shows beside a run of the same load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kabench.result import ResultError, load_result

if TYPE_CHECKING:
    from kabench.result import RunResult

_FILE = "agentkeepalive-published.json"
_PACKAGE = Path(__file__).parent.parent
_FOLDERS = (_PACKAGE / "_results", _PACKAGE.parent / "results")
"""The folder of an installed package, and that of a checkout."""


def published_result() -> RunResult | None:
    """Return agentkeepalive's published figures, or None if their file is missing."""
    for folder in _FOLDERS:
        try:
            return load_result(folder / _FILE)
        except ResultError:
            continue
    return None
