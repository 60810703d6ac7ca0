"""A ramp: few users, then more and more, then few again, at kabench's own speed.

    kabench serve --port 8080 --delay 5ms
    locust -f scenarios/ramp.py --host http://127.0.0.1:8080 --headless -u 200 -t 20s

No thread or greenlet of a user sends anything: `KabenchUser` defines the request, and kabench sends it.
"""

from locust import LoadTestShape, events

import kabench.distributed
from kabench.agent import AgentOptions
from kabench.distributed import KabenchUser

events.init.add_listener(kabench.distributed.install)

SHARES = (0.05, 0.25, 1.0, 0.05)
"""The share of all users in each quarter of the time."""


class EchoUser(KabenchUser):
    """A user that posts, and posts again when the answer has come."""

    host = "http://127.0.0.1:8080"
    path = "/"
    data = '{"id": 1, "name": "agentkeepalive"}'
    headers = {"Content-Type": "application/json"}
    agent_options = AgentOptions(max_sockets=100, free_socket_timeout=30)


class Ramp(LoadTestShape):
    """The number of users over time, from -u (200) and -t (20s)."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users for now, to start all at once; None at the end."""
        options = self.runner.environment.parsed_options
        quarter = int(4 * self.get_run_time() / (options.run_time or 20))
        if quarter >= len(SHARES):
            return None
        most = options.num_users if (options.num_users or 1) > 1 else 200  # locust's default is 1
        return max(1, round(SHARES[quarter] * most)), most
