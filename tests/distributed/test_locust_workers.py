"""A locust file with the reporter, with a master and two workers."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from kabench.version import __version__
from tests.distributed.locusts import SCENARIOS, Locusts, Process, free_port, needs_locust
from tests.load.loads import fits_together, in_histogram, told
from tests.sockets import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from kabench.server import EmbeddedServer

pytestmark = needs_locust

KABENCH_USERS = """
from locust import events
import kabench.distributed
from kabench.distributed import KabenchUser

events.init.add_listener(kabench.distributed.install)

class Echo(KabenchUser):
    path = "/2"
    data = "x" * 100
"""

OLD_WORKER = """
import sys
import kabench.version
if "--worker" in sys.argv:
    kabench.version.__version__ = "0.0.9"
"""


def start(
    locusts: Locusts, file: Path, server: EmbeddedServer, *options: str, workers: int = 2
) -> tuple[Process, list[Process]]:
    """A master and its workers, on a port of their own."""
    port = str(free_port())
    at = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", str(workers))
    master = locusts.locust(file, "--master", *at, "--host", server.url.rstrip("/"), *options)
    return master, [locusts.locust(file, "--worker", "--master-port", port) for _ in range(workers)]


def test_two_workers_of_kabench_users_add_up_to_what_the_server_counted(
    locusts: Locusts, echo_server: EmbeddedServer
) -> None:
    options = ("--headless", "-u", "8", "-r", "8", "-t", "3s", "-s", "5")
    master, _ = start(locusts, locusts.file(KABENCH_USERS), echo_server, *options)
    assert master.end() == 0, master.err
    (run,) = locusts.record().runs
    fits_together(run)
    counts = echo_server.counts()
    assert run.transactions == counts.requests == in_histogram(run, "service") > 100
    assert run.sockets.created == counts.sockets == 8
    assert run.sockets.requests == counts.requests
    assert f" {run.transactions} " in master.err.split("Aggregated")[-2]  # locust's last table says the same


def test_a_worker_that_is_killed_is_named_and_the_others_go_on(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    options = ("--headless", "-u", "8", "-r", "8", "-t", "9s", "-s", "5")
    master, workers = start(locusts, locusts.file(KABENCH_USERS), echo_server, *options)
    wait_until(lambda: echo_server.counts().requests > 0)
    time.sleep(3.5)  # both have reported
    workers[0].process.send_signal(signal.SIGKILL)
    assert master.end() == 0, master.err
    (run,) = locusts.record().runs
    fits_together(run)
    lost, stayed = sorted(run.client.workers, key=lambda worker: worker.lost_at_s is None)
    assert lost.lost_at_s is not None
    assert stayed.lost_at_s is None
    assert 0 < lost.transactions < stayed.transactions
    assert run.transactions <= echo_server.counts().requests
    assert f"{lost.name} on {lost.host} was lost; its last report came after" in " ".join(master.out.split())


def ask(url: str, **form: str) -> Any:
    """A request to locust's web page, as its buttons send them."""
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, data, timeout=10) as response:
        text = response.read().decode()
    return json.loads(text) if text.startswith("{") else text


def press(url: str) -> None:
    """A button."""
    urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=30).close()


def counted_by_locust(page: str) -> int:
    """The requests in locust's own statistics."""
    stats = ask(f"{page}/stats/requests")["stats"]
    counted: int = next(each["num_requests"] for each in stats if each["name"] == "Aggregated")
    return counted


def sockets_tab(page: str) -> dict[str, dict[str, Any]]:
    """What the tab shows, by agent."""
    (stats,) = [each for each in ask(f"{page}/stats/requests")["extended_stats"] if each["key"] == "sockets"]
    return {row["name"]: row for row in stats["data"]}


def test_the_web_page_starts_resets_and_stops_and_shows_sockets(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    web_port = free_port()
    page = f"http://127.0.0.1:{web_port}"
    file = locusts.file(KABENCH_USERS)
    master, _ = start(locusts, file, echo_server, "--web-host", "127.0.0.1", "--web-port", str(web_port))
    wait_until(lambda: master.err.count("reported as ready") == 2)
    ask(f"{page}/swarm", user_count="6", spawn_rate="6", host=echo_server.url.rstrip("/"))
    wait_until(lambda: sockets_tab(page).get("Echo", {}).get("created") == 6)
    before = sockets_tab(page)["Echo"]
    assert (before["created"], before["closed"]) == (6, 0)
    assert before["free"] + before["active"] == 6
    assert before["req_per_socket"] > 100
    press(f"{page}/stats/reset")
    wait_until(lambda: sockets_tab(page)["Echo"]["transactions"] > 0)
    press(f"{page}/stop")
    wait_until(lambda: "Record: results/" in master.out)
    (run,) = locusts.record().runs
    fits_together(run)
    assert run.transactions < echo_server.counts().requests - 1000
    wait_until(lambda: counted_by_locust(page) == run.transactions)  # its workers report every three seconds
    assert run.sockets.created == 6  # open at the reset, they count as created
    for ready, users in ((4, "4"), (6, "2")):  # and again, the first of them for a moment
        wait_until(lambda ready=ready: master.err.count("reported as ready") == ready)  # type: ignore[misc]  # bound now
        ask(f"{page}/swarm", user_count=users, spawn_rate=users, host=echo_server.url.rstrip("/"))
        if users == "4":
            time.sleep(0.2)
            press(f"{page}/stop")
    wait_until(lambda: sockets_tab(page).get("Echo", {}).get("created") == 2)
    master.process.send_signal(signal.SIGTERM)
    assert master.end() == 0, master.err
    reports = master.out.count("[kabench:")
    assert reports in (2, 3)  # that of a moment may have sent nothing
    assert len(list((locusts.folder / "results").glob("*.json"))) == reports


def test_a_worker_of_another_version_is_sent_away_with_both_named(
    locusts: Locusts, echo_server: EmbeddedServer
) -> None:
    file = locusts.file(OLD_WORKER + KABENCH_USERS)
    options = ("--headless", "-u", "1", "-t", "20s")
    master, (worker,) = start(locusts, file, echo_server, *options, workers=1)
    assert worker.end() == 2
    assert f"the master runs kabench {__version__}, this worker 0.0.9" in worker.err
    master.wait_for(f"runs kabench 0.0.9, this master {__version__}")
    master.process.terminate()
    master.end()


def test_a_record_that_cannot_be_saved_is_said_and_the_report_is_shown(
    locusts: Locusts, echo_server: EmbeddedServer
) -> None:
    (locusts.folder / "results").write_text("a file, where a folder should be")
    process = locusts.locust(
        locusts.file(KABENCH_USERS), "--headless", "-u", "2", "-t", "2s", "--host", echo_server.url.rstrip("/")
    )
    assert process.end() == 0, process.err
    assert "results" in process.err
    assert "cannot be written" in process.err
    assert "[kabench:" in process.out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="locust starts processes by fork")
def test_two_workers_of_http_users_add_up_to_what_the_server_counted(
    locusts: Locusts, echo_server: EmbeddedServer
) -> None:
    port = str(free_port())
    options = ("--headless", "-u", "8", "-r", "8", "-t", "3s", "-s", "5", "--host", echo_server.url.rstrip("/"))
    at = ("--processes", "2", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port)
    process = locusts.locust(SCENARIOS / "keepalive.py", *at, *options)
    assert process.end() == 0, process.err
    keepalive, plain = locusts.record().runs
    counts = echo_server.counts()
    assert keepalive.transactions + plain.transactions == counts.requests > 50
    assert told(keepalive.sockets.created, plain.sockets.created) == counts.sockets
    assert plain.sockets.created == plain.transactions
    assert told(keepalive.sockets.created) <= 8
    assert keepalive.data_transferred_bytes + plain.data_transferred_bytes == counts.response_body_bytes
    for run in (keepalive, plain):
        fits_together(run)
        assert all(worker.transactions > 0 for worker in run.client.workers)
    names = {worker.name for run in (keepalive, plain) for worker in run.client.workers}
    assert names == {"worker-1", "worker-2"}  # locust gives each class to one of them
    assert process.out.count("[kabench:") == 2  # the master's, and no worker's
