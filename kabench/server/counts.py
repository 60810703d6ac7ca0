"""What the server has seen and sent: the other side of a client's figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ServerCounts:
    """Counters of the echo server since it started. Bytes are body bytes."""

    sockets: int = 0
    """accepted"""
    requests: int = 0
    """received whole"""
    responses: int = 0
    """written"""
    bad_requests: int = 0
    """answered with 400: no HTTP, or a query that makes no sense"""
    idle_closes: int = 0
    """sockets closed after `idle_timeout_s`"""
    request_body_bytes: int = 0
    response_body_bytes: int = 0
