"""AK-35: a real server process that resets idle sockets and says when. Nobody may notice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kabench.agent import AgentStatus, AsyncKeepAliveAgent, KeepAliveAgent
from tests.sockets import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

USERS = 60
ROUNDS = 4
EVERY_S = 3.0
SERVER = Path(__file__).parents[1] / "idle_resetting_server.py"


@pytest.fixture
def url() -> Iterator[str]:
    with subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/"
        server.terminate()


async def post_by_asyncio(url: str) -> AgentStatus:
    async with AsyncKeepAliveAgent() as agent:

        async def user(number: int) -> None:
            await asyncio.sleep(EVERY_S * number / USERS)
            for _ in range(ROUNDS):
                assert (await agent.request("POST", url, body=b"order")).data == b"ok"
                await asyncio.sleep(EVERY_S)

        await asyncio.gather(*(user(number) for number in range(USERS)))
        return agent.get_current_status()


def post_by_threads(url: str) -> AgentStatus:
    with KeepAliveAgent() as agent:

        def user(number: int) -> None:
            time.sleep(EVERY_S * number / USERS)
            for _ in range(ROUNDS):
                assert agent.request("POST", url, body=b"order", retries=False).data == b"ok"
                time.sleep(EVERY_S)

        failures = [outcome for outcome in in_threads(USERS, user) if outcome is not None]
        assert not failures, failures[:3]
        return agent.get_current_status()


def test_ak_35_a_server_that_resets_idle_sockets_and_says_when_costs_no_request(url: str) -> None:
    statuses: list[AgentStatus] = []
    threads = threading.Thread(target=lambda: statuses.append(post_by_threads(url)))
    threads.start()
    statuses.append(asyncio.run(post_by_asyncio(url)))
    threads.join()
    assert [status.request_count for status in statuses] == [USERS * ROUNDS] * 2
    for status in statuses:
        assert status.timeout_socket_count > 0  # the agent was the one who closed
        assert (status.error_socket_count, status.retry_count) == (0, 0)
