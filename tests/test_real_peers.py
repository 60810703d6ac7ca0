"""kabench against programs it was not written together with: nginx as a server, wrk as a client."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from kabench import LoadPlan, run
from kabench.agent import AgentOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kabench.server import EmbeddedServer

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (apt: nginx-light)")
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (apt: wrk)")

CONFIG = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format sockets "$connection $connection_requests $status $body_bytes_sent";
  access_log {folder}/access.log sockets; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {settings}
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello"; }} location /moved {{ return 302 /; }} }}
}}
"""


class Nginx:
    """A running nginx; its log has a line a request: socket number, requests on it, status, body bytes."""

    def __init__(self, folder: Path, settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder = folder
        (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=self.port, settings=settings))
        self._process = subprocess.Popen(["nginx", "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"])
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError("nginx did not start")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def stop(self) -> list[tuple[int, ...]]:
        """End it; the lines of its log."""
        self._process.terminate()
        self._process.wait(10)
        lines = (self._folder / "access.log").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines]


@pytest.fixture
def nginx_that_closes_after_20_requests(tmp_path: Path) -> Iterator[Nginx]:
    server = Nginx(tmp_path, "keepalive_requests 20; keepalive_timeout 2s;")
    yield server
    server.stop()


@needs_nginx
@pytest.mark.parametrize("agent", ["keepalive", "plain"])
def test_nginx_counts_what_kabench_counts(nginx_that_closes_after_20_requests: Nginx, agent: str) -> None:
    nginx = nginx_that_closes_after_20_requests
    plan = LoadPlan(
        url=nginx.url, method="GET", data=b"", concurrency=12, total=500, agent_options=AgentOptions(max_sockets=5)
    )
    (measured,) = run(plan, [agent]).runs
    log = nginx.stop()
    assert measured.availability_pct == 100.0
    assert measured.transactions == len(log) == 500
    assert measured.sockets.created == len({connection for connection, *_ in log})
    assert measured.data_transferred_bytes == sum(size for *_, size in log) == 500 * len("hello")
    assert max(requests for _, requests, *_ in log) == (20 if agent == "keepalive" else 1)


@needs_nginx
def test_a_redirect_is_what_it_is(nginx_that_closes_after_20_requests: Nginx) -> None:
    plan = LoadPlan(url=nginx_that_closes_after_20_requests.url + "moved", method="GET", data=b"", total=10)
    (measured,) = run(plan, ["keepalive"]).runs
    assert measured.status_codes == {"302": 10}
    assert measured.failed_transactions == 0


@needs_wrk
def test_the_echo_server_answers_wrk_without_an_error(echo_server: EmbeddedServer) -> None:
    finished = subprocess.run(
        ["wrk", "-t1", "-c20", "-d1s", f"{echo_server.url}1?size=300"], capture_output=True, text=True, check=True
    )
    assert "Non-2xx" not in finished.stdout
    assert "Socket errors" not in finished.stdout
    match = re.search(r"(\d+) requests in", finished.stdout)
    assert match is not None
    counts = echo_server.counts()
    assert counts.sockets in (20, 21)  # wrk tries the address first
    assert 0 <= counts.responses - int(match[1]) <= 20  # those under way when wrk stopped
