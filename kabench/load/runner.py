"""`run`: carries a plan out, agent by agent, each in fresh worker processes beside the server's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from kabench.load.clients.specs import check_spec, is_factory
from kabench.load.figures.environment import environment_of
from kabench.load.figures.messages import Counts, Done, Failed, Message, Progress, Ready, Second, SocketCounts, Task
from kabench.load.figures.tally import Tally, sockets_of_the_lost
from kabench.load.plan.plan import PlanError
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
    """No user could open a socket to the target."""


class MeasurementError(RuntimeError):
    """A run could not be finished. `result` is what was measured until then."""

    def __init__(self, why: str, result: RunResult) -> None:
        super().__init__(why)
        self.result = result


@dataclass(frozen=True, slots=True)
class AgentProgress:
    """How far one agent is, all workers together.

    `number` is the agent's place among those of the run, from 0, since a spec may be there twice. `elapsed_s` is below
    0 in the warm-up. `expected_transactions` None: it ends with time, at `duration_s`. `second` is the last whole
    second, `p50_s` and `p99_s` are those of all response times so far; None before the first second is over. `lost`
    says which workers were lost, and how, where the others go on.
    """

    agent: str
    number: int
    elapsed_s: float
    transactions: int
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
        self._crew: Workers | None = None

    def stop(self) -> None:
        """Stop the load; `run` returns what was measured, marked interrupted."""
        self.stopped = True
        if self._crew is not None:
            self._crew.stop()

    def attend(self, crew: Workers | None) -> None:
        """Note whom to stop."""
        self._crew = crew
        if self.stopped and crew is not None:
            crew.stop()


def run(
    plan: LoadPlan,
    agents: Sequence[str] = ("keepalive", "plain"),
    *,
    name: str | None = None,
    on_progress: Callable[[AgentProgress], None] | None = None,
    control: RunControl | None = None,
    workers_for: Callable[[Sequence[Task]], Workers] = LocalWorkers,
) -> RunResult:
    """Carry a plan out through each agent in turn. `workers_for` finds workers for as many tasks.

    Raises `AgentSpecError` for an unknown agent, or one that cannot do what the plan asks for, `PlanError` for what
    only a worker finds out, `ServerError` if kabench's own server cannot start, `TargetUnreachableError` if nobody
    answers at the URL, and `MeasurementError` if the server or a worker died or an agent had no successful transaction:
    that one carries what was measured.
    """
    for spec in agents:
        check_spec(spec, plan)
    control = control or RunControl()
    started_at = now_as_text()
    run_of = _Run(plan, on_progress, control, workers_for)
    server = _own_server(plan)
    try:
        _try_out_others(plan, agents, server)
        for spec in agents:
            if not run_of.carry_out(spec, server) or control.stopped:
                break
    finally:
        if server is not None:
            server.stop()
    result = RunResult(
        id=new_id(),
        name=name or "run",
        kabench_version=__version__,
        started_at=started_at,
        environment=environment_of(run_of.event_loop, run_of.versions),
        plan=plan.as_record(),
        runs=run_of.runs,
    )
    problem = run_of.problem
    if problem is None and not control.stopped:
        fruitless = [r.agent for r in run_of.runs if not r.successful_transactions]
        if fruitless:
            problem = f"{', '.join(fruitless)}: not one successful transaction"
    if problem is not None:
        raise MeasurementError(problem, result)
    return result


def check_agents(plan: LoadPlan, agents: Sequence[str]) -> None:
    """See that all agents can carry the plan out, before anything is sent.

    Raises `AgentSpecError`, `PlanError` and `ServerError` as `run` does. What is wrong with the first is left to `run`,
    which finds it at once.
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
    """kabench's own server, where the plan names no other."""
    if plan.url is not None or plan.targets:
        return None
    limits = ClientLimits(  # only the plan's own requests come to it
        max_connections=ClientLimits.UNLIMITED,
        max_head_bytes=ClientLimits.UNLIMITED,
        max_body_bytes=ClientLimits.UNLIMITED,
        max_held_bytes=ClientLimits.UNLIMITED,
    )
    return EmbeddedServer(ServerOptions(delay_s=plan.delay_s, tls=plan.tls, limits=limits))


def _try_out_others(plan: LoadPlan, agents: Sequence[str], server: EmbeddedServer | None) -> None:
    """Try the clients of a user's own, but the first: what is wrong with that is found before anything is sent."""
    for spec in agents[1:]:
        if is_factory(spec):
            _try_out(plan, spec, server)


def _task(plan: LoadPlan, spec: str, server: EmbeddedServer | None, index: int) -> Task:
    url, ca_data = ("", None) if server is None else (server.url, server.ca_data)
    return Task(plan, spec, url, ca_data, index)


def _try_out(plan: LoadPlan, spec: str, server: EmbeddedServer | None) -> None:
    """See whether a worker can make a user's own client. Raises `PlanError`."""
    team = LocalWorkers([_task(plan, spec, server, 0)])
    try:
        for heard in team.messages():
            if heard is not None and isinstance(heard[1], Failed):
                raise PlanError(heard[1].why)
            if heard is not None and isinstance(heard[1], Ready):
                return
    finally:
        team.end()


class _Run:
    """One run under way."""

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
        self._crew_of = workers_for
        self.runs: list[AgentRun] = []
        self._problems: list[str] = []
        self.event_loop = "unknown"
        self.versions: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """What went wrong, if anything did."""
        return "; ".join(self._problems) or None

    def carry_out(self, spec: str, server: EmbeddedServer | None) -> bool:
        """Send the load through one agent and add its `AgentRun`, or what there is of it; whether to go on."""
        crew = self._crew_of([_task(self._plan, spec, server, index) for index in range(self._plan.workers)])
        part = _Part(self._plan, spec, len(self.runs), server, crew, self._on_progress)
        self._control.attend(crew)
        try:
            part.listen()
        finally:
            self._control.attend(None)
            crew.end()
        part.explain_losses()
        self.event_loop = part.event_loop
        self.versions |= part.versions
        problem = part.problem
        if part.failure is not None:
            if not self.runs:
                raise PlanError(part.failure)
            problem = f"{spec} could not begin: {part.failure}"
        elif part.unreachable is not None:
            if not self.runs:
                raise TargetUnreachableError(part.unreachable)
            problem = f"nobody answers {spec}: {part.unreachable}"
        self._problems += [problem] if problem is not None else []
        self.runs.append(part.tally.agent_run(interrupted=self._control.stopped or not part.went_to_its_end))
        return part.went_to_its_end


class _Part:
    """One agent's part of a run: its workers, and what they say."""

    def __init__(
        self,
        plan: LoadPlan,
        spec: str,
        number: int,
        server: EmbeddedServer | None,
        crew: Workers,
        on_progress: Callable[[AgentProgress], None] | None,
    ) -> None:
        self._plan = plan
        self._spec = spec
        self._number = number
        self._server = server
        self._on_progress = on_progress
        self._crew = crew
        if server is not None:
            crew.keep_apart_from(server.process)
        self.tally = Tally(spec, crew.members, expects_status=bool(plan.expect_status))
        self._ready: set[int] = set()
        self._has_begun = self._was_stopped = False
        self._progress: dict[int, Progress] = {}
        self._done: dict[int, Done] = {}
        self._lost: list[int] = []
        self._seconds_seen = 0
        self._p50_s: float | None = None
        self._p99_s: float | None = None
        self.problem: str | None = None
        self.failure: str | None = None
        self.event_loop = "unknown"
        self.versions: dict[str, str] = {}

    def listen(self) -> None:
        """Hear the workers to their end."""
        for heard in self._crew.messages():
            self._look_after_server()
            if heard is not None:
                self._hear(*heard)

    def _look_after_server(self) -> None:
        server = self._server
        if server is not None and self.problem is None and not server.is_running:
            self.problem = f"the echo server died ({ending(server.process)}) while {self._spec} was under way"
            self._stop()

    def _hear(self, index: int, message: Message | None) -> None:
        match message:
            case Counts():
                self.tally.add_counts(index, message)
            case Second():
                self.tally.end_second(index, message)
                self._progress[index] = message.as_progress()
                self._report_seconds()
            case Progress():
                self._progress[index] = message
                self._report()
            case Ready():
                self.event_loop = message.event_loop
                self.versions |= message.versions
                self._ready.add(index)
                self._go_if_all_are_ready()
            case Done():
                self._done[index] = message
            case Failed(why=why):
                member = self._crew.members[index]
                self.failure = f"{member.name} on {member.host}: {why}" if self._crew.goes_on else why
                self._stop()
            case None:
                self._ended(index)

    def _report_seconds(self) -> None:
        """Report each second that all workers have said. Percentiles are looked at then: that is a long walk."""
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
            self._crew.go()

    def _ended(self, index: int) -> None:
        done = self._done.get(index)
        is_lost = done is None
        self.tally.end_worker(index, elapsed_s=None if done is None else done.elapsed_s, lost=is_lost)
        if is_lost and self.failure is None:
            self._lost.append(index)
            if self._crew.goes_on:
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
        self._crew.stop()

    def explain_losses(self) -> None:
        """Say which workers were lost, and how; their processes have ended."""
        if self._lost and self.problem is None:
            self.problem = f"{', '.join(self._losses)} while {self._spec} was under way"

    @property
    def _losses(self) -> tuple[str, ...]:
        """Who was lost, and how."""
        members = self._crew.members
        verb = " was lost" if self._crew.goes_on else " died"
        on = [f" on {member.host}" if self._crew.goes_on and member.host else "" for member in members]
        return tuple(f"{members[i].name}{on[i]}{verb} ({self._crew.ending_of(i)})" for i in self._lost)

    @property
    def went_to_its_end(self) -> bool:
        """Whether some workers at least made all of their load."""
        return bool(self._done) and not self._was_stopped and self.unreachable is None

    @property
    def unreachable(self) -> str | None:
        """Why nobody could be reached, by any worker; some may have had nothing to send."""
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
                socket_errors=sum(progress.socket_errors for progress in latest),
                not_started=sum(progress.not_started for progress in latest),
                expected_transactions=self._plan.expected_transactions,
                duration_s=self._plan.ends_after_s,
                sockets=SocketCounts.sum_of(progress.sockets for progress in latest),
                second=second or (series[-1] if series else None),
                p50_s=self._p50_s,
                p99_s=self._p99_s,
                lost=self._losses if self._lost and self._crew.goes_on else (),
            )
        )
