"""What the reporter makes of locust's own users, in one locust process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.distributed.locusts import Locusts, needs_locust
from tests.load.loads import fits_together

if TYPE_CHECKING:
    from kabench.server import EmbeddedServer

pytestmark = needs_locust

FILE = """
import gevent
import requests
from locust import FastHttpUser, HttpUser, constant, events, task
import kabench.distributed
from kabench.agent import KeepAliveAdapter, KeepAliveAgent

events.init.add_listener(kabench.distributed.install)

class Base:
    wait_time = constant(0.05)
    fixed_count = 1

class Sharing(HttpUser):
    abstract = True
    wait_time = constant(0.05)
    fixed_count = 1
    pool_manager = KeepAliveAgent()
    @task
    def look(self):
        self.client.get("/")

class One(Sharing):
    pass

class Other(Sharing):
    pass

class Judging(Base, HttpUser):
    pool_manager = KeepAliveAgent()
    @task
    def look(self):
        with self.client.get("/?status=404", catch_response=True) as response:
            response.success()
        with self.client.get("/", catch_response=True) as response:
            response.failure("not what I wanted")
        self.client.get("/?status=503")

class Unlucky(Base, HttpUser):
    host = "http://127.0.0.1:1"
    pool_manager = KeepAliveAgent()
    @task
    def look(self):
        self.client.get("http://127.0.0.1:1/")

class Spawning(Base, HttpUser):
    pool_manager = KeepAliveAgent()
    @task
    def look(self):
        gevent.joinall([gevent.spawn(self.client.get, "/") for _ in range(3)])

class Mounting(Base, HttpUser):
    def on_start(self):
        self.client.mount("http://", KeepAliveAdapter())
    @task
    def look(self):
        self.client.get("/")

class Fast(Base, FastHttpUser):
    @task
    def look(self):
        self.client.get("/")
"""


def test_each_class_is_told_apart_with_what_its_test_says_of_it(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    options = ("--headless", "-u", "7", "-r", "7", "-t", "3s", "-s", "5", "--host", echo_server.url.rstrip("/"))
    process = locusts.locust(locusts.file(FILE), *options)
    assert process.end() == 1, process.err  # as locust ends where requests failed
    runs = {run.agent: run for run in locusts.record().runs}
    runs.pop("locust", None)  # greenlets that outlive a user of whom nothing was known yet
    assert list(runs) == ["One", "Other", "Judging", "Unlucky", "Spawning", "Mounting", "Fast"]
    for run in runs.values():
        fits_together(run)
    both = [runs["One"].sockets, runs["Other"].sockets]  # their agent counts once, with whom it met first
    assert sorted((sockets.requests or 0) > 0 for sockets in both) == [False, True]
    assert sum(sockets.requests or 0 for sockets in both) == runs["One"].transactions + runs["Other"].transactions
    judging = runs["Judging"]
    thirds = judging.transactions // 3
    assert judging.transactions == 3 * thirds
    assert judging.status_codes == {"200": thirds, "404": thirds, "503": thirds}
    assert judging.failed_transactions == 2 * thirds
    assert judging.errors == {"unexpected_body": thirds, "unexpected_status": thirds}
    assert judging.sockets.created == 1
    unlucky = runs["Unlucky"]
    assert (unlucky.transactions, unlucky.errors) == (0, {"connect_failed": unlucky.socket_errors})
    assert unlucky.socket_errors > 0
    assert runs["Spawning"].transactions > 0
    assert runs["Spawning"].sockets.created == 3
    assert runs["Mounting"].sockets.requests == runs["Mounting"].transactions > 0
    assert runs["Fast"].sockets.created is None  # its client does not tell
    answered = [run for name, run in runs.items() if name != "Unlucky"]
    counted = sum(run.transactions for run in answered)
    assert counted <= echo_server.counts().requests <= counted + 3  # greenlets that outlive their user, and the test
