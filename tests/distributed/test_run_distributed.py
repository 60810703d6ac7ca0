"""`kabench run --distributed` and `kabench worker`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from kabench.cli import parse
from kabench.cli.distributed import DistributedOptions
from kabench.cli.errors import CommandError
from kabench.cli.options import LoadOptions
from kabench.result import load_result
from kabench.version import __version__
from tests.distributed.locusts import KABENCH, Locusts, Process, free_port, needs_locust
from tests.load.loads import fits_together, in_histogram, told

if TYPE_CHECKING:
    from kabench.result import RunResult
    from kabench.server import EmbeddedServer

pytestmark = needs_locust

OLD_WORKER = """
import sys, kabench.version
kabench.version.__version__ = "0.0.9"
from kabench.distributed.worker import main
sys.exit(main("127.0.0.1", sys.argv[1], "20"))
"""


def record(locusts: Locusts) -> RunResult:
    return load_result(locusts.folder / "record.json")


def distributed(locusts: Locusts, *arguments: str) -> Process:
    """A master, which writes its record to a file of the test's."""
    return locusts.kabench("run", "--distributed", "--no-save", "--json", "record.json", *arguments)


def processes_at(port: int) -> list[int]:
    """The workers that look for a master at a port."""
    found = subprocess.run(
        ["pgrep", "-f", f"kabench.distributed.worker 127.0.0.1 {port} "], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def test_two_local_workers_add_up_to_what_the_server_counted(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    url = f"{echo_server.url}1"
    options = ("-c", "12", "--max-sockets", "10", "-r", "100", "-X", "POST", "--data", "x" * 50)
    process = distributed(locusts, url, "--workers", "2", "-a", "keepalive", "-a", "plain", *options)
    assert process.end() == 0, process.err
    keepalive, plain = record(locusts).runs
    counts = echo_server.counts()
    assert (keepalive.transactions, plain.transactions) == (1200, 1200)
    assert counts.requests == 2400
    assert told(keepalive.sockets.created, plain.sockets.created) == counts.sockets == 10 + 1200
    assert counts.response_body_bytes == keepalive.data_transferred_bytes + plain.data_transferred_bytes
    for run in (keepalive, plain):
        fits_together(run)
        assert in_histogram(run, "first_byte") == 1200
        assert [(worker.name, worker.transactions) for worker in run.client.workers] == [
            ("worker-1", 600),
            ("worker-2", 600),
        ]
    assert "2 workers" in process.out
    assert re.search(r"worker-2 +\S+ +600", process.out)
    assert record(locusts).plan["workers"] == 2
    assert locusts.kabench("report", "record.json").end() == 0


def test_workers_join_from_elsewhere_and_leave_with_the_master(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    port = free_port()
    workers = [locusts.kabench("worker", "--master", f"127.0.0.1:{port}", "--max-wait", "30s") for _ in range(2)]
    time.sleep(0.5)  # the master may come later
    at = ("--expect-workers", "2", "--bind", f"127.0.0.1:{port}")
    process = distributed(locusts, echo_server.url, *at, "--rate", "200", "-d", "1s", "-a", "keepalive")
    assert process.end() == 0, process.err
    assert [worker.end() for worker in workers] == [0, 0]
    (run,) = record(locusts).runs
    assert run.transactions == echo_server.counts().requests == 200
    assert run.lag_s.mean is not None
    assert f"Waiting for 2 workers: kabench worker --master 127.0.0.1:{port}" in process.err
    assert "has joined, 2 of 2" in process.err
    assert "a share of the load through keepalive" in workers[0].err
    assert "the master has ended the run" in workers[0].err


def test_a_worker_that_is_killed_is_named_and_the_others_go_on(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    port = free_port()
    at = ("--workers", "2", "--expect-workers", "2", "--bind", f"127.0.0.1:{port}")
    process = distributed(locusts, f"{echo_server.url}5", *at, "-d", "4s", "-c", "8", "-a", "keepalive", "-a", "plain")
    process.wait_for("keepalive 1 s")
    os.kill(processes_at(port)[0], signal.SIGKILL)
    assert process.end() == 3, process.err
    assert "was lost (it no longer answers) while keepalive was under way" in process.err
    assert "was lost (it no longer answers); the others go on" in process.err
    run, other = record(locusts).runs
    assert other.transactions > 0  # what is left of the workers makes it
    assert [worker.lost_at_s for worker in other.client.workers].count(0.0) == 1
    fits_together(run)
    assert run.elapsed_s >= 4
    assert not run.interrupted
    lost, stayed = sorted(run.client.workers, key=lambda worker: worker.lost_at_s is None)
    assert lost.lost_at_s is not None
    assert 0.9 < lost.lost_at_s < 3
    assert stayed.transactions > lost.transactions
    assert run.transactions <= echo_server.counts().requests
    assert f"{lost.name} on {lost.host} was lost; its last report came after" in " ".join(process.out.split())


def test_a_worker_whose_own_process_dies_is_lost_with_its_ending(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    process = distributed(locusts, f"{echo_server.url}5", "--workers", "2", "-d", "2s", "-c", "8", "-a", "keepalive")
    process.wait_for("keepalive 1 s")
    (run_pid,) = [process.process.pid]
    workers = subprocess.run(["pgrep", "-P", str(run_pid)], capture_output=True, text=True, check=False).stdout.split()
    children = [
        int(pid)
        for worker in workers
        for pid in subprocess.run(
            ["pgrep", "-P", worker, "-f", "kabench.load"], capture_output=True, text=True, check=False
        ).stdout.split()
    ]
    os.kill(children[0], signal.SIGKILL)
    assert process.end() == 3
    assert "was lost (SIGKILL) while keepalive was under way" in process.err
    (run,) = record(locusts).runs
    assert [worker.lost_at_s is None for worker in run.client.workers].count(True) == 1


def test_ctrl_c_reports_what_was_measured(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    process = distributed(locusts, f"{echo_server.url}5", "--workers", "2", "-d", "60s", "-c", "4", "-a", "keepalive")
    process.wait_for("keepalive 1 s")
    process.process.send_signal(signal.SIGINT)
    assert process.end() == 130, process.err
    (run,) = record(locusts).runs
    assert run.interrupted
    assert run.transactions > 0


def test_ctrl_c_while_waiting_for_workers_ends_it(locusts: Locusts) -> None:
    process = distributed(locusts, "--expect-workers", "1", "--bind", f"127.0.0.1:{free_port()}")
    process.wait_for("Waiting for 1 worker")
    process.process.send_signal(signal.SIGINT)
    assert process.end() == 130
    assert not (locusts.folder / "record.json").exists()


def test_a_worker_of_another_version_is_turned_away_with_both_named(
    locusts: Locusts, echo_server: EmbeddedServer
) -> None:
    port = free_port()
    process = distributed(
        locusts, echo_server.url, "--expect-workers", "1", "--bind", f"127.0.0.1:{port}", "-n", "10", "-a", "keepalive"
    )
    process.wait_for("Waiting for 1 worker")
    old = locusts.start([KABENCH[0], "-c", OLD_WORKER, str(port)])
    assert old.end() == 2
    assert f"the master runs kabench {__version__}, this worker 0.0.9: install the same on both" in old.err
    process.wait_for(f"turned away: it runs kabench 0.0.9, this is {__version__}")
    locusts.kabench("worker", "--master", f"127.0.0.1:{port}")
    assert process.end() == 0, process.err


def test_a_worker_without_a_master_says_so_after_a_while(locusts: Locusts) -> None:
    port = free_port()
    process = locusts.kabench("worker", "--master", f"127.0.0.1:{port}", "--max-wait", "2s")
    assert process.end() == 3
    assert f"no master answers at 127.0.0.1:{port} within 2 s" in process.err
    assert "Traceback" not in process.err


def test_a_worker_is_told_to_stop_by_ctrl_c(locusts: Locusts) -> None:
    process = locusts.kabench("worker", "--master", f"127.0.0.1:{free_port()}", "--workers", "2")
    process.wait_for("looking for the master")
    process.process.send_signal(signal.SIGINT)
    assert process.end() == 130
    assert "Traceback" not in process.err


def test_a_taken_port_is_said_before_anything_is_sent(locusts: Locusts, echo_server: EmbeddedServer) -> None:
    process = distributed(
        locusts, echo_server.url, "--expect-workers", "1", "--bind", f"127.0.0.1:{echo_server.port}", "-n", "1"
    )
    assert process.end() == 2
    assert f"cannot listen at 127.0.0.1:{echo_server.port}: Address already in use" in process.err


@pytest.mark.parametrize(
    ("given", "urls", "said"),
    [
        ({}, [], "how many workers?"),
        ({"distributed": False, "expect_workers": 2}, [], "--expect-workers is for --distributed"),
        ({"distributed": False, "max_wait_s": 3.0}, [], "--max-wait is for --distributed"),
        ({"started": 3, "expect_workers": 2}, [], "--workers: 3 is more than --expect-workers 2"),
        ({"expect_workers": 2, "bind": "0.0.0.0"}, [], "name a URL"),
        ({"expect_workers": 2, "bind": "127.0.0.1:abc"}, ["http://127.0.0.1:1/"], "'127.0.0.1:abc' is no address"),
        ({"expect_workers": 2, "bind": "7210"}, ["http://127.0.0.1:1/"], "'7210' is only a port"),
        ({"started": 90}, [], "--workers: 90 of them cannot share 50 sockets"),
    ],
)
def test_what_does_not_fit_together_is_said(given: dict[str, Any], urls: list[str], said: str) -> None:
    nothing: dict[str, Any] = {"expect_workers": None, "started": None, "bind": None, "max_wait_s": None}
    options = DistributedOptions(**{"distributed": True, **nothing, **given})
    with pytest.raises(CommandError) as caught:
        distributed_plan(options, urls)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def distributed_plan(options: DistributedOptions, urls: list[str], **load: Any) -> None:
    options.plan_of(LoadOptions(urls=urls, grace=5.0, **load))
    assert options.address


def test_how_many_workers_to_start_is_said_and_not_guessed() -> None:
    options = DistributedOptions(distributed=True, expect_workers=2, started=parse.AUTO, bind=None, max_wait_s=None)
    with pytest.raises(CommandError, match="--workers auto is for one machine"):
        distributed_plan(options, [])


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        (None, ("127.0.0.1", 5557)),
        ("h", ("h", 5557)),
        ("h:1", ("h", 1)),
        ("[::1]", ("[::1]", 5557)),
        ("[::1]:2", ("[::1]", 2)),
    ],
)
def test_where_workers_come_to(bind: str | None, expected: tuple[str, int]) -> None:
    assert DistributedOptions(True, 2, None, bind, None).address == expected


def test_where_all_workers_are_local_any_port_will_do() -> None:
    assert DistributedOptions(True, None, 2, None, None).address == ("127.0.0.1", 0)


def test_workers_that_do_not_come_are_not_waited_for_for_ever(locusts: Locusts) -> None:
    process = distributed(locusts, "--expect-workers", "1", "--bind", f"127.0.0.1:{free_port()}", "--max-wait", "0.5s")
    assert process.end() == 3
    assert "0 of 1 worker joined within 0.5 s" in process.err
