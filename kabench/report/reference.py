"""The published benchmark's record, to be read beside a run of the same load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kabench.result import ResultError, load_result

if TYPE_CHECKING:
    from kabench.result import RunResult

_FILE = "agentkeepalive-published.json"
_PACKAGE = Path(__file__).parent.parent
_FOLDERS = (_PACKAGE / "_results", _PACKAGE.parent / "results")
"""Where an installed package has it, and where a checkout has it."""

_SAME_LOAD = ("concurrency", "requests", "delay_s")


def published_result() -> RunResult | None:
    """agentkeepalive's published figures; None if the file is not there."""
    for folder in _FOLDERS:
        try:
            return load_result(folder / _FILE)
        except ResultError:
            continue
    return None


def is_published_load(result: RunResult) -> bool:
    """Whether a run, other than the published one, makes the published load on kabench's own server."""
    published = published_result()
    if published is None or published.id == result.id or result.plan.get("url") is not None:
        return False
    ours, theirs = result.plan, published.plan
    same_sockets = (ours.get("agent_options") or {}).get("max_sockets") == theirs["agent_options"]["max_sockets"]
    return same_sockets and all(ours.get(name) == theirs[name] for name in _SAME_LOAD)
