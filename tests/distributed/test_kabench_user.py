"""`KabenchUser`, in one locust process: what locust counts of it, and that locust's ways to steer users hold."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.distributed.locusts import KABENCH, Locusts, Process, needs_locust
from tests.load.loads import in_histogram, told
from tests.sockets import wait_until

if TYPE_CHECKING:
    from kabench.server import EmbeddedServer

pytestmark = needs_locust

FILE = """
from locust import constant, constant_pacing, between, events, LoadTestShape, task
import kabench.distributed
from kabench.agent import AgentOptions
from kabench.distributed import KabenchUser

events.init.add_listener(kabench.distributed.install)

class Echo(KabenchUser):
    data = "x" * 100
    headers = {{"Content-Type": "text/plain"}}
    {body}
"""


def run_headless(
    locusts: Locusts, server: EmbeddedServer, body: str = "", *options: str, path: str = ""
) -> tuple[Process, dict[str, Any]]:
    """A test of three seconds, of which locust counts those that the process takes to start.

    The process, and locust's own statistics in JSON.
    """
    given = ("-u", "6", "-r", "6", "-t", "3s", "-s", "5", "--host", server.url.rstrip("/"), *options)
    file = locusts.file(FILE.format(body=f'path = "/{path}"\n    {body}'))
    process = locusts.locust(file, "--headless", "--json", *given)
    code = process.end()
    assert code in (0, 1), process.err
    stats = locust_stats(process)
    return process, stats[0] if stats else {}


def locust_stats(process: Process) -> list[dict[str, Any]]:
    """What `--json` has printed."""
    found = re.search(r"^\[\]?$", process.out, re.MULTILINE)
    assert found is not None
    stats: list[dict[str, Any]]
    stats, _ = json.JSONDecoder().raw_decode(process.out[found.start() :])
    return stats


def percentile(response_times: dict[str, int], percent: float) -> int:
    """A percentile of locust's rounded response times, in milliseconds."""
    times = {int(ms): count for ms, count in response_times.items()}
    seen = 0
    for ms in sorted(times):
        seen += times[ms]
        if seen >= percent / 100 * sum(times.values()):
            return ms
    raise AssertionError("there are none")


def test_locust_counts_what_kabench_counts_and_the_server_too(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    _, stats = run_headless(locusts, echo_server, path="3")
    (run,) = locusts.record().runs
    counts = echo_server.counts()
    assert run.agent == "Echo"
    assert stats["num_requests"] == run.transactions == counts.requests == in_histogram(run, "total") > 100
    assert counts.request_body_bytes == 100 * run.transactions
    assert stats["total_content_length"] == run.data_transferred_bytes == counts.response_body_bytes
    assert run.sockets.created == counts.sockets == 6
    assert (stats["method"], stats["name"], stats["num_failures"]) == ("POST", "/3", 0)
    times = run.response_time_s
    assert times.mean is not None
    assert stats["total_response_time"] / stats["num_requests"] == pytest.approx(1000 * times.mean, rel=0.01)
    rate = stats["num_requests"] / (stats["last_request_timestamp"] - stats["start_time"])
    assert rate == pytest.approx(run.transaction_rate, rel=0.1)  # 1 % of ten seconds; this is less, on any machine
    assert stats["max_response_time"] == pytest.approx(1000 * (times.max or 0))
    assert stats["min_response_time"] == pytest.approx(1000 * (times.min or 0))
    assert sum(stats["response_times"].values()) == run.transactions
    assert sum(stats["num_reqs_per_sec"].values()) == run.transactions
    for percent, value_s in ((50, times.p50), (95, times.p95), (99, times.p99)):
        assert value_s is not None
        rounding_ms = 0.55 if value_s < 0.1 else 5.5  # locust's; ours is in the third digit
        assert abs(percentile(stats["response_times"], percent) - 1000 * value_s) <= rounding_ms


FAILING = """pass

class Broken(Echo):
    fixed_count = 2
    name = "broken"
    path = "/4?status=503"

class Refused(Echo):
    fixed_count = 2
    name = "refused"
    path = "http://127.0.0.1:1/"

Echo.abstract = True
"""


def test_what_fails_is_a_failure_of_locust(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    file = locusts.file(FILE.format(body=FAILING))
    options = ("--headless", "--json", "-u", "4", "-r", "4", "-t", "2s", "-s", "5", "--host", echo_server.url)
    process = locusts.locust(file, *options)
    assert process.end() == 1  # locust's own, where there are failures
    stats = {each["name"]: each for each in locust_stats(process)}
    broken, refused = locusts.record().runs
    assert broken.transactions == broken.failed_transactions > 0
    assert stats["broken"]["num_requests"] == stats["broken"]["num_failures"] == broken.transactions
    assert "POST broken: status 503" in " ".join(process.err.split())
    assert refused.transactions == 0 < refused.socket_errors
    without_answer = stats["refused"]  # and so without a response time
    assert without_answer["num_requests"] == without_answer["num_none_requests"] == refused.socket_errors
    assert without_answer["num_failures"] == refused.socket_errors
    assert "connect failed" in process.err


def test_graceful_stop_finishes_what_is_under_way(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    run_headless(locusts, echo_server, "", "-t", "2s", path="1500")
    (run,) = locusts.record().runs
    assert run.transactions == echo_server.counts().requests in (6, 12)


def test_a_stop_without_patience_gives_it_up(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    run_headless(locusts, echo_server, "", "-t", "2s", "-s", "0", path="30000")
    assert echo_server.counts().requests == 6
    (run,) = locusts.record().runs
    assert (run.transactions, run.socket_errors) == (0, 0)


def test_patience_that_is_over_gives_it_up(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    process, _ = run_headless(locusts, echo_server, "", "-t", "2s", "-s", "1", path="30000")
    assert "Not all users finished their tasks" in process.err
    (run,) = locusts.record().runs
    assert run.transactions == 0


STARTING = """
    def on_start(self):
        import gevent
        gevent.sleep(30 if self.slow else 0)
    slow = True

class Shape(LoadTestShape):
    def tick(self):
        passed_s = self.get_run_time()
        if passed_s > 2:
            Echo.slow = False
        return (5, 100) if passed_s < 1 else (1, 100) if passed_s < 2 else (6, 100) if passed_s < 4 else None
"""


def test_users_who_are_stopped_before_they_sent_anything_leave_none_too_few(
    locusts: Locusts, echo_server: EmbeddedServer
) -> None:
    run_headless(locusts, echo_server, STARTING, "-s", "0", path="20")
    (run,) = locusts.record().runs
    assert max(told(point.active, point.pending) for point in run.series) == 5  # one of the six is still in on_start
    assert run.transactions > 100


def test_tasks_of_a_class_s_own_are_not_carried_out_and_it_says_so(
    locusts: Locusts, echo_server: EmbeddedServer
) -> None:
    body = "@task\n    def own(self): raise RuntimeError('never')"
    process, stats = run_headless(locusts, echo_server, body, "-t", "2s", "-u", "1", path="4")
    assert stats["num_requests"] > 20
    assert "the tasks of a KabenchUser are not carried out" in process.err
    assert "never" not in process.err


PAUSING = """pass

class Paced(Echo):
    fixed_count = 2
    wait_time = constant_pacing(0.4)

class Steady(Echo):
    fixed_count = 2
    wait_time = constant(0.4)

class Varying(Echo):
    fixed_count = 2
    wait_time = between(0.3, 0.5)

class Own(Echo):
    fixed_count = 2
    def wait_time(self):
        return 0.4

Echo.abstract = True
"""


def test_users_pause_as_their_wait_time_says(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    run_headless(locusts, echo_server, PAUSING, "-u", "8", "-r", "8")
    runs = locusts.record().runs
    assert [run.agent for run in runs] == ["Paced", "Steady", "Varying", "Own"]
    for run in runs:
        pauses = run.elapsed_s / 0.4
        assert 2 * (0.6 * pauses - 1) <= run.transactions <= 2 * (1.4 * pauses + 2), run.agent
    assert sum(run.transactions for run in runs) == echo_server.counts().requests


SHAPE = """pass

class Shape(LoadTestShape):
    def tick(self):
        passed_s = self.get_run_time()
        return (5, 100) if passed_s < 2 else (40, 100) if passed_s < 4 else (5, 100) if passed_s < 6 else None
"""


def test_users_come_and_go_as_a_shape_says(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    file = locusts.file(FILE.format(body=f'path = "/20"\n    {SHAPE}'))
    process = locusts.locust(file, "--headless", "-s", "5", "--host", echo_server.url.rstrip("/"))
    assert process.end() == 0, process.err
    (run,) = locusts.record().runs
    busy = [told(point.active, point.pending) for point in run.series]
    assert max(busy) == 40
    assert busy[0] == 5
    assert busy[-2] == 5
    assert run.transactions == echo_server.counts().requests


def sender_of(process: Process) -> int:
    """The process of kabench's sender beside a locust process."""
    found = subprocess.run(
        ["pgrep", "-P", str(process.process.pid), "-f", "kabench.load"], capture_output=True, text=True, check=False
    )
    return int(found.stdout.split()[0])


def test_a_sender_that_dies_ends_the_test_and_says_so(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    file = locusts.file(FILE.format(body='path = "/1"'))
    process = locusts.locust(file, "--headless", "-u", "3", "-t", "60s", "--host", echo_server.url.rstrip("/"))
    wait_until(lambda: echo_server.counts().requests > 1500)  # more than its first second
    os.kill(sender_of(process), signal.SIGKILL)
    assert process.end() == 3
    assert "kabench's process died (SIGKILL)" in process.err
    (run,) = locusts.record().runs
    assert run.transactions > 0


def test_what_cannot_be_sent_is_said_in_one_line(locusts: Locusts) -> None:
    process = locusts.locust(locusts.file(FILE.format(body="path = '/'")), "--headless", "-u", "20", "-t", "30s")
    assert process.end() == 2
    assert process.err.count("kabench: Echo: host: there is none; set it in the class, or with --host") == 1
    assert "Traceback" not in process.err


REFUSED = """
from kabench.agent import AgentOptions
from kabench.distributed import KabenchUser
from kabench.distributed.user_task import task_of
from locust import between, constant

for given, said in (
    ({"agent": "nonsense"}, "locust cannot steer 'nonsense'; there are keepalive, plain"),
    ({"agent": "urllib3"}, "locust cannot steer 'urllib3'"),
    ({"data": {"item": 7}}, "data: text or bytes, not dict"),
    ({"agent_options": {"max_sockets": 3}}, "agent_options: an AgentOptions, not dict"),
    ({"wait_time": lambda self: self.nonsense}, "wait_time: it cannot be called without a user"),
    ({"headers": {"A": "b\\n"}}, "header"),
):
    try:
        task_of(type("Echo", (KabenchUser,), given), "http://127.0.0.1:1")
    except ValueError as error:
        assert said in str(error), (given, error)
    else:
        raise AssertionError(given)

def url_of(path):
    return task_of(type("Echo", (KabenchUser,), {"path": path}), "http://127.0.0.1:1/").plan.url

assert url_of("/a") == url_of("a") == "http://127.0.0.1:1/a"
assert url_of("http://127.0.0.1:2/b") == "http://127.0.0.1:2/b"
"""


def test_what_cannot_be_sent_is_found_before_it_is(locusts: Locusts) -> None:
    process = locusts.start([*KABENCH[:1], "-W", "ignore", "-c", REFUSED])
    assert process.end() == 0, process.err


STOPPED_AT_ONCE = """
import sys
import gevent.monkey

gevent.monkey.patch_all()

import gevent
from kabench.distributed.sender import Sender
from kabench.load import LoadPlan
from kabench.load.figures.messages import Steering, Task

task = Task(LoadPlan(url=sys.argv[1], method="GET", concurrency=1), "keepalive", "", steering=Steering())
seconds, failures = [], []
sender = Sender(lambda *second: seconds.append(second[1]), lambda why, code: failures.append(why))
sender.prepare()
sender.wait_until_up()
sender.begin(task)
sender.finish()  # while the process says that it is ready
assert not seconds
sender.prepare()
sender.begin(task)
sender.join()
with gevent.Timeout(20):
    while not any(sum(second.totals.status_codes.values()) for second in seconds):
        gevent.sleep(0.01)
sender.close()
assert not failures, failures
"""


def test_a_test_that_is_stopped_at_once_does_not_spoil_the_next(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    process = locusts.start([*KABENCH[:1], "-W", "ignore", "-c", STOPPED_AT_ONCE, echo_server.url])
    assert process.end() == 0, process.err
    assert "Traceback" not in process.err
