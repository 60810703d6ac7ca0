"""A ramp: 10 users, then more and more, then 10 again, at the speed of kabench's own engine.

    kabench serve --port 8080 --delay 5ms
    locust -f scenarios/ramp.py --host http://127.0.0.1:8080 --headless

The shape says how many users there are, so `-u`, `-r` and `-t` say nothing here. Behind each user is no thread and no
greenlet that sends: `KabenchUser` says what is sent, and kabench sends it.
"""

from locust import LoadTestShape, events

import kabench.distributed
from kabench.agent import AgentOptions
from kabench.distributed import KabenchUser

events.init.add_listener(kabench.distributed.install)

STAGES = ((5, 10), (10, 50), (15, 200), (20, 10))
"""Until so many seconds have passed, so many users."""


class EchoUser(KabenchUser):
    """Posts, and posts again when the answer is there."""

    host = "http://127.0.0.1:8080"
    path = "/"
    data = '{"id": 1, "name": "agentkeepalive"}'
    headers = {"Content-Type": "application/json"}
    agent_options = AgentOptions(max_sockets=100, free_socket_timeout=30)


class Ramp(LoadTestShape):
    """The users there should be."""

    def tick(self) -> tuple[int, float] | None:
        """As many users as now, all of them at once; None at the end."""
        passed_s = self.get_run_time()
        for until_s, users in STAGES:
            if passed_s < until_s:
                return users, 1000
        return None
