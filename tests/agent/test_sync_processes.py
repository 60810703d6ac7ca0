"""The threaded agents among threads, processes, forks and greenlets, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from typing import Any

import pytest
from urllib3 import Retry
from urllib3.exceptions import (
    HTTPError,
)

from kabench.agent import (
    KeepAliveAgent,
    PlainAgent,
)
from tests.agent.threads import get
from tests.responses import HALF, always, answer, path_of
from tests.sockets import (
    OK,
    PATIENCE_S,
    Peer,
    answering_after,
    echo_forever,
    in_threads,
    serving,
    start,
    wait_until,
)

# -- threads, processes and the end ------------------------------------------------------------------------------------


def reapers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "kabench-reaper"]


def test_the_reaper_starts_with_the_first_free_socket_and_ends_with_the_last() -> None:
    wait_until(lambda: reapers() == [])
    may_answer = threading.Semaphore(0)

    async def answer_when_told(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.to_thread(may_answer.acquire)
            await peer.send(OK)

    with serving(answer_when_told) as server, KeepAliveAgent(free_socket_timeout=0.5) as agent:
        for _ in range(2):
            request = start(lambda: get(agent, server.url))
            wait_until(lambda: server.open_now == 1)
            assert reapers() == []
            may_answer.release()
            request.result(PATIENCE_S)
            assert reapers() == ["kabench-reaper"]
            wait_until(lambda: server.open_now == 0)
            wait_until(lambda: reapers() == [])
        may_answer.release()
        get(agent, server.url)
        assert reapers() == ["kabench-reaper"]
    wait_until(lambda: reapers() == [])


def test_there_is_no_reaper_where_there_is_nothing_to_reap() -> None:
    wait_until(lambda: reapers() == [])
    with serving(echo_forever) as server, PlainAgent() as plain, KeepAliveAgent(free_socket_timeout=0) as forever:
        for agent in (plain, forever):
            get(agent, server.url)
            assert reapers() == []


def test_an_agent_that_is_dropped_goes_with_its_sockets_and_its_reaper() -> None:
    wait_until(lambda: reapers() == [])
    with serving(echo_forever) as server:
        agent = KeepAliveAgent(free_socket_timeout=60)
        get(agent, server.url)
        assert reapers() == ["kabench-reaper"]
        gone: list[weakref.ref[Any]] = [weakref.ref(agent), weakref.ref(agent.keeper)]
        del agent

        def is_over() -> bool:
            gc.collect()
            return all(reference() is None for reference in gone)

        wait_until(is_over)
        wait_until(lambda: server.open_now == 0)
        wait_until(lambda: reapers() == [])


def test_the_garbage_collector_may_close_a_response_in_the_middle_of_a_decision() -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(HALF)
        await peer.closed_by_client()

    with serving(handler) as server, KeepAliveAgent(max_sockets=1, queue_timeout=2) as agent:

        def drop_one() -> None:
            response = get(agent, server.url, preload_content=False)
            with agent.keeper._lock:  # held by this very thread, as it may be when the collector runs
                del response
                gc.collect()

        for _ in range(3):
            start(drop_one).result(PATIENCE_S)
        wait_until(lambda: server.open_now == 0)
        status = agent.get_current_status()
        assert (status.sockets, status.close_socket_count, server.sockets) == ({}, 3, 3)


def test_a_response_outlives_the_agent_it_came_from() -> None:
    with serving(always(answer(bytes(300_000)))) as server:
        response = get(KeepAliveAgent(), server.url, preload_content=False)
        gc.collect()
        assert len(response.read()) == 300_000
        del response

        def is_over() -> bool:
            gc.collect()
            return server.open_now == 0

        wait_until(is_over)


def test_threads_that_do_all_sorts_of_things_leave_the_books_in_order() -> None:
    async def handler(peer: Peer) -> None:
        for _ in range(7):
            path = path_of(await peer.request())
            if path == "/reset":
                peer.reset()
                return
            await peer.send(answer(bytes(100_000 if path == "/large" else 10)))

    with serving(handler) as server, KeepAliveAgent(max_sockets=5, max_free_sockets=3, timeout=5) as agent:
        most: list[int] = []

        def work(number: int) -> int:
            done = 0
            for turn in range(40):
                kind = (number + turn) % 8
                if kind == 0:
                    with contextlib.suppress(HTTPError):
                        get(agent, f"{server.url}reset", retries=False)
                elif kind == 1:
                    with contextlib.suppress(HTTPError):
                        get(agent, f"{server.url}large", preload_content=False, retries=False).close()
                elif kind == 2:
                    with contextlib.suppress(HTTPError):
                        get(agent, f"{server.url}large", preload_content=False, retries=False).drain_conn()
                elif kind == 3 and turn % 20 == 3:
                    agent.clear()
                else:
                    assert get(agent, server.url, retries=Retry(20, backoff_factor=0)).status == 200
                most.append(sum(agent.get_current_status().sockets.values()))
                done += 1
            return done

        assert in_threads(16, work) == [40] * 16
        assert max(most) <= 5
        status = agent.get_current_status()
        assert status.sockets == status.requests == {}
        free = sum(status.free_sockets.values())
        assert status.create_socket_count == status.close_socket_count + free
        assert free <= 3
        gc.collect()
        wait_until(lambda: server.open_now <= free)


FORKING = ("-W", "ignore:This process:DeprecationWarning")
"""Python 3.12 and later warn of forks in processes with threads, as the reaper makes one of this."""


def run_script(script: str, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script), url],
        check=False,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
    )


def test_a_process_with_free_sockets_ends_at_once_and_without_a_word() -> None:
    script = """
        import sys, time
        from kabench.agent import KeepAliveAgent
        agent = KeepAliveAgent(free_socket_timeout=600)
        agent.request("GET", sys.argv[1])
        other = KeepAliveAgent(free_socket_timeout=0)
        held = other.request("GET", sys.argv[1], preload_content=False)
        other.request("GET", sys.argv[1])
        print(time.time())
    """
    with serving(echo_forever) as server:
        done = run_script(script, server.url, "-W", "error", "-X", "dev")
        assert (done.returncode, done.stderr) == (0, "")
        assert time.time() - float(done.stdout) < 5
        assert server.sockets == 3
        wait_until(lambda: server.open_now == 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_and_its_parent_go_on_over_sockets_of_their_own() -> None:
    script = """
        import os, sys
        from kabench.agent import KeepAliveAgent
        agent = KeepAliveAgent(free_socket_timeout=60)
        agent.request("GET", sys.argv[1])
        held = agent.request("GET", sys.argv[1], preload_content=False)
        agent.request("GET", sys.argv[1])

        def go_on(who):
            said = [agent.request("GET", sys.argv[1] + who).reused_socket for _ in range(3)]
            print(who, *said, agent.get_current_status().create_socket_count, flush=True)

        child = os.fork()
        if not child:
            go_on("child")
            agent.close()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        go_on("parent")
        assert held.read() == b"ok"
        print(agent.get_current_status().close_socket_count, os.waitstatus_to_exitcode(status))
    """
    with serving(echo_forever) as server:
        done = run_script(script, server.url, *FORKING)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == ["child False True True 1", "parent True True True 2", "0 0"]
        assert server.sockets == 3
        said = [sorted({path_of(request) for request in peer.requests}) for peer in server.peers]
        assert said == [["/"], ["/", "/parent"], ["/child"]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_other_threads_are_at_it_leaves_no_lock_behind() -> None:
    script = """
        import os, sys, threading
        from kabench.agent import KeepAliveAgent
        "x".encode("idna")  # imported with the first connection; a fork just then leaves Python's own lock behind
        agent = KeepAliveAgent(max_sockets=4)
        stop = threading.Event()

        def work():
            while not stop.is_set():
                agent.request("GET", sys.argv[1])

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        codes = []
        for _ in range(10):
            child = os.fork()
            if not child:
                assert agent.get_current_status().sockets == agent.get_current_status().requests == {}
                assert agent.request("GET", sys.argv[1], timeout=5).status == 200
                os._exit(0)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stop.set()
        for thread in threads:
            thread.join()
        print(codes.count(0), agent.get_current_status().error_socket_count)
        agent.close()
    """
    with serving(echo_forever) as server:
        done = run_script(script, server.url, *FORKING)
        assert (done.returncode, done.stdout) == (0, "10 0\n"), done.stderr


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="needs gevent")
def test_gevent_s_greenlets_share_the_sockets() -> None:
    script = """
        from gevent import monkey
        monkey.patch_all()
        import sys
        import gevent
        from kabench.agent import KeepAliveAgent
        agent = KeepAliveAgent(max_sockets=10, max_free_sockets=5, free_socket_timeout=60)

        def user():
            return [agent.request("GET", sys.argv[1]).data for _ in range(5)]

        users = [gevent.spawn(user) for _ in range(60)]
        gevent.joinall(users, timeout=20)
        print(sum(user.value == [b"ok"] * 5 for user in users))
        late = KeepAliveAgent(max_sockets=1)
        held = late.request("GET", sys.argv[1], preload_content=False)
        pending = gevent.spawn(late.request, "GET", sys.argv[1])
        gevent.sleep(0.05)
        pending.kill()
        print(late.get_current_status().requests, held.read())
        status = agent.get_current_status()
        print(status.create_socket_count, sum(status.free_sockets.values()), status.request_count)
        short = KeepAliveAgent(free_socket_timeout=0.05)
        short.request("GET", sys.argv[1])
        gevent.sleep(0.3)
        print(short.get_current_status().timeout_socket_count)
    """
    with serving(answering_after(0.02)) as server:
        done = run_script(script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == ["60", "{} b'ok'", "10 5 300", "1"]
        assert server.open_most <= 12
