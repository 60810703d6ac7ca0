"""The sender of one class of users, without locust: in a process of its own, since gevent changes a whole process."""

from __future__ import annotations

import subprocess
import sys

from tests.distributed.locusts import environment, needs_locust

pytestmark = needs_locust

PREPARED_TWICE = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent
from kabench.distributed import sender

started = []
start_child = sender.start_child

def start_slowly(command):
    gevent.sleep(0.05)  # as it takes a while to start a process, while others go on
    started.append(start_child(command))
    return started[-1]

sender.start_child = start_slowly
made = sender.Sender(lambda *_: None, lambda *_: None)
gevent.joinall([gevent.spawn(made.prepare) for _ in range(3)])
made.wait_until_up()
print(len(started))
made.close()
"""


def test_a_test_that_begins_while_the_process_is_being_started_starts_no_second_one() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREPARED_TWICE],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment(),
    )
    assert done.stdout == "1\n"
