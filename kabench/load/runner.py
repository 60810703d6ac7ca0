"""`run`: carries a plan out through one agent after the other, each in new worker processes.

New processes, so that no agent inherits sockets, memory or garbage of the one before it. What workers say goes into a
tally; here is decided when they go, when the run has failed, and what is reported meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from kabench.load.clients.specs import check_spec, is_factory
from kabench.load.figures.environment import environment_of
from kabench.load.figures.messages import Counts, Done, Failed, Message, Progress, Ready, Second, SocketCounts, Task
from kabench.load.figures.tally import Tally, sockets_of_the_lost
from kabench.load.plan.plan import GIVES_UP_AFTER_S, PlanError
from kabench.load.workers.local import LocalWorkers
from kabench.result import AgentRun, RunResult, SeriesPoint, new_id, now_as_text
from kabench.server import ClientLimits, EmbeddedServer, ServerOptions
from kabench.system.child import ending
from kabench.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kabench.load.plan.plan import LoadPlan
    from kabench.load.workers.workers import Workers


class TargetUnreachableError(ConnectionError):
    """No worker could open a socket to the target."""


class MeasurementError(RuntimeError):
    """A run could not be finished. `result` holds what was measured until then."""

    def __init__(self, why: str, result: RunResult) -> None:
        super().__init__(why)
        self.result = result


@dataclass(frozen=True, slots=True)
class AgentProgress:
    """How far one agent is, all workers together.

    `number` is the agent's place among those of the run, from 0, since a spec may be there twice. `elapsed_s` is below
    0 in the warm-up. Where `expected_transactions` is None, time ends the load, at `duration_s`. `second` is the last
    whole second; `p50_s` and `p99_s` are of all response times so far; all three are None before the first second is
    over. `lost` says which workers were lost, and how, where the others go on.
    """

    agent: str
    number: int
    elapsed_s: float
    transactions: int
    failed_transactions: int
    socket_errors: int
    not_started: int
    expected_transactions: int | None
    duration_s: float | None
    sockets: SocketCounts
    second: SeriesPoint | None
    p50_s: float | None
    p99_s: float | None
    lost: tuple[str, ...] = ()


class RunControl:
    """Stops a run from a signal handler or another thread."""

    def __init__(self) -> None:
        self.stopped = False
        self._workers: Workers | None = None

    def stop(self) -> None:
        """Stop the load; `run` returns what was measured, marked interrupted."""
        self.stopped = True
        if self._workers is not None:
            self._workers.stop()

    def set_workers(self, workers: Workers | None) -> None:
        """Note which workers to stop; stop them at once if `stop` was called before."""
        self._workers = workers
        if self.stopped and workers is not None:
            workers.stop()


def run(
    plan: LoadPlan,
    agents: Sequence[str] | None = None,
    *,
    name: str | None = None,
    on_progress: Callable[[AgentProgress], None] | None = None,
    control: RunControl | None = None,
    workers_for: Callable[[Sequence[Task]], Workers] = LocalWorkers,
) -> RunResult:
    """Carry a plan out through each agent in turn; None: those of `default_agents`.

    `workers_for` finds a worker for each task.

    Raises `AgentSpecError` for an agent that does not exist or cannot do what the plan asks for, `PlanError` for what
    only a worker finds out, `ServerError` if kabench's own server cannot start, `TargetUnreachableError` if nobody
    answers at the URL, and `MeasurementError`, with what was measured, if the server or a worker died or an agent had
    no successful transaction.
    """
    agents = default_agents(plan) if agents is None else agents
    for spec in agents:
        check_spec(spec, plan)
    control = control or RunControl()
    started_at = now_as_text()
    execution = _Execution(plan, on_progress, control, workers_for)
    server = _own_server(plan)
    try:
        _try_out_others(plan, agents, server)
        for spec in agents:
            if not execution.carry_out(spec, server) or control.stopped:
                break
    finally:
        if server is not None:
            server.stop()
    result = RunResult(
        id=new_id(),
        name=name or "run",
        kabench_version=__version__,
        started_at=started_at,
        environment=environment_of(execution.event_loop, execution.versions),
        plan=plan.as_record(),
        runs=execution.runs,
    )
    problem = execution.problem
    if problem is None and not control.stopped:
        fruitless = [r.agent for r in execution.runs if not r.successful_transactions]
        if fruitless:
            problem = f"{', '.join(fruitless)}: not one successful transaction"
    if problem is not None:
        raise MeasurementError(problem, result)
    return result


def default_agents(plan: LoadPlan) -> list[str]:
    """Return the published benchmark's two agents, or, for somebody's server, the keepalive agent alone."""
    return ["keepalive", "plain"] if plan.has_own_server else ["keepalive"]


def check_agents(plan: LoadPlan, agents: Sequence[str]) -> None:
    """Check that all agents can carry the plan out, before anything is sent.

    Raises `AgentSpecError`, `PlanError` and `ServerError` as `run` does. What is wrong with the first agent is left to
    `run`, which finds it before it sends anything.
    """
    for spec in agents:
        check_spec(spec, plan)
    if any(is_factory(spec) for spec in agents[1:]):
        server = _own_server(plan)
        try:
            _try_out_others(plan, agents, server)
        finally:
            if server is not None:
                server.stop()


def _own_server(plan: LoadPlan) -> EmbeddedServer | None:
    """Start kabench's own server, if the plan names no other."""
    if not plan.has_own_server:
        return None
    limits = ClientLimits(  # only the plan's own requests come to it
        max_connections=ClientLimits.UNLIMITED,
        max_head_bytes=ClientLimits.UNLIMITED,
        max_body_bytes=ClientLimits.UNLIMITED,
        max_held_bytes=ClientLimits.UNLIMITED,
    )
    return EmbeddedServer(ServerOptions(delay_s=plan.delay_s, tls=plan.tls, limits=limits))


def _try_out_others(plan: LoadPlan, agents: Sequence[str], server: EmbeddedServer | None) -> None:
    """Try out a user's own clients, except the first agent: what is wrong with it shows before anything is sent."""
    for spec in agents[1:]:
        if is_factory(spec):
            _try_out(plan, spec, server)


def _task(plan: LoadPlan, spec: str, server: EmbeddedServer | None, index: int) -> Task:
    url, ca_data = ("", None) if server is None else (server.url, server.ca_data)
    return Task(plan, spec, url, ca_data, index)


def _try_out(plan: LoadPlan, spec: str, server: EmbeddedServer | None) -> None:
    """Have a worker make a user's own client. Raises `PlanError` if it cannot."""
    workers = LocalWorkers([_task(plan, spec, server, 0)])
    try:
        for heard in workers.messages():
            if heard is not None and isinstance(heard[1], Failed):
                raise PlanError(heard[1].why)
            if heard is not None and isinstance(heard[1], Ready):
                return
    finally:
        workers.end()


class _Execution:
    """A run under way: carries the plan out through an agent, and keeps each `AgentRun`."""

    def __init__(
        self,
        plan: LoadPlan,
        on_progress: Callable[[AgentProgress], None] | None,
        control: RunControl,
        workers_for: Callable[[Sequence[Task]], Workers],
    ) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._control = control
        self._workers_for = workers_for
        self.runs: list[AgentRun] = []
        self._problems: list[str] = []
        self.event_loop = "unknown"
        self.versions: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """What went wrong, if anything did."""
        return "; ".join(self._problems) or None

    def carry_out(self, spec: str, server: EmbeddedServer | None) -> bool:
        """Send the load through one agent, and add its `AgentRun` or what there is of it. Return whether to go on."""
        workers = self._workers_for([_task(self._plan, spec, server, index) for index in range(self._plan.workers)])
        current = _AgentExecution(self._plan, spec, len(self.runs), server, workers, self._on_progress)
        self._control.set_workers(workers)
        try:
            current.listen()
        finally:
            self._control.set_workers(None)
            workers.end()
        current.explain_losses()
        self.event_loop = current.event_loop
        self.versions |= current.versions
        problem = current.problem
        if current.failure is not None:
            if not self.runs:
                raise PlanError(current.failure)
            problem = f"{spec} could not begin: {current.failure}"
        elif current.unreachable is not None:
            if not self.runs:
                raise TargetUnreachableError(current.unreachable)
            problem = f"nobody answers {spec}: {current.unreachable}"
        self._problems += [problem] if problem is not None else []
        self.runs.append(
            current.tally.agent_run(
                interrupted=self._control.stopped or not current.is_complete, stopped_by=current.stopped_by
            )
        )
        return current.is_complete


class _AgentExecution:
    """The load through one agent: listens to its workers, tells them to go or stop, and reports progress."""

    def __init__(
        self,
        plan: LoadPlan,
        spec: str,
        number: int,
        server: EmbeddedServer | None,
        workers: Workers,
        on_progress: Callable[[AgentProgress], None] | None,
    ) -> None:
        self._plan = plan
        self._spec = spec
        self._number = number
        self._server = server
        self._on_progress = on_progress
        self._workers = workers
        if server is not None:
            workers.keep_apart_from(server.process)
        names = plan.target_names("" if server is None else server.url).all
        self.tally = Tally(spec, workers.records, target=names[0])
        self._ready: set[int] = set()
        self._has_begun = self._was_stopped = False
        self._progress: dict[int, Progress] = {}
        self._done: dict[int, Done] = {}
        self._lost: list[int] = []
        self._seconds_seen = 0
        self._p50_s: float | None = None
        self._p99_s: float | None = None
        self._has_succeeded = False
        self._began_at = inf
        self._is_fruitless = False
        self.problem: str | None = None
        self.failure: str | None = None
        self.event_loop = "unknown"
        self.versions: dict[str, str] = {}

    def listen(self) -> None:
        """Hear the workers until all have ended."""
        for heard in self._workers.messages():
            self._look_after_server()
            self._look_for_success()
            if heard is not None:
                self._hear(*heard)

    def _look_after_server(self) -> None:
        server = self._server
        if server is not None and self.problem is None and not server.is_running:
            self.problem = f"the echo server died ({ending(server.process)}) while {self._spec} was under way"
            self._stop()

    def _look_for_success(self) -> None:
        """Stop a load of which nothing has succeeded for too long."""
        is_patient = self._plan.keep_trying or self._has_succeeded or self._was_stopped
        if is_patient or monotonic() - self._began_at < GIVES_UP_AFTER_S:
            return
        self._is_fruitless = True
        self.problem = (
            f"{self._spec}: nothing has succeeded in the first {GIVES_UP_AFTER_S:g} s, so the load was stopped; "
            "--keep-trying goes on"
        )
        self._stop()

    def _note(self, index: int, progress: Progress) -> None:
        self._progress[index] = progress
        self._has_succeeded = self._has_succeeded or progress.transactions > progress.failed_answers

    @property
    def stopped_by(self) -> str:
        """What ended the load early, as `AgentRun` has it."""
        if self._is_fruitless:
            return "no_success"
        expected = self._plan.expected_transactions
        sent = self.tally.transactions + self.tally.socket_errors
        is_short = expected is not None and self._plan.stop_after_s is not None and sent < expected
        return "stop_after" if is_short and self.is_complete else ""

    def _hear(self, index: int, message: Message | None) -> None:
        match message:
            case Counts():
                self.tally.add_counts(index, message)
            case Second():
                self.tally.end_second(index, message)
                self._note(index, message.as_progress())
                self._report_seconds()
            case Progress():
                self._note(index, message)
                self._report()
            case Ready():
                self.event_loop = message.event_loop
                self.versions |= message.versions
                self._ready.add(index)
                self._go_if_all_are_ready()
            case Done():
                self._done[index] = message
            case Failed(why=why):
                worker = self._workers.records[index]
                self.failure = f"{worker.name} on {worker.host}: {why}" if self._workers.goes_on else why
                self._stop()
            case None:
                self._ended(index)

    def _report_seconds(self) -> None:
        """Report each second that all workers have said. Only then are percentiles computed, which takes long."""
        if self._on_progress is None:
            return
        new = self.tally.series[self._seconds_seen :]
        self._seconds_seen = len(self.tally.series)
        if new:
            self._p50_s, self._p99_s = self.tally.percentile_s(50), self.tally.percentile_s(99)
        for second in new[:-1]:
            self._report(second)
        self._report()

    def _go_if_all_are_ready(self) -> None:
        if not self._has_begun and len(self._ready.union(self._lost)) == self._plan.workers:
            self._has_begun = True
            self._began_at = monotonic()
            self._workers.go()

    def _ended(self, index: int) -> None:
        done = self._done.get(index)
        is_lost = done is None
        self.tally.end_worker(index, elapsed_s=None if done is None else done.elapsed_s, lost=is_lost)
        if is_lost and self.failure is None:
            self._lost.append(index)
            if self._workers.goes_on:
                last = self._progress.get(index)
                if last is not None:
                    gone = sockets_of_the_lost(last.sockets)
                    self._progress[index] = msgspec.structs.replace(last, sockets=gone)
                    self._report_seconds()
                self._go_if_all_are_ready()
            else:
                self._stop()

    def _stop(self) -> None:
        self._was_stopped = True
        self._workers.stop()

    def explain_losses(self) -> None:
        """Note as the problem which workers were lost, and how. Call it when their processes have ended."""
        if self._lost and self.problem is None:
            self.problem = f"{', '.join(self._losses)} while {self._spec} was under way"

    @property
    def _losses(self) -> tuple[str, ...]:
        """Which workers were lost, and how."""
        records = self._workers.records
        verb = " was lost" if self._workers.goes_on else " died"
        on = [f" on {record.host}" if self._workers.goes_on and record.host else "" for record in records]
        return tuple(f"{records[i].name}{on[i]}{verb} ({self._workers.ending_of(i)})" for i in self._lost)

    @property
    def is_complete(self) -> bool:
        """Whether at least some workers made their whole load."""
        return bool(self._done) and not self._was_stopped and self.unreachable is None

    @property
    def unreachable(self) -> str | None:
        """Why no worker could reach the target; workers with nothing to send do not count."""
        reasons = [done.unreachable for done in self._done.values() if done.unreachable is not None]
        return reasons[0] if reasons and not self.tally.transactions else None

    def _report(self, second: SeriesPoint | None = None) -> None:
        if self._on_progress is None:
            return
        latest = self._progress.values()
        series = self.tally.series
        self._on_progress(
            AgentProgress(
                agent=self._spec,
                number=self._number,
                elapsed_s=max(progress.elapsed_s for progress in latest),
                transactions=sum(progress.transactions for progress in latest),
                failed_transactions=sum(progress.failed_answers + progress.socket_errors for progress in latest),
                socket_errors=sum(progress.socket_errors for progress in latest),
                not_started=sum(progress.not_started for progress in latest),
                expected_transactions=self._plan.expected_transactions,
                duration_s=self._plan.time_limit_s,
                sockets=SocketCounts.sum_of(progress.sockets for progress in latest),
                second=second or (series[-1] if series else None),
                p50_s=self._p50_s,
                p99_s=self._p99_s,
                lost=self._losses if self._lost and self._workers.goes_on else (),
            )
        )
