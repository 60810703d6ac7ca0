"""One worker's share of a plan. All shares of a number add up to it exactly, and differ by one at most."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kabench.agent import AgentOptions


@dataclass(frozen=True, slots=True)
class Share:
    """The share of worker `index` (from 0) of `workers`: of numbered things, every `workers`-th from `index` on."""

    index: int = 0
    workers: int = 1

    def of(self, whole: int) -> int:
        """Its part of `whole`."""
        return whole // self.workers + (self.index < whole % self.workers)

    def _of_limit(self, whole: int | None) -> int | None:
        return None if whole is None else self.of(whole)

    def of_options(self, options: AgentOptions) -> AgentOptions:
        """The agent's options with its part of the limits. A part of at least one socket is the plan's to see to."""
        return dataclasses.replace(
            options,
            max_sockets=self._of_limit(options.max_sockets),
            max_total_sockets=self._of_limit(options.max_total_sockets),
            max_free_sockets=max(1, self.of(options.max_free_sockets)),
        )
