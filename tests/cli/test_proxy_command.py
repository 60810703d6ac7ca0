"""`kabench proxy` and the faults of `kabench serve` as their users meet them: processes, driven by siege."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_command_line import kabench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kabench.server import EmbeddedServer

needs_siege = pytest.mark.skipif(shutil.which("siege") is None, reason="siege is not installed (apt: siege)")

USERS, REQUESTS, SOCKETS = 60, 40, 50


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that listens, and where."""
    command = [sys.executable, "-m", "kabench", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.]+:\d+/", process.stdout.readline())
            assert found is not None
            yield process, found[0]
        finally:
            if process.poll() is None:
                process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()  # some of it may have been read already
    assert process.wait(30) == 0
    assert "Traceback" not in err
    return out, err


def siege(url: str, folder: Path) -> dict[str, float]:
    settings = folder / "siegerc"
    settings.write_text("connection = keep-alive\nlogging = false\nlimit = 255\n")
    command = ["siege", "-R", str(settings), "-q", "-j", "-b", "-c", str(USERS), "-r", str(REQUESTS), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return {name: float(value) for name, value in re.findall(r'"(\w+)":\s*([\d.]+)', done.stdout)}


def status_at(url: str) -> dict[str, dict[str, object]]:
    with urllib.request.urlopen(f"{url}-/status", timeout=10) as response:
        status: dict[str, dict[str, object]] = json.loads(response.read())
        return status


@needs_siege
def test_siege_s_requests_share_50_sockets_and_none_fails(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    with running("proxy", echo_server.url, "--port", "0", "--every", "200ms") as (process, url):
        for agent, path in (("keepalive", "post/k/5"), ("normal", "post/5")):
            seen = siege(url + path, tmp_path)
            status = status_at(url)[agent]
            assert seen["failed_transactions"] == 0
            assert seen["transactions"] == status["request_count"] == USERS * REQUESTS
            created = status["create_socket_count"]
            assert created == SOCKETS if agent == "keepalive" else SOCKETS < int(str(created)) <= USERS * REQUESTS
        assert echo_server.counts().requests == 2 * USERS * REQUESTS
        out, _ = ended(process)
    last = out.rpartition("[kabench:2400] keepalive, ")[2]
    assert last.startswith("50 created, 2400 requestFinished, 48.00 req/socket,")
    assert "[kabench:2400] normal, " in last
    assert out.count("normal, ") > 2  # now and then, too
    buckets = [int(count) for count in re.findall(r"[<>]=?\d+ms (\d+)", last)]
    assert len(buckets) == 20
    assert sum(buckets) == 2 * 2400


def test_a_server_with_faults_says_what_it_did_and_how_to_repeat_it(tmp_path: Path) -> None:
    counts = str(tmp_path / "counts")
    faults = ("--fault", "close-mid-body:20%", "--fault", "stall:1ms:30%", "--seed", "7")
    with running("serve", "--port", "0", "--delay", "0", *faults, "--counts", counts) as (process, url):
        for _ in range(50):
            with contextlib.suppress(http.client.IncompleteRead):
                urllib.request.urlopen(url, timeout=10).read()
        out, err = ended(process)
    assert "faults from --seed 7" in out
    assert "50 requests on" in err
    told = {kind: int(count) for kind, count in re.findall(r"([a-z-]+) (\d+)", err.splitlines()[-1])}
    read = subprocess.run(
        [sys.executable, "-m", "kabench.server", "counts", counts], capture_output=True, text=True, check=True
    )
    assert json.loads(read.stdout)["faults"] == told
    assert set(told) == {"close-mid-body", "stall"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["proxy"], "Missing argument 'URL'"),
        (["proxy", "nonsense"], "is no http URL"),
        (["proxy", "http://h/?a=b"], "a target is a scheme, a host and perhaps a path"),
        (["proxy", "http://h/", "-k", "--cacert", "x"], "--cacert and --insecure: give only one of them"),
        (["proxy", "https://h/", "--cacert", "/nonexistent"], "/nonexistent"),
        (["proxy", "http://h/", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:1985"),
        (["proxy", "http://h/", "--send-timeout", "0"], "send timeout: 0.0 is not a finite number above 0"),
        (["serve", "--fault", "nothing:1%"], "there is no fault 'nothing'; there are reset,"),
        (["serve", "--fault", "reset"], "write for instance reset:1%"),
        (["serve", "--fault", "reset:60%", "--fault", "garbage:60%"], "the faults hit 120% of the requests"),
        (["serve", "--counts", "/nonexistent/counts"], "/nonexistent/counts: No such file or directory"),
    ],
)
def test_what_cannot_start_says_why_in_a_line(arguments: list[str], says: str) -> None:
    done = kabench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 2
