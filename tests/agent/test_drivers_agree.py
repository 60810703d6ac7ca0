"""Both drivers, on every loop, against the same made-up server: the same outcome for every script of bytes and ends."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kabench.agent import AgentError
from tests.agent.both import KINDS, any_agent
from tests.sockets import Peer, serving

if TYPE_CHECKING:
    from tests.agent.both import AnyAgent

BYTES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, and more",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil close",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    b"0\r\nConnection: close\r\n\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlate",
    b"HTTP/1.1 413 Too large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig",
    b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\nbad",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"hello",
    b"\r\n",
]
ENDS = ["FIN", "RST", "nothing"]
PAUSE_S = 0.004


@dataclass(frozen=True)
class Script:
    """What the server does to a request: on a socket that was used before, or on a fresh one."""

    pieces: list[bytes]
    is_paused: list[bool]
    end: str
    on_reused: bool
    method: str
    body_bytes: int


SCRIPTS = st.builds(
    Script,
    pieces=st.lists(st.sampled_from(BYTES), max_size=3),
    is_paused=st.lists(st.booleans(), min_size=3, max_size=3),
    end=st.sampled_from(["FIN", "RST", "FIN", "RST", "nothing"]),
    on_reused=st.booleans(),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    body_bytes=st.sampled_from([0, 0, 100]),
)


@dataclass
class Server:
    """Answers by the script once, and everything else with the request's own path."""

    script: Script | None = None
    saw: list[str] = field(default_factory=list)
    is_through: threading.Event = field(default_factory=threading.Event)
    """All of the script has gone out, and its end too."""

    async def __call__(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            method, path = request.split(b" ")[:2]
            self.saw.append(f"{method.decode()} {path.decode()}")
            script, self.script = (self.script, None) if path == b"/scripted" else (None, self.script)
            if script is None:
                body = b"" if method == b"HEAD" else path
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + body)
                continue
            try:
                await self._play(peer, script)
            finally:
                self.is_through.set()
            if script.end != "nothing":
                return

    async def _play(self, peer: Peer, script: Script) -> None:
        for piece, pause in zip(script.pieces, script.is_paused, strict=False):
            await peer.send(piece)
            if pause:
                await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(PAUSE_S)  # what was sent is there before the end is
        if script.end == "nothing" or peer.writer.is_closing():
            return
        if script.end == "RST":
            peer.reset()
        peer.writer.close()
        await peer.writer.wait_closed()


_WHEREVER_CUT = {"stray_bytes": "too many bytes", "not_reusable": "too many bytes"}
"""What comes behind a response comes with it or apart from it, as the network likes."""


def outcome(agent: AnyAgent, origin: str, script: Script, is_through: threading.Event) -> Any:
    if script.on_reused:
        assert agent.ask("GET", f"{origin}/first").data == b"/first"
    body = b"x" * script.body_bytes or None
    try:
        answer = agent.ask(
            script.method, f"{origin}/scripted", body=body, timeout=0.1 if script.end == "nothing" else 5
        )
        found: Any = (answer.status, answer.data, answer.retried, answer.reused)
    except AgentError as error:
        found = type(error).__name__
    assert is_through.wait(5)
    agent.let_pass(3 * PAUSE_S)  # whatever comes behind the response comes before the next request
    for number in range(2):
        assert agent.ask("GET", f"{origin}/own-{number}").data == f"/own-{number}".encode()
    status = agent.status()
    assert (status.sockets, status.requests) == ({}, {})
    closed_by = {_WHEREVER_CUT.get(reason, reason) for reason in status.closed_by}
    return found, status.stale_socket_count, status.retry_count, status.create_socket_count, closed_by


def test_every_driver_makes_the_same_of_every_script() -> None:
    server = Server()
    with serving(server) as listening:

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(SCRIPTS)
        @example(Script([BYTES[11]], [True] * 3, "FIN", True, "GET", 0))
        @example(Script([BYTES[11]], [True] * 3, "RST", True, "POST", 0))
        @example(Script([], [True] * 3, "RST", True, "GET", 0))
        @example(Script([BYTES[8], BYTES[0]], [True] * 3, "nothing", False, "GET", 0))
        @example(Script([BYTES[4], BYTES[5]], [True] * 3, "nothing", True, "GET", 0))
        @example(Script([BYTES[13]], [True] * 3, "RST", False, "POST", 100))
        @example(Script([BYTES[3]], [True] * 3, "RST", False, "GET", 0))
        def agree(script: Script) -> None:
            outcomes = {}
            for kind in KINDS:
                server.script, server.saw, server.is_through = script, [], threading.Event()
                with any_agent(kind, max_sockets=1) as agent:
                    outcomes[kind] = (*outcome(agent, listening.origin, script, server.is_through), server.saw)
            assert outcomes["asyncio"] == outcomes["uvloop"] == outcomes["threads"]

        agree()
