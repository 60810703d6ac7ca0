"""The master, `python -m kabench.distributed`: a locust master that passes messages between command line and workers.

It is a process of its own, since importing locust changes all of Python's blocking calls in a process. locust keeps the
connections to the workers and notices when one is lost; the load is kabench's. `protocol` defines the messages.
"""

from __future__ import annotations

from locust.env import Environment  # before anything else: it replaces what blocks  # isort: skip
import contextlib
import errno
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from gevent.fileobject import FileObject
from locust.runners import STATE_MISSING, MasterRunner

from kabench.distributed.protocol import (
    BEGIN,
    ENDED,
    EVERY_PART,
    GOODBYE,
    HELLO,
    KILL,
    ORDER,
    SAID,
    TURNED_AWAY,
    WELCOME,
    Begin,
    Ended,
    FromMaster,
    Gone,
    Hello,
    Joined,
    Open,
    Opened,
    Order,
    Refused,
    Said,
    ToMaster,
    TurnedAway,
    Welcome,
    name_of,
    packed,
    unpacked,
    version_of,
)
from kabench.version import __version__

if TYPE_CHECKING:
    from locust.rpc import Message

_LOOK_FOR_LOST_EVERY_S = 0.25

_from_line = msgspec.json.Decoder[ToMaster](ToMaster)


class Master:
    """Passes messages between the command line and the workers."""

    def __init__(self, runner: MasterRunner) -> None:
        self._runner = runner
        self._workers: dict[str, int] = {}
        self._ids: list[str] = []
        self._gone: set[int] = set()
        for kind, listener in (
            (HELLO, self._welcome),
            (SAID, self._pass_on_said),
            (ENDED, self._pass_on_ended),
        ):
            runner.register_message(kind, listener)
        runner.greenlet.spawn(self._look_for_lost)

    def obey(self, lines: FileObject) -> None:
        """Carry out what the command line says, until it closes its end."""
        for line in lines:
            match _from_line.decode(line):
                case Begin() as begin:
                    self._tell(begin.worker, BEGIN, begin)
                case Order() as order:
                    self._tell(order.worker, ORDER, order)

    def say_goodbye(self) -> None:
        """Tell all workers that the run is over. After that, locust tells them to quit."""
        for worker in range(len(self._ids)):
            if worker not in self._gone:
                self._runner.send_message(GOODBYE, None, self._ids[worker])

    def _tell(self, worker: int, kind: str, message: Begin | Order) -> None:
        if worker not in self._gone:
            self._runner.send_message(kind, packed(message), self._ids[worker])

    def _welcome(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002  # locust's names
        version = version_of(msg.data)
        if version != __version__:
            self._runner.send_message(TURNED_AWAY, {"version": __version__}, msg.node_id)
            _say(TurnedAway(msg.node_id.rpartition("_")[0], version))  # locust puts the host's name in front
        elif msg.node_id not in self._workers:
            worker = self._workers[msg.node_id] = len(self._ids)
            self._ids.append(msg.node_id)
            self._runner.send_message(WELCOME, packed(Welcome(name_of(worker))), msg.node_id)
            _say(Joined(worker, unpacked(msg.data, Hello).host))

    def _pass_on_said(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        self._pass_on(msg.node_id, unpacked(msg.data, Said))

    def _pass_on_ended(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        self._pass_on(msg.node_id, unpacked(msg.data, Ended))

    def _pass_on(self, node_id: str, message: Said | Ended) -> None:
        worker = self._workers.get(node_id)
        if worker is not None and worker not in self._gone:
            _say(msgspec.structs.replace(message, worker=worker))

    def _look_for_lost(self) -> None:
        """Look for workers that no longer answer. Later figures of one would come too late, so it is told to leave."""
        while True:
            gevent.sleep(_LOOK_FOR_LOST_EVERY_S)
            for node_id, worker in self._workers.items():
                node = self._runner.clients.get(node_id)
                if worker not in self._gone and (node is None or node.state == STATE_MISSING):
                    if node is not None:
                        self._runner.send_message(ORDER, packed(Order(EVERY_PART, KILL)), node_id)
                    self._gone.add(worker)
                    _say(Gone(worker))


def _say(message: FromMaster) -> None:
    line = msgspec.json.encode(message) + b"\n"
    try:
        _out.write(line)
        _out.flush()
    except OSError:
        os._exit(0)  # the command line is gone; workers notice that the master is gone, too


_out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
"""The stream that the command line reads. It is not standard output, because locust prints there."""


def main() -> None:
    """Open the master, and pass messages on until standard input ends."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable(logging.CRITICAL)  # the command line says all there is to say
    lines = FileObject(sys.stdin.fileno(), "rb", close=False)
    where = _from_line.decode(lines.readline())
    if not isinstance(where, Open):
        return
    try:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # locust prints there
            runner = Environment(user_classes=[]).create_master_runner(where.host, where.port)
    except (SystemExit, Exception) as error:  # locust exits where a port is taken, and zmq has errors of its own
        cause = error.__context__
        number = getattr(cause, "errno", None)
        taken = os.strerror(errno.EADDRINUSE)
        _say(Refused(taken if isinstance(error, SystemExit) else os.strerror(number) if number else str(error)))
        return
    master = Master(runner)
    _say(Opened(_port_of(runner)))
    master.obey(lines)
    master.say_goodbye()
    with contextlib.suppress(gevent.GreenletExit):
        runner.quit()


def _port_of(runner: Any) -> int:  # MasterRunner does not say which port it was given
    port: int = runner.server.port
    return port
