"""A worker of a distributed run: `python -m kabench.distributed.worker`, on any machine.

It is a locust worker that starts `kabench.load` when it is told to. It is a process of its own, since importing locust
changes all of Python's blocking calls. It writes its messages to standard error; its exit codes are kabench's.
"""

from __future__ import annotations

from locust import runners  # before anything else: it replaces what blocks  # isort: skip
import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from gevent.event import Event
from gevent.fileobject import FileObject
from locust.env import Environment

from kabench.distributed.exits import CANNOT_START, COULD_NOT_MEASURE, INTERRUPTED
from kabench.distributed.protocol import (
    BEGIN,
    ENDED,
    EVERY_PART,
    GO,
    GOODBYE,
    HELLO,
    ORDER,
    SAID,
    STOP,
    TURNED_AWAY,
    WELCOME,
    Begin,
    Ended,
    Hello,
    Order,
    Said,
    Welcome,
    packed,
    unpacked,
)
from kabench.load.figures.messages import STOP as STOP_LINE
from kabench.load.figures.messages import Counts, Go, Message, Progress, Up, decode, encode
from kabench.load.workers.local import LEAD_S, WORKER_COMMAND
from kabench.system.child import end_child, ending, start_child, write_line
from kabench.version import __version__

if TYPE_CHECKING:
    from locust.rpc import Message as LocustMessage
    from locust.runners import WorkerRunner

_PROGRESS_EVERY_S = 1.0
"""A worker's process reports its progress ten times a second; sending once a second is enough."""

_MOST_TRIES = 300
"""How often to try to reach the master at most. locust's tries are nested calls, so the stack limits them."""

_WELCOME_TAKES_AT_MOST_S = 15.0
_MASTER_SILENT_AT_MOST_S = 10
"""The master sends something every second. locust itself waits a minute, and load would go on for that long."""


class WorkerError(RuntimeError):
    """A worker cannot work; `exit_code` is the exit code of its process."""

    def __init__(self, why: str, exit_code: int) -> None:
        super().__init__(why)
        self.exit_code = exit_code


class Worker:
    """One worker, connected to its master.

    Raises `WorkerError` if no master answers within `patience_s`, and `KeyboardInterrupt`.
    """

    def __init__(self, host: str, port: int, patience_s: float, *, quiet: bool) -> None:
        self._quiet = quiet
        self._process: _Process | None = None
        self._failure: WorkerError | None = None
        self._is_interrupted = self._is_dismissed = False
        self._is_welcome = Event()
        self._say(f"looking for the master at {host}:{port}")
        tries = max(1, min(_MOST_TRIES, math.ceil(patience_s)))
        runners.CONNECT_TIMEOUT = patience_s / tries  # type: ignore[assignment]  # gevent takes fractions
        runners.CONNECT_RETRY_COUNT = tries - 1
        runners.MASTER_HEARTBEAT_TIMEOUT = _MASTER_SILENT_AT_MOST_S
        try:
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
                self._runner: WorkerRunner = Environment(user_classes=[]).create_worker_runner(host, port)
        except ConnectionError:
            raise WorkerError(_why_nobody_answers(host, port, patience_s), COULD_NOT_MEASURE) from None
        except SystemExit:  # locust exits if it is interrupted meanwhile
            raise KeyboardInterrupt from None
        except Exception as error:  # zmq's own, for a text that is no address
            raise WorkerError(f"cannot connect to {host}:{port}: {error}", CANNOT_START) from None
        self._runner.last_heartbeat_timestamp = time.time()  # else locust waits for the first one forever
        self._runner.start_worker = self._refuse_users  # type: ignore[method-assign]  # there are no users here
        for kind, listener in (
            (WELCOME, self._be_welcome),
            (BEGIN, self._begin),
            (ORDER, self._obey),
            (TURNED_AWAY, self._leave),
            (GOODBYE, self._be_dismissed),
        ):
            self._runner.register_message(kind, listener)
        self._runner.send_message(HELLO, packed(Hello(socket.gethostname())))

    def serve(self) -> None:
        """Carry out the master's orders until it ends the run. Raises `WorkerError`, and `KeyboardInterrupt`."""
        gevent.signal_handler(signal.SIGTERM, self._interrupt)
        self._runner.greenlet.spawn(self._see_who_it_is)
        self._runner.greenlet.spawn(self._stay_with_parent)
        try:
            self._runner.greenlet.join()
        finally:
            if self._process is not None:
                self._process.end()
        if self._failure is not None:
            raise self._failure
        if self._is_interrupted:
            raise KeyboardInterrupt
        if not self._is_dismissed:
            raise WorkerError("the master is gone", COULD_NOT_MEASURE)
        self._say("the master has ended the run")

    def _see_who_it_is(self) -> None:
        if not self._is_welcome.wait(_WELCOME_TAKES_AT_MOST_S):
            self._refuse_users({})

    def _refuse_users(self, user_classes_count: dict[str, int], **_: object) -> None:  # noqa: ARG002  # locust's names
        self._fail("a locust master answers, but not one of kabench run --distributed", COULD_NOT_MEASURE)

    def _stay_with_parent(self) -> None:
        """Leave when standard input ends, since then the process that started this one is gone."""
        FileObject(sys.stdin.fileno(), "rb", close=False).read()
        self._interrupt()

    def _fail(self, why: str, exit_code: int) -> None:
        self._failure = WorkerError(why, exit_code)
        gevent.spawn(self._quit)

    def _be_welcome(self, environment: Environment, msg: LocustMessage) -> None:  # noqa: ARG002  # locust's names
        self._is_welcome.set()
        self._say(f"joined as {unpacked(msg.data, Welcome).name}; Ctrl-C leaves")

    def _be_dismissed(self, environment: Environment, msg: LocustMessage) -> None:  # noqa: ARG002
        self._is_dismissed = True

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(text)

    def _interrupt(self) -> None:
        self._is_interrupted = True
        self._quit()

    def _quit(self) -> None:
        if self._process is not None:
            self._process.leaves = True
        events: Any = self._runner.environment.events  # not typed
        events.quitting.fire(environment=self._runner.environment, reverse=True)
        self._runner.quit()

    def _leave(self, environment: Environment, msg: LocustMessage) -> None:  # noqa: ARG002  # locust's names
        self._is_welcome.set()
        versions = f"the master runs kabench {msg.data['version']}, this worker {__version__}"
        self._fail(f"{versions}: install the same on both", CANNOT_START)

    def _begin(self, environment: Environment, msg: LocustMessage) -> None:  # noqa: ARG002
        begin = unpacked(msg.data, Begin)
        if self._process is not None:
            self._process.end()
        self._say(f"a share of the load through {begin.task.agent}")
        self._process = _Process(begin, self._runner)

    def _obey(self, environment: Environment, msg: LocustMessage) -> None:  # noqa: ARG002
        order = unpacked(msg.data, Order)
        process = self._process
        if order.part == EVERY_PART:
            self._fail(
                "the master heard nothing from this worker for too long, and goes on without it", COULD_NOT_MEASURE
            )
        elif process is None or order.part != process.part:
            return
        elif order.what == GO:
            process.tell(encode(Go(monotonic() + LEAD_S)))
        elif order.what == STOP:
            process.tell(STOP_LINE)
        else:
            process.kill()


class _Process:
    """The process of `kabench.load` that sends this worker's share of the load."""

    def __init__(self, begin: Begin, runner: WorkerRunner) -> None:
        self.part = begin.part
        self.leaves = False
        self._runner = runner
        self._process = start_child(WORKER_COMMAND)
        self._progress_at = 0.0
        self.tell(encode(begin.task))
        self._listener = gevent.spawn(self._listen)

    def tell(self, line: bytes) -> None:
        """Send a line to the process."""
        write_line(self._process, line)

    def _listen(self) -> None:
        """Pass on what the process says, in one locust message for each second."""
        unsent: list[Message] = []
        for line in self._process.stdout or ():
            try:
                message = decode(line)
            except msgspec.DecodeError:
                break  # cut off in the middle: the process is dying
            if isinstance(message, Up):
                continue
            if isinstance(message, Progress) and monotonic() - self._progress_at < _PROGRESS_EVERY_S:
                continue
            unsent.append(message)
            if isinstance(message, Counts):
                continue  # its second is about to end
            self._progress_at = monotonic()
            self._send(SAID, Said(self.part, unsent))
            unsent = []
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._send(ENDED, Ended(self.part, "it left" if self.leaves else ending(self._process)))

    def _send(self, kind: str, message: Said | Ended) -> None:
        self._runner.send_message(kind, packed(message))

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def end(self) -> None:
        """End the process, and wait until it has ended."""
        end_child(self._process)
        self._listener.join(timeout=1.0)


def _why_nobody_answers(host: str, port: int, patience_s: float) -> str:
    try:
        socket.getaddrinfo(host.strip("[]"), port)
    except OSError as error:
        return f"there is no host {host}: {error.strerror or error}"
    return (
        f"no master answers at {host}:{port} within {patience_s:g} s; is kabench run --distributed running there, with "
        "a --bind and a firewall that let this machine connect?"
    )


def say(text: str) -> None:
    """Print a line to standard error."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"kabench worker: {text}\n")
        sys.stderr.flush()


def main(host: str, port: str, patience_s: str, *options: str) -> int:
    """Join a master, carry out its orders, and return an exit code."""
    logging.disable(logging.CRITICAL)  # this module says all there is to say
    try:
        Worker(host, int(port), float(patience_s), quiet="--quiet" in options).serve()
    except WorkerError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
