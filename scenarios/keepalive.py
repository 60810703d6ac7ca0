"""Keep-alive against plain, through locust's own HttpUser.

    kabench serve --port 8080 --delay 5ms
    locust -f scenarios/keepalive.py --host http://127.0.0.1:8080 --headless -u 60 -r 60 -t 30s

All users of a class share one agent in each worker. Each class has half of the users, and both classes share a core. To
run one class alone, name it after the options.
"""

from locust import HttpUser, constant, events, task

import kabench.distributed
from kabench.agent import KeepAliveAgent, PlainAgent

events.init.add_listener(kabench.distributed.install)

BODY = {"id": 1, "name": "agentkeepalive", "sockets": 50, "users": 60, "delay_ms": 5}


class KeepAliveUser(HttpUser):
    """A user that posts through an agent that keeps sockets open."""

    host = "http://127.0.0.1:8080"
    wait_time = constant(0)
    pool_manager = KeepAliveAgent(max_sockets=50, free_socket_timeout=30)

    @task
    def post(self) -> None:
        """Send one request."""
        self.client.post("/", json=BODY, name="/ (keep-alive)")


class PlainUser(HttpUser):
    """A user that posts with a new socket for each request."""

    host = "http://127.0.0.1:8080"
    wait_time = constant(0)
    pool_manager = PlainAgent(max_sockets=50)

    @task
    def post(self) -> None:
        """Send one request."""
        self.client.post("/", json=BODY, name="/ (plain)")
