"""The system's limit of open files: a load without `--max-sockets` keeps within it, and is told if that held it up."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from kabench.agent.urls import parse_url
from kabench.cli.errors import CommandError
from kabench.load.plan.templates import without_placeholders
from kabench.system.limits import most_open_sockets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kabench.load import LoadPlan

_WAITED_S = 0.001
"""Waiting for a socket shorter than this is the event loop's, not a limit's."""


def within_open_files(plan: LoadPlan, *, is_given: bool) -> LoadPlan:
    """Return a plan whose workers can open all their sockets.

    If the user gave `--max-sockets` and they cannot, raise `CommandError`; else that limit becomes what is possible.
    """
    allowed = most_open_sockets()
    wanted = _wanted(plan)
    if allowed is None or wanted <= allowed:
        return plan
    if is_given:
        raise CommandError(
            f"--max-sockets: a worker needs {wanted} sockets, and the system lets a process have {allowed}; raise its "
            "limit of open files (ulimit -Hn), or use more --workers"
        )
    options = dataclasses.replace(plan.agent_options, max_sockets=_possible(plan, allowed))
    return dataclasses.replace(plan, agent_options=options)


def held_up(plan: LoadPlan, given: int | None, waits_s: Iterable[float | None]) -> str | None:
    """Return, in words, that the limit of open files held the load up, or None if it did not.

    `given` is the user's `--max-sockets`, `waits_s` are times for which requests waited for a socket.
    """
    allowed = most_open_sockets()
    if given is not None or allowed is None or plan.agent_options.max_sockets != _possible(plan, allowed):
        return None
    if not any(wait_s is not None and wait_s > _WAITED_S for wait_s in waits_s):
        return None
    return (
        f"requests waited for a socket: the system lets a process have {allowed} of them; raise its limit of open "
        "files (ulimit -Hn), or use more --workers"
    )


def _possible(plan: LoadPlan, allowed: int) -> int:
    """Return the most sockets for each origin that the workers can open together."""
    return max(plan.workers, allowed * plan.workers // _origins(plan))


def _wanted(plan: LoadPlan) -> int:
    """Return how many sockets a worker may have at once."""
    at_once = plan.max_in_flight if plan.is_open else int(plan.most)
    per_origin, of_all = plan.agent_options.max_sockets, plan.agent_options.max_total_sockets
    limits = (at_once, None if per_origin is None else per_origin * _origins(plan), of_all)
    return -(-min(limit for limit in limits if limit is not None) // plan.workers)


def _origins(plan: LoadPlan) -> int:
    urls = (without_placeholders(target.url) for target in plan.targets_for("http://127.0.0.1/"))
    return len({parse_url(url).origin for url in urls})
