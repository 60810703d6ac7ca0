"""`ServerOptions`: how the delayed echo server behaves."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Self

from kabench.http1.client_limits import ClientLimits
from kabench.published import PUBLISHED_DELAY_S
from kabench.server.faults import Fault, FaultKind, check_rates


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of the delayed echo server; times in seconds.

    The server waits `delay_s` before each answer to a path that names no delay. `keep_alive_hint` is sent as
    `Keep-Alive: timeout=N`. A socket that is idle for `idle_timeout_s` is closed (None: never), one that has carried
    `max_requests_per_socket` is closed with the last answer. Port 0 takes any free one. `tls`: it speaks https, with
    the certificate and key in `cert_file` and `key_file` (PEM), or a throw-away one of its own making. `faults` are
    what it does wrong on purpose, drawn from `seed`. With a `counts_file`, its counts are kept there, and outlive it.

    Raises `ValueError` for a value out of range.
    """

    host: str = "127.0.0.1"
    port: int = 0
    delay_s: float = PUBLISHED_DELAY_S
    keep_alive: bool = True
    keep_alive_hint: int | None = None
    idle_timeout_s: float | None = None
    max_requests_per_socket: int | None = None
    tls: bool = False
    cert_file: str | None = None
    key_file: str | None = None
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    counts_file: str | None = None
    limits: ClientLimits = field(default_factory=ClientLimits)

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("no host to listen on; 0.0.0.0 or :: is every address of this machine")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 0 and 65535")
        if not math.isfinite(self.delay_s) or self.delay_s < 0:
            raise ValueError(f"delay {self.delay_s} is not a finite, non-negative duration")
        if self.keep_alive_hint is not None and self.keep_alive_hint < 0:
            raise ValueError(f"keep-alive hint {self.keep_alive_hint} is below 0")
        if self.idle_timeout_s is not None and not (math.isfinite(self.idle_timeout_s) and self.idle_timeout_s > 0):
            raise ValueError(f"idle timeout {self.idle_timeout_s} is not above 0")
        if self.max_requests_per_socket is not None and self.max_requests_per_socket < 1:
            raise ValueError(f"maximum requests per socket {self.max_requests_per_socket} is below 1")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("a key goes with a certificate; give both")
        if self.cert_file is not None and not self.tls:
            raise ValueError("a certificate is for a server that speaks TLS; ask for that too")
        check_rates(self.faults)

    def as_json(self) -> dict[str, Any]:
        """Return names and values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Self:
        """Return the options that `as_json` was called on."""
        faults = tuple(Fault(**{**each, "kind": FaultKind(each["kind"])}) for each in given.pop("faults", ()))
        limits = ClientLimits(**given.pop("limits", {}))
        return cls(**given, faults=faults, limits=limits)
