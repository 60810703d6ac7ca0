"""`ProbeOptions`: which URL to probe, and with how much time and how many requests at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kabench.agent.aio.request import prepare

if TYPE_CHECKING:
    from kabench.agent import TlsOptions


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """What a probe sends: `method` (GET or HEAD) requests to `url`, with `headers`.

    It ends within `budget_s` seconds, and sends no more than `max_requests`.

    Raises `ValueError` for what makes no sense, or may not go on the wire.
    """

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    budget_s: float = 90.0
    max_requests: int = 200
    tls: TlsOptions | None = None

    LEAST_REQUESTS: ClassVar[int] = 10
    LEAST_BUDGET_S: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.method not in ("GET", "HEAD"):
            raise ValueError(f"method: {self.method!r}: a probe sends only GET or HEAD, which change nothing")
        if not (math.isfinite(self.budget_s) and self.budget_s >= self.LEAST_BUDGET_S):
            raise ValueError(f"budget: {self.budget_s:g} s; it takes {self.LEAST_BUDGET_S:g} s at least")
        if self.max_requests < self.LEAST_REQUESTS:
            raise ValueError(f"max requests: {self.max_requests}; it takes {self.LEAST_REQUESTS} at least")
        prepare(self.method, self.url, self.headers, None, keep_alive=True)
