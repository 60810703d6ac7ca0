"""`AgentStatus`: an agent's counters and pool at one moment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypedDict, cast


class AgentStatusDict(TypedDict):
    """What `AgentStatus.as_dict()` returns, ready for JSON."""

    create_socket_count: int
    create_socket_error_count: int
    close_socket_count: int
    timeout_socket_count: int
    error_socket_count: int
    stale_socket_count: int
    request_count: int
    retry_count: int
    free_sockets: dict[str, int]
    sockets: dict[str, int]
    requests: dict[str, int]
    closed_by: dict[str, int]


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """A snapshot of an agent's counters and pool.

    `create_socket_count` sockets were connected. `close_socket_count` of them were closed for whatever reason:
    `timeout_socket_count` by a free or active timeout, `error_socket_count` by another error; `closed_by` counts all of
    them by `CloseReason`. `stale_socket_count` requests met a stale socket, and `retry_count` of them were sent
    again; `request_count` responses were finished. `free_sockets`, `sockets` (active and connecting) and `requests`
    (pending) are by origin key, empty ones left out.
    """

    create_socket_count: int
    create_socket_error_count: int
    close_socket_count: int
    timeout_socket_count: int
    error_socket_count: int
    stale_socket_count: int
    request_count: int
    retry_count: int
    free_sockets: dict[str, int]
    sockets: dict[str, int]
    requests: dict[str, int]
    closed_by: dict[str, int]

    def as_dict(self) -> AgentStatusDict:
        """Return the same as a dict that `json.dumps` takes."""
        return cast("AgentStatusDict", dataclasses.asdict(self))
