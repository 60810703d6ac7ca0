"""No place is lost to any exception, wherever it strikes (AK-58), nor to a response that nobody reads (AK-59)."""

from __future__ import annotations

import asyncio
import gc
import linecache
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from urllib3.exceptions import HTTPError

import kabench.agent
from kabench.agent import AgentEvent, AsyncKeepAliveAgent, KeepAliveAgent
from tests.sockets import Peer, ScriptedServer, echo_forever, serving, start

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

AGENT_FOLDER = str(Path(kabench.agent.__file__).parent)


class StruckError(BaseException):
    """What strikes: as Ctrl-C, a greenlet's kill or a time-out does, it is no `Exception`."""


def _is_closed_to_signals(frame: FrameType) -> bool:
    """Whether this line enters or leaves `with`, or begins `try`: Python lets no signal in between those and the lock.

    (It does call the trace function there.)
    """
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return line.startswith(("with ", "try:", "finally:", "self._lock.release()"))


def _is_finalizing(frame: FrameType | None) -> bool:
    """Whether this runs in a finalizer, whose exceptions Python itself swallows."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_pool_is_gone"):
            return True
        frame = frame.f_back
    return False


class Striking:
    """Raises at the n-th line of the agent's own code that this thread comes to."""

    def __init__(self, at_line: int) -> None:
        self._left = at_line
        self.has_struck = False
        self.where = ""

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(AGENT_FOLDER):
            return self._trace if event == "call" else None
        if event == "line" and not self.has_struck and not _is_finalizing(frame) and not _is_closed_to_signals(frame):
            self._left -= 1
            if self._left <= 0:
                self.has_struck = True
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                raise StruckError(self.where)
        return self._trace

    def __enter__(self) -> Striking:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


def first_on_a_fresh_socket(agent: KeepAliveAgent, urls: list[str]) -> None:
    agent.clear()
    agent.request("GET", urls[0])


def one_on_a_reused_socket(agent: KeepAliveAgent, urls: list[str]) -> None:
    agent.request("GET", urls[0])


def one_that_makes_another_origin_give_way(agent: KeepAliveAgent, urls: list[str]) -> None:
    agent.request("GET", urls[1])


def one_whose_free_socket_is_dead(agent: KeepAliveAgent, urls: list[str]) -> None:
    for booked in agent.keeper.book.free_sockets():
        handle: Any = booked.handle
        handle.sock.shutdown(2)
    agent.request("GET", urls[0])


def one_that_is_streamed(agent: KeepAliveAgent, urls: list[str]) -> None:
    agent.request("GET", urls[0], preload_content=False).read()


WORK = [
    first_on_a_fresh_socket,
    one_on_a_reused_socket,
    one_that_makes_another_origin_give_way,
    one_whose_free_socket_is_dead,
    one_that_is_streamed,
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that urllib3 had just made
@pytest.mark.parametrize("work", WORK)
def test_ak_58_no_place_is_lost_at_any_line(work: Callable[[KeepAliveAgent, list[str]], None]) -> None:
    """The exception strikes at the first line, then at the second, and so on until the request gets through."""
    with serving(echo_forever) as one, serving(echo_forever) as two:
        urls = [one.url, two.url]
        at_line = 0
        while True:
            at_line += 1
            with KeepAliveAgent(max_sockets=1, max_total_sockets=1, retries=False, free_socket_timeout=0) as agent:
                agent.request("GET", urls[0])
                striking = Striking(at_line)
                try:
                    with striking:
                        work(agent, urls)
                except StruckError:
                    pass
                except HTTPError:  # it struck where somebody makes another error of it
                    pass
                if not striking.has_struck:
                    break
                assert agent.request("GET", urls[0], pool_timeout=20, retries=1).status == 200, striking.where
                assert agent.request("GET", urls[1], pool_timeout=20, retries=1).status == 200, striking.where
                status = agent.get_current_status()
                assert (status.sockets, status.requests) == ({}, {}), striking.where
                assert not agent.keeper.contradictions(), striking.where
        assert at_line > 100
    gc.collect()


def test_ak_58_an_exception_out_of_a_listener_loses_none() -> None:
    armed: list[bool] = []

    def listener(_: AgentEvent) -> None:
        if armed:
            armed.clear()
            raise StruckError

    with (
        serving(echo_forever) as one,
        serving(echo_forever) as two,
        KeepAliveAgent(max_total_sockets=1, retries=False, on_event=listener) as agent,
    ):
        agent.request("GET", one.url)
        for url in (two.url, one.url) * 3:
            armed.append(True)
            with pytest.raises(StruckError):
                agent.request("GET", url)
            assert (agent.get_current_status().sockets, agent.keeper.contradictions()) == ({}, [])
            assert agent.request("GET", url, pool_timeout=10).status == 200


@pytest.mark.parametrize("steps", range(12))
def test_ak_58_a_task_that_is_cancelled_at_any_step_loses_none(run: Run, steps: int) -> None:
    async def main() -> None:
        async with (
            ScriptedServer(echo_forever) as one,
            ScriptedServer(echo_forever) as two,
            AsyncKeepAliveAgent(max_sockets=1, max_total_sockets=1) as agent,
        ):
            for url in (one.url, one.url, two.url):
                task = asyncio.ensure_future(agent.request("POST", url, body=b"x" * 100_000))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert (await asyncio.wait_for(agent.request("GET", url), 10)).status == 200
                assert not agent.book.contradictions()
            assert agent.get_current_status().sockets == {}

    run(main())


UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, logging, sys
from gevent.server import StreamServer
from kabench.agent import KeepAliveAgent
def serve(sock, address):
    while sock.recv(65536): sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
servers = [StreamServer(("127.0.0.1", 0), serve) for _ in range(2)]
for server in servers: server.start()
one, two = (f"http://127.0.0.1:{server.server_port}/" for server in servers)
slow = False
def yields(*_):
    if slow: gevent.sleep(0.05)
class Handler(logging.Handler):
    emit = yields
options = {}
if sys.argv[1] == "listener": options["on_event"] = yields
else:
    log = logging.getLogger("kabench.agent"); log.setLevel(logging.DEBUG); log.addHandler(Handler())
    log.propagate = False
for how in ("gives way", "is dead"):
    total = 1 if how == "gives way" else None
    agent = KeepAliveAgent(max_sockets=1, max_total_sockets=total, retries=False, **options)
    agent.request("GET", one)
    if how == "is dead":
        agent.keeper.book.free_sockets()[0].handle.sock.shutdown(0)
    slow = True
    try:
        with gevent.Timeout(0.01):
            agent.request("GET", two if how == "gives way" else one)
    except gevent.Timeout:
        print("timed out")
    slow = False
    gevent.sleep(0.2)
    print(agent.get_current_status().sockets, agent.keeper.contradictions())
    print(agent.request("GET", one, pool_timeout=5).status)
"""


@pytest.mark.parametrize("who", ["listener", "log handler"])
def test_ak_58_one_that_switches_greenlets_loses_none(who: str) -> None:
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT, who], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split("\n")[:-1] == ["timed out", "{} []", "200"] * 2, done.stderr


# -- AK-59 -------------------------------------------------------------------------------------------------------------


async def closing_the_first_socket(peer: Peer) -> None:
    await peer.request()
    if peer.number:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await echo_forever(peer)


def redirecting(how: str) -> Callable[[Peer], Any]:
    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.startswith(b"GET / "):
                await peer.send(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n")
            elif how == "and then retried" and peer.number == 0:
                return
            else:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    return handler


@pytest.mark.parametrize(
    "handler", [closing_the_first_socket, redirecting("once"), redirecting("and then retried")], ids=lambda _: ""
)
@pytest.mark.parametrize("way", ["agent", "pool"])
def test_ak_59_a_response_dropped_unread_gives_its_place_back_at_once(handler: Any, way: str) -> None:
    gc.collect()
    gc.disable()
    try:
        with serving(handler) as server, KeepAliveAgent(max_sockets=1, retry_stale=False) as agent:
            sender: Any = agent if way == "agent" else agent.connection_from_url(server.url)
            url = server.url if way == "agent" else "/"

            def look_and_drop() -> int:
                status: int = sender.request("GET", url, preload_content=False, retries=3).status
                return status

            assert start(look_and_drop).result(30) == 200
            assert agent.get_current_status().sockets == {}
            assert agent.request("GET", server.url + "there", pool_timeout=5).status == 200
            assert not agent.keeper.contradictions()
    finally:
        gc.enable()


def test_ak_59_what_went_wrong_before_is_still_told() -> None:
    with serving(closing_the_first_socket) as server, KeepAliveAgent(retries=3) as agent:
        response = agent.request("GET", server.url)
        assert response.retries is not None
        (past,) = response.retries.history
        assert isinstance(past.error, urllib3.exceptions.ProtocolError)


def test_ak_59_a_connection_that_nobody_holds_any_more_gives_its_place_back() -> None:
    with serving(echo_forever) as server, KeepAliveAgent(max_sockets=1) as agent:
        pool: Any = agent.connection_from_url(server.url)
        for _ in range(3):
            connection = pool._get_conn()
            connection.request("GET", "/")
            assert agent.get_current_status().sockets == {server.origin: 1}
            del connection
            assert agent.get_current_status().sockets == {}
        assert agent.request("GET", server.url, pool_timeout=5).status == 200
        assert threading.active_count() < 50
