"""The scenarios, each run headless as its first lines say, against the echo server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.distributed.locusts import SCENARIOS, Locusts, needs_locust
from tests.load.loads import in_histogram, told

if TYPE_CHECKING:
    from kabench.server import EmbeddedServer

pytestmark = needs_locust

AGENTS = {
    "keepalive": ["KeepAliveUser", "PlainUser"],
    "own_agent": ["SeparateUser"],
    "mixed": ["Visitor"],
    "ramp": ["EchoUser"],
}


def test_there_is_a_test_for_each() -> None:
    assert {path.stem for path in SCENARIOS.glob("*.py")} == set(AGENTS)


@pytest.mark.parametrize("name", AGENTS)
def test_a_scenario_runs_as_it_stands(name: str, locusts: Locusts, slow_server: EmbeddedServer) -> None:
    command = re.search(r"^ +locust -f scenarios/(\w+)\.py (.+)$", (SCENARIOS / f"{name}.py").read_text(), re.MULTILINE)
    assert command is not None
    assert command[1] == name
    assert "--headless" in command[2]
    options = ["--headless", "-u", "8", "-r", "8", "-t", "3s", "-s", "5", "--host", slow_server.url]
    process = locusts.locust(SCENARIOS / f"{name}.py", *options)
    assert process.end() == 0, process.err
    result = locusts.record()
    assert [run.agent for run in result.runs] == AGENTS[name]
    assert result.name == name
    counts = slow_server.counts()
    assert sum(run.transactions for run in result.runs) == counts.requests >= 8
    assert told(*(run.sockets.created for run in result.runs)) == counts.sockets
    assert told(*(run.sockets.requests for run in result.runs)) == counts.requests
    for run in result.runs:
        assert in_histogram(run, "total") == run.transactions == run.successful_transactions
        assert f"[kabench:{run.transactions}] {run.agent}, {run.sockets.created} created" in process.out
    assert "failed 0.00%" in process.out
    assert re.search(r"^Record: results/\S+\.json$", process.out, re.MULTILINE)


def test_a_ramp_without_a_number_of_users_goes_up_to_200(locusts: Locusts, slow_server: EmbeddedServer) -> None:
    options = ["--headless", "-t", "3s", "-s", "5", "--host", slow_server.url]
    assert locusts.locust(SCENARIOS / "ramp.py", *options).end() == 0
    (run,) = locusts.record().runs
    assert run.sockets.created == 100  # those of its agent


def test_each_user_of_its_own_agent_keeps_one_socket(locusts: Locusts, slow_server: EmbeddedServer) -> None:
    options = ["--headless", "-u", "3", "-r", "3", "-t", "2s", "-s", "5", "--host", slow_server.url]
    assert locusts.locust(SCENARIOS / "own_agent.py", *options).end() == 0
    (run,) = locusts.record().runs
    assert run.sockets.created == 3
    assert run.sockets.closed == 3  # on_stop
