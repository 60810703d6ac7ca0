"""Behind a gateway that forgets idle connections and drops what comes later: TCP probes (AK-26) and AK-62.

Three hosts in network namespaces, client - gateway - server; skipped where there are no rights.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

FORGETS_AFTER_S = 3
SERVER = "10.77.2.2"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


class Hosts:
    """The namespaces, named after this process so that others may have theirs."""

    def __init__(self) -> None:
        self.client, self.gateway, self.server = (f"kab{os.getpid()}{role}" for role in "cgs")

    def inside(self, host: str, *command: str) -> None:
        run("ip", "netns", "exec", host, *command)

    def build(self) -> None:
        for host in (self.client, self.gateway, self.server):
            run("ip", "netns", "add", host)
            self.inside(host, "ip", "link", "set", "lo", "up")
        for host, net in ((self.client, 1), (self.server, 2)):
            own, theirs = f"{host[-9:]}a", f"{host[-9:]}b"
            run("ip", "link", "add", own, "netns", host, "type", "veth", "peer", "name", theirs, "netns", self.gateway)
            self.inside(host, "ip", "address", "add", f"10.77.{net}.2/24", "dev", own)
            self.inside(self.gateway, "ip", "address", "add", f"10.77.{net}.1/24", "dev", theirs)
            self.inside(host, "ip", "link", "set", own, "up")
            self.inside(self.gateway, "ip", "link", "set", theirs, "up")
            self.inside(host, "ip", "route", "add", "default", "via", f"10.77.{net}.1")
        for rule in (
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-t nat -A POSTROUTING -d 10.77.2.0/24 -j MASQUERADE",
        ):
            self.inside(self.gateway, "iptables", *rule.split())
        for name, value in (
            ("net.ipv4.ip_forward", 1),
            ("net.netfilter.nf_conntrack_tcp_loose", 0),
            ("net.netfilter.nf_conntrack_tcp_timeout_established", FORGETS_AFTER_S),
        ):
            self.inside(self.gateway, "sysctl", "-w", f"{name}={value}")

    def remove(self) -> None:
        for host in (self.client, self.gateway, self.server):
            subprocess.run(("ip", "netns", "delete", host), capture_output=True, timeout=20, check=False)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if os.name != "posix" or os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("iptables")):
        pytest.skip("network namespaces take root, ip and iptables")
    made = Hosts()
    try:
        try:
            made.build()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode()[-200:]}")
        serve = [sys.executable, "-m", "kabench", "serve", "--host", SERVER, "--port", "8000", "--delay", "0"]
        process = subprocess.Popen(
            ("ip", "netns", "exec", made.server, *serve), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline()  # it listens
            yield made
        finally:
            process.terminate()
            process.communicate(timeout=20)
    finally:
        made.remove()


def in_client(hosts: Hosts, script: str) -> list[str]:
    done = subprocess.run(
        ("ip", "netns", "exec", hosts.client, sys.executable, "-c", script),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


PROBED = f"""
import asyncio, threading, time
from kabench.agent import AsyncKeepAliveAgent, KeepAliveAgent
URL = "http://{SERVER}:8000/"
IDLE_S = {2 * FORGETS_AFTER_S + 1}
options = dict(free_socket_timeout=0, timeout=4, keep_alive_delay={{delay}})
def in_threads(out):
    with KeepAliveAgent(retries=False, **options) as agent:
        agent.request("GET", URL)
        time.sleep(IDLE_S)
        try: out.append(f"threads {{{{agent.request('GET', URL).reused_socket}}}}")
        except Exception as error: out.append(f"threads {{{{type(error).__name__}}}}")
async def on_asyncio(out):
    async with AsyncKeepAliveAgent(**options) as agent:
        await agent.request("GET", URL)
        await asyncio.sleep(IDLE_S)
        try: out.append(f"asyncio {{{{(await agent.request('GET', URL)).reused_socket}}}}")
        except Exception as error: out.append(f"asyncio {{{{type(error).__name__}}}}")
out = []
thread = threading.Thread(target=in_threads, args=(out,))
thread.start()
asyncio.run(on_asyncio(out))
thread.join()
print("\\n".join(sorted(out)))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("delay", "seen"),
    [
        (1, ["asyncio True", "threads True"]),  # probes each second keep the gateway awake
        (60, ["asyncio SocketTimeoutError", "threads ReadTimeoutError"]),
    ],
)
def test_ak_26_probes_keep_a_gateway_from_forgetting(hosts: Hosts, delay: int, seen: list[str]) -> None:
    assert in_client(hosts, PROBED.format(delay=delay)) == seen


FORGOTTEN = f"""
import asyncio, time
from concurrent.futures import ThreadPoolExecutor
from kabench.agent import AsyncKeepAliveAgent, KeepAliveAgent
URL = "http://{SERVER}:8000/"
options = dict(free_socket_timeout=60, timeout=2, keep_alive_delay=60)
async def main():
    async with AsyncKeepAliveAgent(**options) as agent:
        await asyncio.gather(*(agent.request("GET", URL + "300") for _ in range(5)))
        await asyncio.sleep({FORGETS_AFTER_S + 2})
        for _ in range(7):
            try: print("asyncio", (await agent.request("GET", URL)).status)
            except Exception as error: print("asyncio", type(error).__name__)
asyncio.run(main())
with KeepAliveAgent(**options) as agent, ThreadPoolExecutor(5) as threads:
    list(threads.map(lambda _: agent.request("GET", URL + "300").status, range(5)))
    time.sleep({FORGETS_AFTER_S + 2})
    for _ in range(7):
        try: print("threads", agent.request("GET", URL).status)
        except Exception as error: print("threads", type(error).__name__)
    print(sorted(agent.get_current_status().closed_by.items()))
"""


@pytest.mark.long
def test_ak_62_five_sockets_that_a_gateway_has_forgotten_cost_one_timeout(hosts: Hosts) -> None:
    asyncio_seen = ["asyncio SocketTimeoutError", *["asyncio 200"] * 6]
    threads_seen = ["threads 200"] * 7  # urllib3 sends the first again, on a fresh socket
    closed_by = "[('active_timeout', 1), ('forgotten', 4)]"
    assert in_client(hosts, FORGOTTEN) == [*asyncio_seen, *threads_seen, closed_by]
