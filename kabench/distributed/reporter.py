"""`install`: makes a locust test show its sockets while it runs, print kabench's report at its end and save its record.

Workers add what they measured to the reports that locust's workers send (`report_to_master`), and send the rest when
their test is over. The master adds it up; without a master, the one process does.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import weakref
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from locust.runners import (
    STATE_CLEANUP,
    STATE_MISSING,
    STATE_RUNNING,
    STATE_SPAWNING,
    STATE_STOPPED,
    LocalRunner,
    MasterRunner,
    WorkerRunner,
)

from kabench.distributed.exits import CANNOT_START
from kabench.distributed.gathering import AgentNow, AgentReport, Gathering, WorkerReport
from kabench.distributed.protocol import TURNED_AWAY, packed, unpacked, version_of
from kabench.distributed.sampling import Sampler
from kabench.distributed.senders import Senders
from kabench.distributed.user_task import request_of, users_of
from kabench.distributed.web_tab import show_sockets
from kabench.load.figures.environment import environment_of
from kabench.redaction import redacted_url
from kabench.result import ResultError, RunResult, new_id, now_as_text, record_file_name, save_result
from kabench.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.env import Environment
    from locust.rpc import Message
    from locust.runners import Runner

_LAST = "kabench_last"
_FINISH = "kabench_finish"
_DATA = "kabench"

_EVERY_S = 1.0
_LOOK_FOR_LOST_EVERY_S = 0.25
_LAST_REPORTS_TAKE_AT_MOST_S = 10.0
_LOCAL = "local"

_log = logging.getLogger(__name__)

_installed: weakref.WeakSet[Environment] = weakref.WeakSet()


def install(environment: Environment, *, results: str | Path | None = "results", **_: object) -> None:
    """Report a locust test as kabench does: a report at its end, a record in the folder `results` (None: none), and a
    tab in locust's web page.

    Write this line into the locust file, which every worker runs too:
    `events.init.add_listener(kabench.distributed.install)`.
    """
    if environment in _installed:
        return
    _installed.add(environment)
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        _Master(environment, runner, results)
    elif isinstance(runner, WorkerRunner):
        _Worker(environment, runner)
    elif isinstance(runner, LocalRunner):
        collector = _Collector(environment, runner, results)
        _Measurer(environment, runner, lambda report: collector.take(_LOCAL, report), collector.finish)
    else:
        raise TypeError("install: the environment has no runner yet; call it from a listener of events.init")


class _Measurer:
    """Measures the users of one process, and hands over what it measured."""

    def __init__(
        self,
        environment: Environment,
        runner: Runner,
        hand_over: Callable[[WorkerReport], None] | None,
        ended: Callable[[], None],
    ) -> None:
        self._runner = runner
        self._hand_over = hand_over
        self._ended = ended
        self._sampler = Sampler()
        self._unsent: list[AgentReport] = []
        self._ticker: gevent.Greenlet | None = None
        self._zero = monotonic()
        self._senders = Senders.of(environment)
        self._senders.listeners.append(self._unsent.append)
        events: Any = environment.events  # locust's hooks have no types
        events.request.add_listener(self._sampler.on_request)
        events.test_start.add_listener(self._begin)
        events.test_stop.add_listener(self._end)

    def _begin(self, **_: object) -> None:
        self._zero = monotonic()
        self._unsent.clear()
        self._sampler.begin()
        self._ticker = self._runner.greenlet.spawn(self._tick)

    def _tick(self) -> None:
        seconds = 0
        while True:
            seconds += 1
            gevent.sleep(max(0.0, self._zero + seconds * _EVERY_S - monotonic()))
            self._unsent += self._sampler.take(monotonic() - self._zero)
            if self._hand_over is not None:
                self._hand_over(self.report())

    def report_now(self) -> WorkerReport:
        """Return what was measured until now, in the middle of a second."""
        if self._ticker is not None:
            self._unsent += self._sampler.take(monotonic() - self._zero, is_part=True)
        return self.report()

    def report(self, *, is_last: bool = False) -> WorkerReport:
        """Return what was measured since the last report."""
        reports = self._unsent[:]
        self._unsent.clear()
        return WorkerReport(socket.gethostname(), monotonic() - self._zero, reports, is_last)

    def _end(self, **_: object) -> None:
        if self._ticker is not None:
            self._ticker.kill()
            self._ticker = None
            self._senders.finish()
            self._unsent += self._sampler.take(monotonic() - self._zero)
        if self._hand_over is not None:
            self._hand_over(self.report(is_last=True))
        self._ended()


class _Worker:
    """A locust worker: measures, and reports to the master."""

    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._measurer = _Measurer(environment, runner, None, self._say_last)
        events: Any = environment.events
        events.report_to_master.add_listener(self._add_to_report)
        runner.register_message(_FINISH, self._finish, concurrent=True)
        runner.register_message(TURNED_AWAY, self._leave)

    def _add_to_report(self, data: dict[str, Any], **_: object) -> None:
        data[_DATA] = packed(self._measurer.report_now())

    def _say_last(self) -> None:
        """Send the last report, and locust's, at once: a master that quits waits half a second for locust's."""
        self._runner._send_stats()  # noqa: SLF001  # locust has no other way
        self._runner.send_message(_LAST, packed(self._measurer.report(is_last=True)))

    def _finish(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002  # locust's names
        if self._runner.state not in (STATE_CLEANUP, STATE_STOPPED):
            self._runner.stop()

    def _leave(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        _log.error("the master runs kabench %s, this worker %s: install the same", msg.data["version"], __version__)
        self._environment.process_exit_code = CANNOT_START
        gevent.spawn(self._runner.quit)


class _Collector:
    """Collects the reports of a test: adds them up, shows them, and makes one record of them."""

    def __init__(self, environment: Environment, runner: Runner, results: str | Path | None) -> None:
        self.environment = environment
        self._runner = runner
        self._folder = None if results is None else Path(results)
        self._gathering: Gathering | None = None
        self._started_at = ""
        self._shown_at_quit: Callable[[], None] | None = None
        events: Any = environment.events
        events.test_start.add_listener(self._begin)
        events.reset_stats.add_listener(self._reset)
        events.spawning_complete.add_listener(self._reset_if_asked)
        events.quit.add_listener(self._quit)
        if environment.web_ui is not None:
            show_sockets(environment.web_ui, self._now)

    def _now(self) -> list[AgentNow]:
        now = [] if self._gathering is None else self._gathering.now()
        return sorted(now, key=lambda agent: self._place_of(agent.agent))

    def _begin(self, **_: object) -> None:
        self._gathering = Gathering(monotonic())
        self._started_at = now_as_text()

    def take(self, worker: str, report: WorkerReport) -> None:
        """Add a worker's report."""
        if self._gathering is not None:
            self._gathering.hear(worker, report, monotonic())

    def _reset(self, **_: object) -> None:
        if self._gathering is not None:
            self._gathering.reset(monotonic())

    def _reset_if_asked(self, **_: object) -> None:
        if self.environment.reset_stats:
            self._reset()

    def finish(self) -> None:
        """Save the test's record and show its report, now that it is over."""
        if self._gathering is None:
            return
        gathering = self._gathering
        runs = sorted(gathering.runs(), key=lambda run: self._place_of(run.agent))
        if not runs:
            _log.warning("kabench: nothing was sent, so there is no report")
            return
        result = RunResult(
            id=new_id(),
            name=Path(self.environment.locustfile or "locust").stem,
            kabench_version=__version__,
            started_at=self._started_at,
            environment=environment_of(gathering.event_loop, _locust_version()),
            plan=plan_of_test(self.environment, self._runner),
            runs=runs,
        )
        written = self._save(result)
        if self.environment.parsed_options is not None and self.environment.parsed_options.headless:
            self._shown_at_quit = lambda: _show(result, written)
        else:
            _show(result, written)

    def _place_of(self, agent: str) -> int:
        """Return the place of a class in the locust file. Reports compare the others with the first."""
        names = list(self.environment.available_user_classes or self.environment.user_classes_by_name)
        return names.index(agent) if agent in names else len(names)

    def _save(self, result: RunResult) -> Path | None:
        if self._folder is None:
            return None
        path = self._folder / record_file_name(result)
        try:
            with contextlib.suppress(OSError):  # saving fails, too, and says why
                self._folder.mkdir(parents=True, exist_ok=True)
            save_result(result, path)
        except ResultError as error:
            _log.error("kabench: %s", error)  # one line, no traceback
            return None
        return path

    def _quit(self, **_: object) -> None:
        if self._shown_at_quit is not None:
            self._shown_at_quit()
            self._shown_at_quit = None


class _Master(_Collector):
    """The locust master: takes the workers' reports, and waits for the last ones."""

    def __init__(self, environment: Environment, runner: MasterRunner, results: str | Path | None) -> None:
        super().__init__(environment, runner, results)
        self._master = runner
        self._ended: set[str] = set()
        self._turned_away: set[str] = set()
        events: Any = environment.events
        events.worker_report.add_listener(self._hear_report)
        events.test_stop.add_listener(self._wait_and_finish)
        runner.register_message(_LAST, self._hear_last)
        runner.greenlet.spawn(self._look_for_lost)

    def _begin(self, **_: object) -> None:
        super()._begin()
        self._ended.clear()

    def _hear_report(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        if _DATA in data:
            self._hear(client_id, data[_DATA])

    def _hear_last(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002  # locust's names
        self._hear(msg.node_id, msg.data)
        self._ended.add(msg.node_id)
        if self._gathering is not None and self._master.state in (STATE_SPAWNING, STATE_RUNNING):
            self._gathering.lose(msg.node_id)  # it has left, and the test goes on

    def _hear(self, worker: str, data: object) -> None:
        version = version_of(data)
        if version != __version__:
            if worker not in self._turned_away:
                self._turned_away.add(worker)
                _log.error("worker %s runs kabench %s, this master %s: it is sent away", worker, version, __version__)
                self._master.send_message(TURNED_AWAY, {"version": __version__}, worker)
            return
        try:
            self.take(worker, unpacked(data, WorkerReport))
        except msgspec.DecodeError as error:
            _log.warning("kabench: a report of %s cannot be read: %s", worker, error)

    def _look_for_lost(self) -> None:
        while True:
            gevent.sleep(_LOOK_FOR_LOST_EVERY_S)
            if self._gathering is not None:
                for worker in self._gathering.worker_ids:
                    node = self._master.clients.get(worker)
                    if node is None or node.state == STATE_MISSING:
                        self._gathering.lose(worker)

    def _wait_and_finish(self, **_: object) -> None:
        """Have workers finish, if they have not, and wait for their last reports."""
        self._master.send_message(_FINISH)
        give_up_at = monotonic() + self.environment.stop_timeout + _LAST_REPORTS_TAKE_AT_MOST_S
        while self._waits() and monotonic() < give_up_at:
            gevent.sleep(0.01)
        self.finish()

    def _waits(self) -> bool:
        clients = self._master.clients
        return any(
            node.state != STATE_MISSING and node.id not in self._ended | self._turned_away for node in clients.all
        )


def _locust_version() -> dict[str, str]:
    import locust

    return {"locust": locust.__version__}


def plan_of_test(environment: Environment, runner: Runner) -> dict[str, Any]:  # JSON
    """Return the plan of a locust test, without secrets. Only their code knows what locust's own users send."""
    shape = environment.shape_class
    hosts = [environment.host, *(each.host for each in environment.user_classes)]
    url = next((host for host in hosts if host), None)
    return {
        "locustfile": environment.locustfile,
        "url": url and redacted_url(url),
        "users": sorted(each.__name__ for each in environment.user_classes),
        "requests": {each.__name__: request_of(each, environment.host) for each in users_of(environment)},
        "shape": None if shape is None else type(shape).__name__,
        "concurrency": runner.target_user_count if shape is None else None,
    }


def _show(result: RunResult, written: Path | None) -> None:
    from rich.console import Console

    from kabench.report.terminal import WIDTH, render_result

    console = Console(highlight=False, width=WIDTH)
    console.print()
    console.print(render_result(result))
    console.print()
    if written is not None:
        console.print(f"Record: {written}", style="dim", soft_wrap=True, markup=False)
