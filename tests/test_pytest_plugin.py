from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kabench import LoadPlan
from kabench.pytest_plugin import EchoServer, Kabench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("kabench"))
    yield server
    server.stop()


def test_it_costs_nothing_until_it_is_asked_for() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import kabench.pytest_plugin; print(*set(sys.modules) - before)"
    )
    added = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(added) == ["kabench", "kabench.pytest_plugin", "kabench.version"]


def test_no_server_is_started_until_it_is_asked_for(tmp_path: Path) -> None:
    server = EchoServer(tmp_path)
    server.stop()
    assert server._servers == {}


def test_load_over_http_is_counted_by_both_sides(kabench: Kabench, server: EchoServer) -> None:
    before = server.counts()
    result = kabench.run(url=server.url, requests=5, concurrency=4, method="GET", data=b"")
    assert result.runs[0].transactions == 20
    assert server.counts().requests - before.requests == 20


def test_load_over_https_is_verified_by_its_own_authority(kabench: Kabench, server: EchoServer) -> None:
    result = kabench.run(LoadPlan(url=server.https_url, cacert=server.cacert, requests=5, concurrency=4))
    assert result.runs[0].availability_pct == 100
    assert result.runs[0].sockets.tls_handshakes == 4


def test_a_plan_and_fields_are_one_too_many(kabench: Kabench) -> None:
    with pytest.raises(TypeError, match="give a plan, or requests, not both"):
        kabench.run(LoadPlan(), requests=5)


def test_the_echo_server_answers_when_its_path_says(kabench: Kabench, server: EchoServer) -> None:
    result = kabench.run(url=server.url + "30", requests=2, concurrency=1, method="GET", data=b"")
    assert 0.03 <= (result.runs[0].response_time_s.min or 0) < 0.3
