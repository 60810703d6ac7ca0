from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kabench.server import EmbeddedServer, ServerOptions
from tests.distributed.locusts import Locusts, locusts_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def locusts(tmp_path: Path) -> Iterator[Locusts]:
    """Starts locust and kabench in a folder of the test's own."""
    with locusts_in(tmp_path) as started:
        yield started


@pytest.fixture
def slow_server() -> Iterator[EmbeddedServer]:
    """A server that answers after 4 ms, so that users who do not wait leave the machine to others."""
    with EmbeddedServer(ServerOptions(delay_s=0.004)) as server:
        yield server
