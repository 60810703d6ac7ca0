"""Checks what `kabench probe` finds out about servers whose behaviour is known: six, and a gateway that forgets.

It prints what the probe found, what is true, and a verdict. `--only` takes one server, as the test suite does. The exit
code is 1 if a finding is wrong, and 77 if the server is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from kabench.agent import TlsOptions
from kabench.probe import ProbeOptions, advice_for, probe
from kabench.probe.idle import End
from kabench.report.probe import rows_of
from kabench.report.words import counted
from kabench.server import EmbeddedServer, Fault, FaultKind, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kabench.probe import Findings

NOT_INSTALLED = 77
LEAST_MARGIN_S = 0.9
"""How long before the server the agent should close, in seconds; for a short time, 40 % of it."""

NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_timeout 3s; keepalive_requests 100;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello"; }} }}
}}
"""

NODE = "require('http').createServer((_, answer) => answer.end('hello')).listen({port}, '127.0.0.1')"

WSGI = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""

ASGI = """
async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})
"""


@dataclass(frozen=True)
class Truth:
    """A server's known behaviour. `timeout_s` None: it closes after each response; `max_requests` None: no limit."""

    timeout_s: float | None
    end: End = End.FIN
    max_requests: int | None = None
    hint_s: float | None = None
    tolerance_s: float = 0.1
    """How late its own timers may be, besides the 5 % that a probe may be wrong. Some versions of Node close a second
    late."""
    resumes_tls: bool | None = None


@dataclass(frozen=True)
class Known:
    """A server: how to start it, and its known behaviour."""

    start: Callable[[Path, int], contextlib.AbstractContextManager[str]]
    truth: Truth
    what: str


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def process(command: list[str], folder: Path, port: int) -> Iterator[str]:
    """Start a server as a process, and yield its URL once it accepts connections."""
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        else:
            raise RuntimeError((folder / "log").read_text())
        yield f"http://127.0.0.1:{port}/"
    finally:
        started.terminate()
        started.wait()


def needs(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise NotInstalledError(program)
    return path


def needs_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise NotInstalledError(name)


class NotInstalledError(RuntimeError):
    """A server is not installed."""


def nginx(folder: Path, port: int) -> contextlib.AbstractContextManager[str]:
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    return process([needs("nginx"), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"], folder, port)


def node(folder: Path, port: int) -> contextlib.AbstractContextManager[str]:
    return process([needs("node"), "-e", NODE.format(port=port)], folder, port)


def gunicorn(folder: Path, port: int) -> contextlib.AbstractContextManager[str]:
    needs_module("gunicorn")
    (folder / "application.py").write_text(WSGI)
    command = [
        "-m",
        "gunicorn",
        "-b",
        f"127.0.0.1:{port}",
        "-k",
        "gthread",
        "--threads",
        "8",
        "application:application",
    ]
    return process([sys.executable, *command], folder, port)


def uvicorn(folder: Path, port: int) -> contextlib.AbstractContextManager[str]:
    needs_module("uvicorn")
    (folder / "application.py").write_text(ASGI)
    command = ["-m", "uvicorn", "--port", str(port), "--log-level", "warning", "application:application"]
    return process([sys.executable, *command], folder, port)


def http_server(folder: Path, port: int) -> contextlib.AbstractContextManager[str]:
    return process([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], folder, port)


def own(options: ServerOptions) -> Callable[[Path, int], contextlib.AbstractContextManager[str]]:
    @contextlib.contextmanager
    def start(folder: Path, port: int) -> Iterator[str]:  # noqa: ARG001  # they are the others'
        with EmbeddedServer(options) as server:
            yield server.url

    return start


SERVERS = {
    "nginx": Known(nginx, Truth(3.0, max_requests=100), "keepalive_timeout 3s; keepalive_requests 100"),
    "node": Known(node, Truth(5.0, hint_s=5.0, tolerance_s=1.2), "http.createServer() as it is"),
    "gunicorn": Known(gunicorn, Truth(2.0, tolerance_s=1.1), "gthread worker, its default of 2 s"),
    "uvicorn": Known(uvicorn, Truth(5.0), "as it is: 5 s"),
    "http.server": Known(http_server, Truth(None), "as it is: HTTP/1.0"),
    "kabench serve": Known(
        own(ServerOptions(idle_timeout_s=1.5, max_requests_per_socket=20, keep_alive_hint=4)),
        Truth(1.5, max_requests=20, hint_s=4.0),
        "--idle-timeout 1.5s --max-requests-per-socket 20 --hint 4",
    ),
    "kabench serve --tls": Known(
        own(ServerOptions(idle_timeout_s=1.5, tls=True)),
        Truth(1.5, resumes_tls=True),
        "--idle-timeout 1.5s --tls",
    ),
    "drop-idle": Known(
        own(ServerOptions(faults=(Fault(FaultKind.DROP_IDLE, duration_s=2.0),))),
        Truth(2.0, end=End.SILENCE),
        "--fault drop-idle:2s",
    ),
}


def wrong_with(found: Findings, truth: Truth) -> list[str]:
    """Return the findings that are not true."""
    wrong = []
    if found.keeps_alive != (truth.timeout_s is not None):
        wrong.append("whether it keeps sockets")
    idle, count = found.idle, found.count
    if truth.timeout_s is not None:
        timeout_s = None if idle is None else idle.timeout_s
        latest_s = truth.timeout_s * 1.05 + truth.tolerance_s
        if timeout_s is None or not truth.timeout_s * 0.95 <= timeout_s <= latest_s:
            wrong.append(f"idle timeout: {timeout_s}")
        if idle is None or idle.end is not truth.end:
            wrong.append("how it ends")
        free_s = advice_for(found).options.get("free_socket_timeout", 0)
        if timeout_s is None or not 0 < free_s <= timeout_s - min(LEAST_MARGIN_S, 0.4 * timeout_s):
            wrong.append(f"free_socket_timeout: {free_s}")
        if truth.end is End.FIN and (found.race is None or not found.race.lost):
            wrong.append("the race")
    if truth.max_requests is not None and (count is None or count.requests != truth.max_requests or not count.closed):
        wrong.append("requests a socket")
    if truth.max_requests is None and truth.timeout_s is not None and (count is None or count.closed):
        wrong.append("requests a socket")
    if (None if found.hint is None else found.hint.timeout_s) != truth.hint_s:
        wrong.append("the hint")
    if truth.hint_s is not None and truth.timeout_s is not None:
        is_true = abs(truth.hint_s - truth.timeout_s) <= 0.5
        if found.hint_is_true not in ((True, False) if truth.tolerance_s > 1 else (is_true,)):
            wrong.append("whether the hint is true")
    if truth.resumes_tls is not None and (found.tls is None or found.tls.resumed != truth.resumes_tls):
        wrong.append("TLS sessions")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SERVERS)
    parser.add_argument("--budget", type=float, default=30.0)
    given = parser.parse_args()
    table = Table(title="kabench probe", padding=(0, 1))
    for column in ("server", "what it does", "found", "verdict"):
        table.add_column(column, overflow="fold")
    failed = False
    for name in [given.only] if given.only else SERVERS:
        known = SERVERS[name]
        with tempfile.TemporaryDirectory() as folder:
            try:
                running = known.start(Path(folder), free_port())
            except NotInstalledError as error:
                if given.only:
                    print(f"{error} is not installed")
                    return NOT_INSTALLED
                table.add_row(name, known.what, "not installed", "-")
                continue
            with running as url:
                tls = TlsOptions(verify=False) if url.startswith("https") else None
                found = probe(ProbeOptions(url, budget_s=given.budget, tls=tls))
        wrong = wrong_with(found, known.truth)
        failed = failed or bool(wrong)
        rows = [f"{what}: {text}" for what, text in rows_of(found) if text != "-"]
        options = ", ".join(f"{option}={value!r}" for option, value in advice_for(found).options.items())
        took = f"{counted(found.requests, 'request')} in {found.elapsed_s:.1f} s"
        table.add_row(
            name, known.what, "\n".join([*rows, options, took]), "; ".join(wrong) or "right", end_section=True
        )
    Console(width=118).print(table)
    print("wrong" if failed else "right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
