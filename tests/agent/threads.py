"""What the tests of the threaded agents share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from urllib3 import Retry

from kabench.agent.sync.pool import as_adapter_default

if TYPE_CHECKING:
    import urllib3

    from kabench.agent.sync.response import AgentResponse


ONCE = as_adapter_default(Retry(False))
"""As `retries=False`, but that it leaves the agent's own second attempt (AK-34), as an adapter's does."""


def get(agent: urllib3.PoolManager, url: str, **options: Any) -> AgentResponse:
    """A GET with urllib3's own retries."""
    return cast("AgentResponse", agent.request("GET", url, **options))


def get_once(agent: urllib3.PoolManager, url: str, **options: Any) -> AgentResponse:
    """A GET that urllib3 does not send again by itself, which would hide what the agent does."""
    return get(agent, url, **{"retries": ONCE, **options})
