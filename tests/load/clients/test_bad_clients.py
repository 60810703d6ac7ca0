"""Somebody's own client that does what it should not: each request is counted once, and the run ends."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from kabench.load import MeasurementError, PlanError, run
from kabench.load.clients.contract import ClientSettings
from kabench.load.clients.errors import kind_of
from tests.load.loads import plan_of

if TYPE_CHECKING:
    from pathlib import Path

    from kabench.result import AgentRun
    from kabench.server import EmbeddedServer

URL = "http://127.0.0.1:1/"
CLIENT = """
import asyncio, sys, time
class Client:
    def __init__(self, settings):
        pass
    {send}
    {close}
"""
CLOSE = "def close(self): pass"


def measured_through(folder: Path, send: str, close: str = CLOSE, **given: Any) -> AgentRun:
    """The run through a client of these methods, with or without one successful transaction."""
    (folder / "mine.py").write_text(CLIENT.format(send=send, close=close))
    try:
        return run(plan_of(url=URL, **given), ["mine:Client"]).runs[0]
    except MeasurementError as error:
        return error.result.runs[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("send", "kind"),
    [
        ("def send(self, request): return object()", "bad_answer"),
        ("async def send(self, request): return None", "bad_answer"),
        ("def send(self, request): return 200, 'text'", "bad_answer"),
        ("def send(self, request): return asyncio.sleep(0)", "bad_answer"),
        ("def send(self, request): sys.exit(1)", "system_exit"),
        ("async def send(self, request): raise asyncio.CancelledError", "cancelled"),
    ],
)
@pytest.mark.parametrize("given", [{"total": 12}, {"rate": 200.0, "total": 12}], ids=["users", "rate"])
def test_what_it_returns_or_raises_is_counted(folder: Path, send: str, kind: str, given: dict[str, Any]) -> None:
    measured = measured_through(folder, send, **given)
    assert measured.errors == {kind: 12}
    assert measured.transactions == 0


@pytest.mark.parametrize(
    "close",
    [
        "def close(self): raise ValueError",
        "async def close(self): await asyncio.sleep(600)",
        "def close(self): time.sleep(600)",
    ],
)
def test_what_it_does_when_it_is_closed_loses_nothing(folder: Path, close: str) -> None:
    measured = measured_through(folder, "async def send(self, request): return 200, b''", close, total=10)
    assert measured.transactions == 10


@pytest.mark.parametrize("count", ["raise ValueError", "return None", "return 'many'"])
def test_what_it_says_of_its_sockets_loses_nothing(folder: Path, count: str) -> None:
    close = f"{CLOSE}\n    def sockets_created(self): {count}"
    measured = measured_through(folder, "def send(self, request): return 200, b'x'", close, total=10)
    assert (measured.transactions, measured.sockets.created) == (10, None)


def test_a_request_that_ends_as_it_is_cut_off_is_counted_once(folder: Path) -> None:
    """Requests of half a second end about when patience with them does."""
    measured = measured_through(
        folder,
        "def send(self, request): time.sleep(0.6); return 200, b''",
        concurrency=40,
        duration_s=0.3,
        grace_s=0.3,
        options={"max_sockets": 40},
    )
    assert measured.transactions + measured.socket_errors == 40


@pytest.mark.parametrize("bad", ["mine:Nobody", "mine:Mute", "nowhere:Client"])
def test_a_second_agent_that_cannot_be_made_is_known_before_anything_is_sent(
    echo_server: EmbeddedServer, folder: Path, bad: str
) -> None:
    (folder / "mine.py").write_text("class Mute:\n    def __init__(self, settings): pass\n")
    with pytest.raises(PlanError, match=bad):
        run(plan_of(url=echo_server.url, total=10), ["keepalive", bad])
    assert echo_server.counts().requests == 0


def test_the_settings_say_how_many_origins_there_are() -> None:
    assert "origins" in ClientSettings.__dataclass_fields__


def test_an_error_that_speaks_of_certificates_and_names_has_the_agents_names() -> None:
    outer = RuntimeError("somebody's own")
    outer.__cause__ = ssl.SSLCertVerificationError("self-signed")
    assert kind_of(outer) == "certificate_rejected"
    assert kind_of(OSError(socket.gaierror("unknown"))) == "connect_failed"
