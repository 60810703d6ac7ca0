"""A mixed flow: users who think between their requests, read several pages, and write now and then.

    kabench serve --port 8080 --delay 5ms
    locust -f scenarios/mixed.py --host http://127.0.0.1:8080 --headless -u 60 -r 20 -t 30s

A visitor who thinks leaves the socket to others, so 60 visitors need far fewer than 60 sockets.
"""

from locust import HttpUser, between, events, task

import kabench.distributed
from kabench.agent import KeepAliveAgent

events.init.add_listener(kabench.distributed.install)


class Visitor(HttpUser):
    """A user that reads much and writes little, through an agent that all visitors of a worker share."""

    host = "http://127.0.0.1:8080"
    wait_time = between(0.05, 0.2)
    pool_manager = KeepAliveAgent(max_sockets=20, free_socket_timeout=30)

    @task(6)
    def read(self) -> None:
        """Read a list, and an item of it."""
        self.client.get("/items")
        self.client.get("/items/7", name="/items/{id}")

    @task(3)
    def search(self) -> None:
        """Send a query."""
        self.client.get("/search?q=keep-alive", name="/search")

    @task(1)
    def write(self) -> None:
        """Write something new."""
        self.client.post("/items", json={"name": "socket", "kept": True})
