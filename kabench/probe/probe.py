"""`probe`: finds out what a server does to idle sockets, with several sockets in threads of their own."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from queue import Empty, Queue
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.agent import TlsOptions
from kabench.agent.aio.request import prepare
from kabench.agent.errors import AgentError
from kabench.probe.findings import CountFinding, Findings, RaceFinding, TlsFinding
from kabench.probe.idle import End, IdleObservations, ages_in_between, ages_to_ask_at
from kabench.probe.sockets import NoAnswerError, ProbeSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.probe.options import ProbeOptions
    from kabench.probe.sockets import Answered, Ending

_SHARE_FOR_COUNTING = 0.75
"""The share of the requests for counting how many one socket carries, which takes the most."""

_ENDS_THAT_SUFFICE = 3
_RACES_BEFORE_S = (0.05, 0.02, 0.01, 0.005, 0.002, -10.0)
"""Seconds before the expected close at which requests are sent, besides the round trip that they and its FIN take. The
last waits for the FIN, and so surely meets a closed socket."""

_MOST_SOCKETS = 60
_PATIENCE_S = 5.0
_SHARE_FOR_A_SLOW_ANSWER = 0.125
"""The share of the budget to wait for an answer on a socket that was idle, before it counts as dead."""

_LEAST_PATIENCE_S = 0.05
_FIRST_FAILED_STATUS = 400
_LAST_ANSWER_S = 0.3
"""Seconds of the budget that are left for the last answers."""

_TELL_EVERY_S = 0.2


class _OutOfRequestsError(Exception):
    """As many requests as were allowed have been sent; that says nothing of the server."""


_CAME_TO_NOTHING = (AgentError, NoAnswerError, _OutOfRequestsError)


class UnreachableError(ConnectionError):
    """The server at the URL does not answer."""


@dataclass(frozen=True, slots=True)
class ProbeProgress:
    """How far a probe is: sockets that are idle now, those that the server has ended, and requests sent."""

    elapsed_s: float
    idle_sockets: int
    ended_sockets: int
    requests: int


class ProbeControl:
    """Stops a probe from a signal handler or another thread."""

    def __init__(self) -> None:
        self.is_stopped = threading.Event()

    def stop(self) -> None:
        """Make `probe` return what it has found out until now, marked interrupted."""
        self.is_stopped.set()


def probe(
    options: ProbeOptions,
    on_progress: Callable[[ProbeProgress], None] = lambda _: None,
    control: ProbeControl | None = None,
) -> Findings:
    """Probe a server, for at most `budget_s` seconds, with at most `max_requests` requests.

    Raises `UnreachableError` if it does not answer, and `ValueError` for TLS options that cannot be used.
    """
    return _Probe(options, on_progress, control or ProbeControl()).run()


class _Requests:
    """The number of requests that all threads together may still send."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.sent = 0

    def take(self) -> bool:
        with self._lock:
            if self.sent >= self._most:
                return False
            self.sent += 1
            return True

    @property
    def left(self) -> int:
        return self._most - self.sent


@dataclass(frozen=True, slots=True)
class _Idled:
    """What became of a socket that was kept idle: the server ended it (`ending`), or it was asked at `age_s`."""

    age_s: float
    ending: Ending | None = None
    no_answer: End | None = None
    is_of_no_use: bool = False


@dataclass(frozen=True, slots=True)
class _Raced:
    """What became of a request that was sent as the server closed; None: it was not sent."""

    was_answered: bool | None


class _Probe:
    def __init__(
        self, options: ProbeOptions, on_progress: Callable[[ProbeProgress], None], control: ProbeControl
    ) -> None:
        self._options = options
        self._on_progress = on_progress
        self._control = control
        self._began_at = perf_counter()
        self._ends_at = self._began_at + options.budget_s
        self._prepared = prepare(options.method, options.url, options.headers, None, keep_alive=True)
        is_https = self._prepared.origin.scheme == "https"
        self._context = (options.tls or TlsOptions()).make_context() if is_https else None
        self._patience_s = min(_PATIENCE_S, options.budget_s)
        self._patience_with_the_idle_s = self._patience_s
        self._requests = _Requests(options.max_requests)
        self._heard: Queue[_Idled | _Raced | CountFinding | None] = Queue()
        self._is_over = threading.Event()
        self._sockets: set[ProbeSocket] = set()
        self._threads: list[threading.Thread] = []
        self._seen = IdleObservations()
        self._races: list[bool | None] = []
        self._races_started = 0
        self._round_trip_s = 0.0
        self._count: CountFinding | None = None
        self._idle_sockets_left = 0

    def run(self) -> Findings:
        first = self._first()
        if first.head.status >= _FIRST_FAILED_STATUS and not first.head.keep_alive:
            with contextlib.suppress(UnreachableError):
                first = self._first()  # an error often ends its socket; the next answer may differ
        self._patience_s = min(self._patience_s, max(1.0, 10 * first.elapsed_s))
        patience_s = min(_PATIENCE_S, self._options.budget_s * _SHARE_FOR_A_SLOW_ANSWER)
        self._patience_with_the_idle_s = max(self._patience_s, patience_s)  # a slow answer is no silence
        tls = self._look_at_tls() if self._context is not None else None
        if first.head.keep_alive:
            ages = ages_to_ask_at(self._longest_s, self._affordable_sockets())  # before counting uses up requests
            self._start(self._carry_on)
            self._keep_idle(ages)
            self._listen()
            self._end()
        return self._findings(first, tls)

    # -- the beginning -------------------------------------------------------------------------------------------------

    def _first(self) -> Answered:
        try:
            began_at = perf_counter()
            socket = self._open()
            self._round_trip_s = perf_counter() - began_at
            try:
                return self._ask(socket)
            finally:
                self._close(socket)
        except AgentError as error:
            raise UnreachableError(str(error)) from None
        except (NoAnswerError, _OutOfRequestsError) as error:
            raise UnreachableError(f"{self._prepared.origin.key}: {error}") from None

    def _look_at_tls(self) -> TlsFinding | None:
        """Return whether a second socket resumes the session that the first one has after its response."""
        try:
            first = self._open()
            self._ask(first)
            second = ProbeSocket(self._prepared, self._context, self._time_for(self._patience_s), first.session)
            finding = TlsFinding(second.tls_version, second.has_resumed)
            second.close()
            self._close(first)
        except _CAME_TO_NOTHING:
            return None
        return finding

    @property
    def _longest_s(self) -> float:
        return max(0.1, self._ends_at - perf_counter() - min(_LAST_ANSWER_S, self._options.budget_s / 10))

    def _affordable_sockets(self) -> int:
        """Return how many idle sockets the requests allow: each takes two, and some may be kept for the race."""
        for_idling = self._requests.left - self._for_counting
        for_races = 2 * len(_RACES_BEFORE_S)
        return max(1, min(_MOST_SOCKETS, (for_idling - (for_races if for_idling > 3 * for_races else 0)) // 2))

    @property
    def _for_counting(self) -> int:
        return int(self._options.max_requests * _SHARE_FOR_COUNTING)

    # -- sockets -------------------------------------------------------------------------------------------------------

    def _open(self) -> ProbeSocket:
        socket = ProbeSocket(self._prepared, self._context, self._time_for(self._patience_s))
        self._sockets.add(socket)
        return socket

    def _ask(self, socket: ProbeSocket, patience_s: float | None = None) -> Answered:
        """Send a request. Raises `_OutOfRequestsError` if none is left."""
        if not self._requests.take():
            raise _OutOfRequestsError
        return socket.ask(self._time_for(patience_s or self._patience_s))

    def _time_for(self, patience_s: float) -> float:
        """Return as much of a time as the budget has left."""
        return max(_LEAST_PATIENCE_S, min(patience_s, self._ends_at - perf_counter()))

    def _close(self, socket: ProbeSocket) -> None:
        self._sockets.discard(socket)
        socket.close()

    def _start(self, work: Callable[..., None], *arguments: float) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- how many requests a socket carries ----------------------------------------------------------------------------

    def _carry_on(self) -> None:
        """Send requests on one socket until it is closed; then see whether another is closed after as many.

        A close without a word may have any reason. It counts as a rule of the server only if a second socket meets it
        too; if too few requests are left for a second socket, it does not.
        """
        found = self._carried()
        if found is not None and found.closed and not found.announced:
            again = self._carried() if self._requests.left >= found.requests else None
            if again != found:
                carried = max(found.requests, again.requests if again is not None else 0)
                found = CountFinding(carried, closed=False)
        self._heard.put(found)

    def _carried(self) -> CountFinding | None:
        """Return how many requests a socket carries; None if no socket could be opened."""
        carried = 0
        try:
            socket = self._open()
        except AgentError:
            return None
        try:
            while carried < self._for_counting and not self._is_over.is_set() and perf_counter() < self._ends_at:
                answered = self._ask(socket)
                carried += 1
                if not answered.head.keep_alive:
                    return CountFinding(carried, closed=True, announced=True)
        except NoAnswerError as error:
            if carried and not self._is_over.is_set() and error.end is not End.SILENCE:
                return CountFinding(carried, closed=True)
        except (AgentError, _OutOfRequestsError):
            pass  # an invalid answer says nothing of how many a socket carries
        finally:
            self._close(socket)
        return CountFinding(carried, closed=False)

    # -- idle sockets --------------------------------------------------------------------------------------------------

    def _keep_idle(self, ages: list[float]) -> None:
        for age_s in ages:
            self._idle_sockets_left += 1
            self._start(self._idle, age_s)

    def _idle(self, age_s: float) -> None:
        """Keep a socket idle; if the server does not end it before, ask whether it is still there."""
        socket = None
        outcome = _Idled(age_s, is_of_no_use=True)
        try:
            socket = self._open()
            since = self._ask(socket).at
            ending = socket.wait_for_end(min(since + age_s, self._ends_at))
            if self._is_over.is_set() or age_s > self._seen.shortest_dead_s:
                pass  # the result is no longer needed
            elif ending is not None:
                outcome = _Idled(ending.at - since, ending)
            elif perf_counter() - since >= age_s * 0.99:
                outcome = self._ask_after(socket, since)
        except _CAME_TO_NOTHING:
            pass
        finally:
            if socket is not None:
                self._close(socket)
            self._heard.put(outcome)

    def _race(self, age_s: float) -> None:
        """Keep a socket idle until the server is about to close it, or has just done so, and send a request then."""
        was_answered = None
        is_due = False
        socket = None
        try:
            socket = self._open()
            since = self._ask(socket).at
            socket.wait_for_end(since + age_s)
            is_due = True
            self._ask(socket)
            was_answered = True
        except (AgentError, NoAnswerError):
            was_answered = False if is_due else None
        except _OutOfRequestsError:
            pass
        finally:
            if socket is not None:
                self._close(socket)
            self._heard.put(_Raced(was_answered))

    def _ask_after(self, socket: ProbeSocket, since: float) -> _Idled:
        age_s = perf_counter() - since
        try:
            self._ask(socket, self._patience_with_the_idle_s)
        except NoAnswerError as error:
            return _Idled(age_s, no_answer=error.end)
        return _Idled(age_s)

    # -- what is heard of them -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take the results of the sockets until enough is known, or the budget is used up."""
        is_counted = has_refined = has_raced = False
        while perf_counter() < self._ends_at and not self._control.is_stopped.is_set():
            try:
                heard = self._heard.get(timeout=min(_TELL_EVERY_S, max(0.001, self._ends_at - perf_counter())))
            except Empty:
                self._tell()
                continue
            if isinstance(heard, _Idled):
                self._idle_sockets_left -= 1
                self._note(heard)
            elif isinstance(heard, _Raced):
                self._races.append(heard.was_answered)
            else:
                is_counted, self._count = True, heard
            if self._seen.dead and not has_refined:
                has_refined = True
                self._look_closer()
            if not has_raced and self._is_known():
                has_raced = True
                self._start_races()
            if is_counted and has_raced and len(self._races) == self._races_started:
                break

    def _end(self) -> None:
        """Wake the sockets that are still idle, and wait for the threads."""
        self._is_over.set()
        for socket in list(self._sockets):
            socket.wake()
        for thread in self._threads:
            thread.join(max(0.0, self._ends_at + _LAST_ANSWER_S - perf_counter()))
        while not self._heard.empty():
            heard = self._heard.get()
            if isinstance(heard, CountFinding):
                self._count = heard

    def _start_races(self) -> None:
        """Start sockets that send a request as the server closes, if it does and there is time for that once more.

        A FIN is half a round trip old when it arrives, and a request takes as long to get there, so a request that
        leaves less than a round trip before the FIN arrives meets a closed socket.
        """
        idle = self._seen.finding()
        if idle.timeout_s is None or idle.end is End.SILENCE or self._requests.left < 2 * len(_RACES_BEFORE_S):
            return
        if perf_counter() + idle.timeout_s + self._patience_s > self._ends_at:
            return
        for before_s in _RACES_BEFORE_S:
            self._races_started += 1
            self._start(self._race, max(0.0, idle.timeout_s - self._round_trip_s - before_s))

    def _note(self, idled: _Idled) -> None:
        seen = self._seen
        if idled.is_of_no_use:
            return
        if idled.ending is not None:
            seen.ended.append((idled.age_s, idled.ending.end))
        elif idled.no_answer is not None:
            seen.dead.append((idled.age_s, idled.no_answer is not End.SILENCE))
        else:
            seen.alive.append(idled.age_s)

    def _is_known(self) -> bool:
        """Return whether no more idling is needed."""
        seen = self._seen
        is_seen = len(seen.ended) >= _ENDS_THAT_SUFFICE or (bool(seen.dead) and seen.finding().is_exact)
        return is_seen or not self._idle_sockets_left

    def _look_closer(self) -> None:
        """Keep more sockets idle, for ages between one that was alive and one that was dead, if there is time."""
        alive_s, dead_s = self._seen.longest_alive_s, self._seen.shortest_dead_s
        if perf_counter() + dead_s < self._ends_at:
            self._keep_idle(ages_in_between(alive_s, dead_s, self._requests.left // 2))

    def _tell(self) -> None:
        self._on_progress(
            ProbeProgress(
                perf_counter() - self._began_at, len(self._sockets), len(self._seen.ended), self._requests.sent
            )
        )

    def _findings(self, first: Answered, tls: TlsFinding | None) -> Findings:
        head = first.head
        keeps_alive = head.keep_alive
        server = next((value.decode("latin-1") for name, value in head.raw_headers if name.lower() == b"server"), None)
        races = [was_answered for was_answered in self._races if was_answered is not None]
        has_seen = self._seen.ended or self._seen.alive or self._seen.dead
        return Findings(
            url=self._options.url,
            method=self._options.method,
            status=head.status,
            http_version=head.http_version,
            server=server,
            keeps_alive=keeps_alive,
            response_time_s=first.elapsed_s,
            hint=head.hint,
            idle=self._seen.finding() if has_seen else None,
            count=self._count if keeps_alive else CountFinding(1, closed=True, announced=True),
            race=RaceFinding(len(races), sum(races)) if races else None,
            tls=tls,
            requests=self._requests.sent,
            elapsed_s=perf_counter() - self._began_at,
            interrupted=self._control.is_stopped.is_set(),
        )
