"""A worker: `python -m kabench.load`, a process that makes load through one agent. `messages` is how to speak to it."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import warnings
from time import perf_counter, process_time
from typing import NoReturn

import msgspec

from kabench.agent import CertificateError, ConnectError, ConnectTimeoutError, InsecureTlsWarning, TlsError
from kabench.load.agents import make_agent
from kabench.load.messages import Done, Failed, Message, Progress, Second, SocketCounts, Task, encode
from kabench.load.plan import LoadPlan
from kabench.load.recorder import Recorder
from kabench.load.users import User, tickets_for
from kabench.server.loop import loop_name, run

_PROGRESS_EVERY_S = 0.1
_TICKS_PER_SECOND = 10
_GRACE_S = 5.0
"""How long a run that ends by the clock waits for the answers it is owed."""

_CONNECT_ERRORS = {error.kind for error in (ConnectError, ConnectTimeoutError, TlsError, CertificateError)}
_LONGEST_LINE_BYTES = 2**31
_YOUNG_OBJECTS_BEFORE_COLLECTION = 50_000


class Worker:
    """Makes the load of one plan and tells standard output how it goes."""

    def __init__(self, task: Task) -> None:
        self._loop = asyncio.get_running_loop()
        self._plan = LoadPlan.from_message(task.plan)
        self._agent = make_agent(task.agent, self._plan.agent_options, self._plan.tls_options(task.ca_data))
        self._recorder = Recorder()
        self._over = asyncio.Event()
        self._interrupted = False
        self._tick_timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._started_at = self._ended_at = self._cpu_at_start = 0.0
        plan = self._plan
        prepared = self._agent.prepare(plan.method, task.url, headers=plan.headers, body=plan.data or None)
        self._users = [
            User(self._agent, prepared, tickets, self._recorder, self._user_finished) for tickets in tickets_for(plan)
        ]
        self._busy_users = len(self._users)

    async def work(self) -> None:
        """Make the load, to its end."""
        self._started_at = perf_counter()
        self._cpu_at_start = process_time()
        self._tick_timer = self._loop.call_later(_PROGRESS_EVERY_S, self._tick)
        if self._plan.duration_s is not None:
            self._loop.call_later(self._plan.duration_s, self._time_is_over)
        for user in self._users:
            user.next_request(perf_counter())
        await self._over.wait()
        self._tick_timer.cancel()
        self._say_second(self._ended_at)
        self._say(Done(self._interrupted, loop_name(self._loop), self._why_unreachable()))
        await self._agent.close()

    def interrupt(self) -> None:
        """Stop now; what is under way is given up."""
        self._interrupted = True
        self._abort_all()

    def _time_is_over(self) -> None:
        now = perf_counter()
        for user in self._users:
            user.stop_waiting(now)
        self._loop.call_later(_GRACE_S, self._patience_is_over)

    def _patience_is_over(self) -> None:
        now = perf_counter()
        for user in self._users:
            user.cut_off(now)

    def _abort_all(self) -> None:
        now = perf_counter()
        for user in self._users:
            user.stop_waiting(now)  # first, or those who wait would get the sockets of those who are aborted
        for user in self._users:
            user.abort(now)

    def _user_finished(self, _: User, now: float) -> None:
        self._busy_users -= 1
        if not self._busy_users:
            self._ended_at = now
            self._over.set()

    def _tick(self) -> None:
        self._ticks += 1
        now = perf_counter()
        if self._ticks % _TICKS_PER_SECOND == 0:
            self._say_second(now)
        else:
            elapsed_s = now - self._started_at
            self._say(Progress(elapsed_s, self._recorder.transactions, sum(self._recorder.errors.values())))
        self._see_whether_anybody_is_there()
        next_at = self._started_at + (self._ticks + 1) * _PROGRESS_EVERY_S
        self._tick_timer = self._loop.call_later(max(0.0, next_at - perf_counter()), self._tick)

    def _see_whether_anybody_is_there(self) -> None:
        """End a run in which every user has failed to connect and none has ever got an answer."""
        if not self._recorder.status_codes and all(user.has_got_nowhere for user in self._users):
            self._abort_all()

    def _why_unreachable(self) -> str | None:
        """Why no socket could ever be opened, if that is so."""
        if self._recorder.status_codes or self._interrupted:
            return None
        refusals = [user.refusal for user in self._users if user.refusal is not None]
        only_refused = set(self._recorder.errors) <= _CONNECT_ERRORS
        return refusals[0] if refusals and only_refused else None

    def _say_second(self, now: float) -> None:
        for counts in self._recorder.take_counts():
            self._say(counts)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._say(
            Second(
                elapsed_s=now - self._started_at,
                totals=self._recorder.totals(),
                sockets=self._socket_counts(),
                cpu_s=process_time() - self._cpu_at_start,
                max_rss_mb=usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
            )
        )

    def _socket_counts(self) -> SocketCounts:
        status = self._agent.get_current_status()
        return SocketCounts(
            created=status.create_socket_count,
            create_errors=status.create_socket_error_count,
            closed=status.close_socket_count,
            errors=status.error_socket_count,
            timeouts=status.timeout_socket_count,
            requests=status.request_count,
            retries=status.retry_count,
            free=sum(status.free_sockets.values()),
            active=sum(status.sockets.values()),
            pending=sum(status.requests.values()),
            tls_handshakes=self._agent.tls_handshake_count,
            tls_resumed=self._agent.tls_resumed_count,
        )

    @staticmethod
    def _say(message: Message) -> None:
        try:
            sys.stdout.buffer.write(encode(message))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            _leave()


def _leave() -> NoReturn:
    """End at once: whoever started this worker has gone, and nobody is left to tell."""
    os._exit(3)


async def _main() -> None:
    reader = asyncio.StreamReader(limit=_LONGEST_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    line = await reader.readline()
    warnings.simplefilter("ignore", InsecureTlsWarning)  # the report says it
    try:
        worker = Worker(msgspec.json.decode(line, type=Task))
    except (ValueError, TypeError) as error:
        sys.stdout.buffer.write(encode(Failed(str(error))))
        return
    listening = asyncio.ensure_future(_listen(reader, worker))
    # What is there by now stays; what a run makes is short-lived. So collections are rare and have little to look at.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS_BEFORE_COLLECTION)
    await worker.work()
    listening.cancel()


async def _listen(reader: asyncio.StreamReader, worker: Worker) -> None:
    while await reader.readline():
        worker.interrupt()
    _leave()


def main() -> None:
    """Take a task from standard input and carry it out."""
    run(_main())
