"""One worker's share of a plan. All shares of a number add up to it exactly, and differ by one at most.

A share follows from the worker's index alone, so workers need not speak to each other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kabench.agent import AgentOptions


@dataclass(frozen=True, slots=True)
class Share:
    """The share of worker `index` (from 0) of `workers`. Of numbered things: every `workers`-th from `index` on."""

    index: int = 0
    workers: int = 1

    def of(self, whole: int) -> int:
        """Return this worker's part of `whole`."""
        return whole // self.workers + (self.index < whole % self.workers)

    def of_options(self, options: AgentOptions) -> AgentOptions:
        """Return the options with this worker's part of each shared limit. The plan ensures that no part is 0."""
        parts: dict[str, Any] = {}  # by the names of options
        for name, option in options.described().items():
            limit = getattr(options, name)
            if option.is_shared and limit is not None:
                parts[name] = self.of(limit)
        return dataclasses.replace(options, **parts)
