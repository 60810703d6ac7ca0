"""Each user has its own agent, as separate clients do, and shares no socket with others.

    kabench serve --port 8080 --delay 5ms
    locust -f scenarios/own_agent.py --host http://127.0.0.1:8080 --headless -u 60 -r 60 -t 30s

An agent is closed when its user stops; its counts stay in the report.
"""

from locust import HttpUser, between, events, task
from locust.env import Environment

import kabench.distributed
from kabench.agent import KeepAliveAgent

events.init.add_listener(kabench.distributed.install)


class SeparateUser(HttpUser):
    """A client with one socket, which it keeps between its requests."""

    host = "http://127.0.0.1:8080"
    wait_time = between(0.01, 0.1)

    def __init__(self, environment: Environment) -> None:
        self.pool_manager = KeepAliveAgent(max_sockets=1, free_socket_timeout=30)
        super().__init__(environment)

    def on_stop(self) -> None:
        """Close the user's sockets."""
        self.pool_manager.close()

    @task
    def get(self) -> None:
        """Send one request."""
        self.client.get("/")
