"""A worker of a distributed run: `python -m kabench.distributed.worker`, on whatever machine.

It is a locust worker that starts `kabench.load` when it is told to, and a process of its own, since importing locust
changes all of Python's blocking calls. What it has to say it says on standard error; its exit codes are kabench's.
"""

from __future__ import annotations

from locust import runners  # before anything else: it replaces what blocks  # isort: skip
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from locust.env import Environment

from kabench import __version__
from kabench.distributed.protocol import (
    BEGIN,
    ENDED,
    GO,
    HELLO,
    ORDER,
    SAID,
    STOP,
    TURNED_AWAY,
    Begin,
    Ended,
    Hello,
    Order,
    Said,
    packed,
    unpacked,
)
from kabench.load.messages import STOP as STOP_LINE
from kabench.load.messages import Counts, Go, Message, Progress, Up, decode, encode
from kabench.load.team import LEAD_S, WORKER_COMMAND, ending
from kabench.server.child import end_child, start_child

if TYPE_CHECKING:
    from locust.rpc import Message as LocustMessage
    from locust.runners import WorkerRunner

_PROGRESS_EVERY_S = 1.0
"""A worker's process says ten times a second how far it is; not all of that is worth the way."""


_MOST_TRIES = 300
"""To reach the master; locust's tries are nested calls."""

_CANNOT_START = 2
_COULD_NOT_MEASURE = 3
_INTERRUPTED = 130


class WorkerError(RuntimeError):
    """A worker cannot work; `exit_code` is its process's."""

    def __init__(self, why: str, exit_code: int) -> None:
        super().__init__(why)
        self.exit_code = exit_code


class Worker:
    """One worker.

    Raises `WorkerError` where no master answers within `patience_s`, and `KeyboardInterrupt`.
    """

    def __init__(self, host: str, port: int, patience_s: float, *, quiet: bool) -> None:
        self._quiet = quiet
        self._process: _Process | None = None
        self._turned_away: str | None = None
        self._is_interrupted = False
        self._say(f"looking for the master at {host}:{port}")
        tries = max(1, min(_MOST_TRIES, round(patience_s)))
        runners.CONNECT_TIMEOUT = max(1, round(patience_s / tries))
        runners.CONNECT_RETRY_COUNT = tries - 1
        try:
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
                self._runner: WorkerRunner = Environment(user_classes=[]).create_worker_runner(host, port)
        except ConnectionError:
            raise WorkerError(
                f"no master answers at {host}:{port} within {patience_s:g} s; is kabench run --distributed running "
                "there, with --bind and a firewall that let one in?",
                _COULD_NOT_MEASURE,
            ) from None
        except SystemExit:  # how locust ends when it is interrupted meanwhile
            raise KeyboardInterrupt from None
        for kind, listener in ((BEGIN, self._begin), (ORDER, self._obey), (TURNED_AWAY, self._leave)):
            self._runner.register_message(kind, listener)
        self._runner.send_message(HELLO, packed(Hello(__version__, socket.gethostname())))

    def serve(self) -> None:
        """Do as the master says until it quits, or is gone. Raises `WorkerError`, and `KeyboardInterrupt`."""
        gevent.signal_handler(signal.SIGTERM, self._interrupt)
        self._say("joined the master; Ctrl-C leaves it")
        try:
            self._runner.greenlet.join()
        finally:
            if self._process is not None:
                self._process.end()
        if self._turned_away is not None:
            raise WorkerError(
                f"the master runs kabench {self._turned_away}, this worker {__version__}: install the same on both",
                _CANNOT_START,
            )
        if self._is_interrupted:
            raise KeyboardInterrupt
        self._say("the master has ended the run")

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(text)

    def _interrupt(self) -> None:
        self._is_interrupted = True
        self._quit()

    def _quit(self) -> None:
        events: Any = self._runner.environment.events  # not typed
        events.quitting.fire(environment=self._runner.environment, reverse=True)
        self._runner.quit()

    def _leave(self, environment: Environment, msg: LocustMessage) -> None:  # noqa: ARG002  # locust's names
        self._turned_away = msg.data["version"]
        gevent.spawn(self._quit)

    def _begin(self, environment: Environment, msg: LocustMessage) -> None:  # noqa: ARG002
        begin = unpacked(msg.data, Begin)
        if self._process is not None:
            self._process.end()
        self._say(f"a share of the load through {begin.task.agent}")
        self._process = _Process(begin, self._runner)

    def _obey(self, environment: Environment, msg: LocustMessage) -> None:  # noqa: ARG002
        order = unpacked(msg.data, Order)
        process = self._process
        if process is None or order.part not in (process.part, -1):
            return
        if order.what == GO:
            process.tell(encode(Go(monotonic() + LEAD_S)))
        elif order.what == STOP:
            process.tell(STOP_LINE)
        else:
            process.kill()


class _Process:
    """The process of `kabench.load` that makes this worker's share."""

    def __init__(self, begin: Begin, runner: WorkerRunner) -> None:
        self.part = begin.part
        self._runner = runner
        self._process = start_child(WORKER_COMMAND)
        self._progress_at = 0.0
        self.tell(encode(begin.task))
        self._listener = gevent.spawn(self._listen)

    def tell(self, line: bytes) -> None:
        """Say a line to it."""
        stdin = self._process.stdin
        if stdin is not None:
            try:
                stdin.write(line)
                stdin.flush()
            except (OSError, ValueError):
                pass  # it has ended, which is told of as its end

    def _listen(self) -> None:
        """Pass on what it says, one message of locust for each second."""
        unsent: list[Message] = []
        for line in self._process.stdout or ():
            try:
                message = decode(line)
            except msgspec.DecodeError:
                break  # cut off in the middle: it is dying
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
        self._send(ENDED, Ended(self.part, ending(self._process)))

    def _send(self, kind: str, message: Said | Ended) -> None:
        self._runner.send_message(kind, packed(message))

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def end(self) -> None:
        """See it end."""
        end_child(self._process)
        self._listener.join(timeout=1.0)


def say(text: str) -> None:
    """A line to whoever reads errors."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"kabench worker: {text}\n")
        sys.stderr.flush()


def main(host: str, port: str, patience_s: str, *options: str) -> int:
    """Join a master, work, and say how it ended."""
    logging.disable(logging.CRITICAL)  # what there is to say, this module says
    try:
        Worker(host, int(port), float(patience_s), quiet="--quiet" in options).serve()
    except WorkerError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
