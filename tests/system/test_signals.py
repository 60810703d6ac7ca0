"""Signals that tell a process to stop: which belong together, and which is the impatience of a user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kabench.system.signals import SAME_WITHIN_S, StopRequest, stop_signals, stopping

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="other signals")


class Asked:
    """What a request was told to do, with a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.did: list[str] = []
        self.request = StopRequest(lambda: self.did.append("stop"), lambda: self.did.append("leave"), lambda: self.now)


def test_the_first_signal_stops_and_those_within_half_a_second_are_the_same() -> None:
    asked = Asked()
    assert not asked.request.came
    for after_s in (0.0, 0.1, SAME_WITHIN_S):
        asked.now = 100.0 + after_s
        asked.request.signalled()
    assert asked.did == ["stop"]
    assert asked.request.came


def test_a_later_signal_leaves_although_others_came_in_between() -> None:
    asked = Asked()
    for after_s in (0.0, 0.4, 0.6):
        asked.now = 100.0 + after_s
        asked.request.signalled()
    assert asked.did == ["stop", "leave"]


@pytest.fixture
def hang_up() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
def test_a_terminal_that_goes_away_stops_unless_that_is_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert set(stop_signals()) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert set(stop_signals()) == {signal.SIGINT, signal.SIGTERM}


def test_without_a_signal_the_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(number) for number in stop_signals()]
    with stopping(lambda: None):
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in stop_signals()] == before


WAITS_UNTIL_STOPPED = """
import os, signal, sys, threading
from kabench.system.loop import run, stop_event
from kabench.system.signals import stopping

stopped = threading.Event()

def thread():
    with stopping(stopped.set):
        print("ready", flush=True)
        while not stopped.wait(0.01):
            pass

async def event():
    with stop_event() as stop:
        print("ready", flush=True)
        await stop.wait()

def asyncio_event():
    run(event())

{"thread": thread, "asyncio": asyncio_event}[sys.argv[1]]()
print("stopped", flush=True)
sys.stdin.readline()  # what comes in its last moments
print("done", flush=True)
"""


@pytest.mark.parametrize("how", ["thread", "asyncio"])
def test_what_belongs_to_a_signal_does_not_kill_a_process_that_has_stopped(how: str) -> None:
    command = [sys.executable, "-c", WAITS_UNTIL_STOPPED, how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(process.pid, number)
        process.stdin.write("\n")
        process.stdin.flush()
        rest = process.stdout.read()
        assert (process.wait(10), rest) == (0, "done\n")
