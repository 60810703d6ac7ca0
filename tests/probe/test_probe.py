"""`kabench probe` against real servers, and its bounds."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kabench.probe import Findings, ProbeOptions, UnreachableError, advice_for, probe
from kabench.probe.idle import End
from kabench.server import EmbeddedServer, Fault, FaultKind, ServerOptions
from tests.sockets import Peer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBED = Path(__file__).parents[2] / "benchmarks" / "probed.py"
NOT_INSTALLED = 77


@pytest.mark.parametrize(
    "server",
    ["nginx", "node", "gunicorn", "uvicorn", "http.server", "kabench serve", "kabench serve --tls", "drop-idle"],
)
def test_what_it_finds_out_is_true(server: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROBED), "--only", server, "--budget", "20"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == NOT_INSTALLED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def patient_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        yield server


def test_it_keeps_to_its_budget_and_its_requests(patient_server: EmbeddedServer) -> None:
    began_at = time.monotonic()
    found = probe(ProbeOptions(patient_server.url, budget_s=1.5, max_requests=60))
    assert time.monotonic() - began_at < 3
    assert found.requests == patient_server.counts().requests <= 60
    assert found.idle is not None
    assert found.idle.timeout_s is None
    assert 1 < found.idle.low_s < 1.5
    assert found.count is not None
    assert (found.count.requests, found.count.closed) == (45, False)
    assert found.race is None


def test_a_reset_is_told_from_a_close(patient_server: EmbeddedServer) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            reading = asyncio.ensure_future(peer.reader.readuntil(b"\r\n\r\n"))
            done, _ = await asyncio.wait([reading], timeout=0.3)
            if not done:
                reading.cancel()
                peer.reset()
                return
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with serving(handler) as server:
        found = probe(ProbeOptions(server.url, budget_s=5, max_requests=40))
    assert found.idle is not None
    assert found.idle.end is End.RST
    assert found.idle.timeout_s == pytest.approx(0.3, abs=0.1)


def test_silence_without_even_a_reset_is_found_out_too() -> None:
    async def handler(peer: Peer) -> None:
        last = None
        while True:
            await peer.reader.readuntil(b"\r\n\r\n")
            now = time.monotonic()
            if last is not None and now - last > 0.7:
                await asyncio.sleep(60)  # forgotten
            last = now
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with serving(handler) as server:
        found = probe(ProbeOptions(server.url, budget_s=5, max_requests=80))
    assert found.idle is not None
    assert found.idle.end is End.SILENCE
    assert not found.idle.is_reset_later
    assert found.idle.low_s <= 0.7 <= (found.idle.high_s or 0)


def test_a_server_that_closes_without_a_word_after_some_requests_needs_a_limit() -> None:
    async def handler(peer: Peer) -> None:
        for _ in range(7):
            await peer.answer()

    with serving(handler) as server:
        found = probe(ProbeOptions(server.url, budget_s=2, max_requests=40))
    assert found.count is not None
    assert (found.count.requests, found.count.closed, found.count.announced) == (7, True, False)
    assert advice_for(found).options["max_requests_per_socket"] == 7


@pytest.mark.parametrize("lives", [(7,), (30,)], ids=["another carries more", "no requests are left for another"])
def test_one_socket_that_closes_without_a_word_is_no_rule(lives: tuple[int, ...]) -> None:
    lengths = iter([1, *lives])  # the first socket is asked once

    async def handler(peer: Peer) -> None:
        for _ in range(next(lengths, 1000)):
            await peer.answer()

    with serving(handler) as server:
        found = probe(ProbeOptions(server.url, budget_s=1, max_requests=40))
    assert found.count is not None
    assert not found.count.closed
    assert found.count.requests >= max(lives)
    assert "max_requests_per_socket" not in advice_for(found).options


def seen_of(server: EmbeddedServer, budget_s: float, max_requests: int = 120) -> Findings:
    return probe(ProbeOptions(server.url, budget_s=budget_s, max_requests=max_requests))


@pytest.mark.long
def test_a_server_that_forgets_at_once_gets_no_settings_that_lose_requests() -> None:
    with EmbeddedServer(ServerOptions(delay_s=0, faults=(Fault(FaultKind.DROP_IDLE, duration_s=0.1),))) as server:
        found = seen_of(server, 12)
        assert found.idle is not None
        assert 0 < found.idle.low_s < 0.1
        assert found.idle.high_s is not None
        assert 0 < advice_for(found).options["free_socket_timeout"] < 0.1


def test_what_ends_one_socket_by_chance_is_no_rule() -> None:
    with EmbeddedServer(ServerOptions(delay_s=0, faults=(Fault(FaultKind.RESET, rate=0.03),), seed=5)) as server:
        found = seen_of(server, 2)
    assert found.count is not None
    assert not found.count.closed
    assert "max_requests_per_socket" not in advice_for(found).options


@pytest.mark.long
def test_a_slow_answer_is_no_silence() -> None:
    stalls = (Fault(FaultKind.STALL, rate=0.3, duration_s=1.2),)
    with EmbeddedServer(ServerOptions(delay_s=0, faults=stalls, seed=3)) as server:
        found = seen_of(server, 16, 60)
    assert found.idle is not None
    assert found.idle.end is None


def test_requests_that_were_not_allowed_say_nothing() -> None:
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        found = seen_of(server, 2, 10)
    assert found.requests <= 10
    assert found.idle is None or found.idle.end is None


def test_an_error_that_ends_its_socket_is_asked_about_once_more() -> None:
    async def handler(peer: Peer) -> None:
        if not peer.number:
            await peer.answer(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return
        while True:
            await peer.answer()

    with serving(handler) as server:
        found = probe(ProbeOptions(server.url, budget_s=1, max_requests=20))
    assert (found.status, found.keeps_alive) == (200, True)


def test_a_server_with_faults_does_not_break_it() -> None:
    faults = (
        Fault(FaultKind.RESET, rate=0.1),
        Fault(FaultKind.GARBAGE, rate=0.1),
        Fault(FaultKind.CLOSE_IDLE, duration_s=0.5),
        Fault(FaultKind.REFUSE, rate=0.1),
    )
    for seed in range(4):
        with EmbeddedServer(ServerOptions(delay_s=0, faults=faults, seed=seed)) as server:
            try:
                found = probe(ProbeOptions(server.url, budget_s=3, max_requests=60))
            except UnreachableError:
                continue
        assert found.requests <= 60
        assert found.idle is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "nonsense"}, "no http URL"),
        ({"method": "POST"}, "a probe sends only GET or HEAD"),
        ({"budget_s": 0.5}, "it takes 1 s at least"),
        ({"budget_s": float("inf")}, "it takes 1 s at least"),
        ({"max_requests": 9}, "it takes 10 at least"),
        ({"headers": (("A", "b\r\nc"),)}, "CR, LF or NUL"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ProbeOptions(**({"url": "http://127.0.0.1:1/"} | given))  # type: ignore[arg-type]  # that is the point


def kabench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kabench", "probe", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_nobody_there_is_exit_3_and_a_wrong_command_line_2() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        done = kabench(url)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "refused" in done.stderr
    for arguments, said in (
        (["ftp://h/"], "no http URL"),
        ([url, "-X", "POST"], "only GET or HEAD"),
        ([url, "--json", "/nonexistent/f.json"], "there is no folder"),
        ([url, "-k", "--cacert", "x"], "give only one of them"),
    ):
        done = kabench(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


def test_the_command_prints_the_table_and_the_record(patient_server: EmbeddedServer, tmp_path: Path) -> None:
    record = tmp_path / "probe.json"
    done = kabench(patient_server.url, "--max-time", "1s", "--max-requests", "20", "--json", str(record), "-X", "head")
    assert (done.returncode, done.stderr) == (0, "")
    assert "longer than" in done.stdout
    assert "AgentOptions(free_socket_timeout=" in done.stdout
    assert json.loads(record.read_bytes())["method"] == "HEAD"
    done = kabench(patient_server.url, "--max-time", "1s", "--max-requests", "20", "--json", "-")
    assert json.loads(done.stdout)["schema"] == "kabench/probe/1"
    assert "Settings that fit" in done.stderr


def test_ctrl_c_prints_what_is_known(patient_server: EmbeddedServer) -> None:
    command = [sys.executable, "-m", "kabench", "probe", patient_server.url, "--max-requests", "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        give_up_at = time.monotonic() + 30
        while patient_server.counts().requests < 24 and time.monotonic() < give_up_at:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted: the findings are those made until then" in out
    assert "Traceback" not in err
