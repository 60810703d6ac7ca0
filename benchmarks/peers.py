"""Compares kabench with its peers: the same load, in turn, in one run; medians and ratios.

There are two loads of 60 users on 50 sockets: GET against one nginx worker that answers at once, and the published
benchmark's POST against kabench's own server. Then kabench's server is compared with nginx, both under wrk. A peer that
is not installed is named as missing. README.md in this folder says what to install.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from against import add_option, against_table
from rich.console import Console
from rich.table import Table

from kabench.published import PUBLISHED_BODY
from kabench.server import EmbeddedServer, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import trustme

HERE = Path(__file__).parent
USERS, SOCKETS = 60, 50


@dataclass(frozen=True)
class Job:
    """A load: the request, its URL, and how long to send it."""

    url: str
    method: str
    body: str
    seconds: float

    def as_json(self) -> str:
        fields = {"url": self.url, "method": self.method, "body": self.body, "seconds": self.seconds}
        return json.dumps(fields | {"users": USERS, "sockets": SOCKETS})


@dataclass(frozen=True)
class Figures:
    """A peer's figures of a load. `cpu_us` is client CPU time a request; for some peers it includes their start."""

    rate: float
    cpu_us: float


class PeerMissingError(Exception):
    """A peer is not installed; the message says what is missing."""


class PeerFailedError(Exception):
    """A peer ended without printing figures."""


PINNED = threading.Event()
"""Set if clients and servers are kept on cores of their own."""


def pin_client() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if PINNED.is_set() and len(cores) > 1:
        os.sched_setaffinity(0, cores[:-1])


def pin_server(pid: int = 0) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if PINNED.is_set():
        os.sched_setaffinity(pid, cores[-1:])


def timed(command: Sequence[str], **environment: str) -> tuple[str, float]:
    """Run a command on the clients' cores. Return what it printed, and the CPU seconds of it and its children."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            preexec_fn=pin_client,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    if process.returncode:
        raise PeerFailedError(f"{command[0]} ended with {process.returncode}: {printed[-300:]}")
    return printed, usage.ru_utime + usage.ru_stime


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerMissingError(name)
    return found


def read_number(pattern: str, printed: str) -> float:
    match = re.search(pattern, printed)
    if match is None:
        raise PeerFailedError(f"no figure in: {printed[-300:]}")
    return float(match[1])


def from_rate(rate: float, cpu_s: float, seconds: float) -> Figures:
    return Figures(rate, cpu_s / (rate * seconds) * 1e6)


def kabench(job: Job, environment: Mapping[str, str] | None = None) -> Figures:
    options = ["--agent", "keepalive", "--max-sockets", str(SOCKETS), "--concurrency", str(USERS), "--no-save"]
    body = ["--data", job.body, "-H", "Content-Type: application/json"] if job.body else []
    with tempfile.NamedTemporaryFile(suffix=".json") as record:
        command = [sys.executable, "-m", "kabench", "run", job.url, "--method", job.method]
        timed([*command, "--duration", f"{job.seconds}s", *options, *body, "--json", record.name], **environment or {})
        (run,) = json.loads(Path(record.name).read_text())["runs"]
    if run["failed_transactions"]:
        raise PeerFailedError(f"{run['failed_transactions']} failed transactions")
    return Figures(run["transaction_rate"], run["client"]["cpu_us_per_transaction"])


def python_client(name: str, module: str) -> Callable[[Job], Figures]:
    def measure(job: Job) -> Figures:
        if importlib.util.find_spec(module) is None:
            raise PeerMissingError(module)
        return client(name, job)

    return measure


def client(name: str, job: Job, environment: Mapping[str, str] | None = None) -> Figures:
    printed, _ = timed([sys.executable, str(HERE / "clients.py"), name, job.as_json()], **environment or {})
    return from_line(printed)


def from_line(printed: str) -> Figures:
    measured = json.loads(printed.strip().splitlines()[-1])
    return Figures(measured["requests"] / measured["elapsed_s"], measured["cpu_s"] / measured["requests"] * 1e6)


def wrk(job: Job) -> Figures:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method = {json.dumps(job.method)}\n")
        if job.body:
            script.write(f"wrk.body = {json.dumps(job.body)}\nwrk.headers['Content-Type'] = 'application/json'\n")
        script.flush()
        script_options = ["-s", script.name] if job.body else []
        command = [program("wrk"), "-t1", f"-c{SOCKETS}", f"-d{round(job.seconds)}s", *script_options, job.url]
        printed, cpu_s = timed(command)
    return from_rate(read_number(r"Requests/sec:\s+([\d.]+)", printed), cpu_s, job.seconds)


@contextlib.contextmanager
def body_file(job: Job) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(job.body)
        file.flush()
        yield file.name


def h2load(job: Job) -> Figures:
    with body_file(job) as name:
        body = ["-d", name, "-H", "Content-Type: application/json"] if job.body else []
        command = [program("h2load"), "--h1", "-t1", f"-c{SOCKETS}", f"-D{round(job.seconds)}", *body, job.url]
        printed, cpu_s = timed(command)
    return from_rate(read_number(r"finished in [\d.]+m?s, ([\d.]+) req/s", printed), cpu_s, job.seconds)


def hey(job: Job) -> Figures:
    body = ["-d", job.body, "-T", "application/json"] if job.body else []
    command = [program("hey"), "-c", str(SOCKETS), "-z", f"{round(job.seconds)}s", "-m", job.method, *body, job.url]
    printed, cpu_s = timed(command)
    return from_rate(read_number(r"Requests/sec:\s+([\d.]+)", printed), cpu_s, job.seconds)


def ab(job: Job) -> Figures:
    with body_file(job) as name:
        body = ["-p", name, "-T", "application/json"] if job.body else []
        # -t alone would stop at 50 000 requests
        command = [program("ab"), "-q", "-k", f"-c{SOCKETS}", f"-t{round(job.seconds)}", "-n100000000", *body, job.url]
        printed, cpu_s = timed(command)
    return from_rate(read_number(r"Requests per second:\s+([\d.]+)", printed), cpu_s, job.seconds)


def siege(job: Job) -> Figures:
    settings = "connection = keep-alive\nbenchmark = true\nlogging = false\nverbose = false\njson_output = false\n"
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(settings)
        config.flush()
        body = [f"{job.url} POST {job.body}", "--content-type=application/json"] if job.body else [job.url]
        command = [program("siege"), "-R", config.name, "-b", f"-c{SOCKETS}", f"-t{round(job.seconds)}S", *body]
        printed, cpu_s = timed(command)
    return from_rate(read_number(r"[Tt]ransaction_?\s*rate\"?:\s+([\d.]+)", printed), cpu_s, job.seconds)


def autocannon(node_modules: Path | None) -> Callable[[Job], Figures]:
    def measure(job: Job) -> Figures:
        script = None if node_modules is None else node_modules / "autocannon" / "autocannon.js"
        if script is None or not script.exists():
            raise PeerMissingError("autocannon (npm)")
        body = ["-b", job.body, "-H", "Content-Type: application/json"] if job.body else []
        command = [program("node"), str(script), "-j", "-n", "-c", str(SOCKETS), "-d", str(round(job.seconds))]
        printed, cpu_s = timed([*command, "-m", job.method, *body, job.url])
        report = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
        return from_rate(report["requests"]["total"] / report["duration"], cpu_s, job.seconds)

    return measure


def agentkeepalive(node_modules: Path | None) -> Callable[[Job], Figures]:
    def measure(job: Job) -> Figures:
        if node_modules is None or not (node_modules / "agentkeepalive").exists():
            raise PeerMissingError("agentkeepalive (npm)")
        command = [program("node"), str(HERE / "agentkeepalive_client.js"), job.url, job.method, job.body]
        printed, _ = timed([*command, str(USERS), str(SOCKETS), str(job.seconds)], NODE_PATH=str(node_modules))
        return from_line(printed)

    return measure


def all_peers(node_modules: Path | None) -> dict[str, Callable[[Job], Figures]]:
    return {
        "kabench": kabench,
        "kabench agent": python_client("kabench agent", "kabench"),
        "wrk -t1": wrk,
        "h2load": h2load,
        "hey": hey,
        "ab": ab,
        "siege": siege,
        "autocannon": autocannon(node_modules),
        "agentkeepalive": agentkeepalive(node_modules),
        "pycurl": python_client("pycurl", "pycurl"),
        "pyreqwest": python_client("pyreqwest", "pyreqwest"),
        "aiohttp": python_client("aiohttp", "aiohttp"),
        "geventhttpclient": python_client("geventhttpclient", "geventhttpclient"),
        "httpx": python_client("httpx", "httpx"),
        "urllib3": python_client("urllib3", "urllib3"),
        "requests": python_client("requests", "requests"),
    }


# -- servers -----------------------------------------------------------------------------------------------------------

NGINX = """
worker_processes {workers}; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port} backlog=4096{tls}; location / {{ return 200 "hello"; }} }}
}}
"""


@contextlib.contextmanager
def nginx(
    certificate: trustme.LeafCert | None = None, versions: str = "TLSv1.2 TLSv1.3", workers: int = 1
) -> Iterator[str]:
    """Run nginx with one worker or several that answer at once; over https if there is a certificate."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        tls = ""
        if certificate is not None:
            (Path(folder) / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
            (Path(folder) / "key.pem").write_bytes(certificate.private_key_pem.bytes())
            files = f"ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/key.pem"
            tls = f" ssl; {files}; ssl_protocols {versions}"
        config.write_text(NGINX.format(folder=folder, port=port, tls=tls, workers=workers))
        process = subprocess.Popen(
            [program("nginx"), "-e", f"{folder}/error.log", "-c", str(config)],
            preexec_fn=pin_server,
        )
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield f"http{'' if certificate is None else 's'}://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def echo_server(delay_s: float) -> Iterator[str]:
    with EmbeddedServer(ServerOptions(delay_s=delay_s)) as server:
        pin_server(server.process.pid)
        yield server.url


@contextlib.contextmanager
def served_by(environment: Mapping[str, str]) -> Iterator[str]:
    """Run the echo server of the build that the environment names."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "kabench", "serve", "--delay", "0", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(environment))
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        pin_server(process.pid)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def served_under_wrk(environment: Mapping[str, str], seconds: float) -> Figures:
    with served_by(environment) as url:
        return wrk(Job(url, "GET", "", seconds))


def print_against(given: argparse.Namespace, console: Console) -> None:
    """Print kabench's own rows, of this build and of another."""
    tables = []

    def rows(job: Job) -> dict[str, Callable[[dict[str, str]], Figures]]:
        return {
            "kabench run": lambda environment: kabench(job, environment),
            "kabench agent": lambda environment: client("kabench agent", job, environment),
        }

    def compare(title: str, of: dict[str, Callable[[dict[str, str]], Figures]]) -> None:
        tables.append(against_table(title, of, given.against, given.rounds, console))

    if "nginx" in given.loads:
        with nginx() as url:
            compare("0 ms: GET, one nginx worker, 50 sockets, 60 users", rows(Job(url, "GET", "", given.seconds)))
    if "published" in given.loads:
        with echo_server(0.005) as url:
            job = Job(url, "POST", PUBLISHED_BODY.decode(), given.seconds)
            compare("5 ms: POST of 128 bytes, kabench serve, 50 sockets, 60 users", rows(job))
    if "server" in given.loads:
        under_wrk = functools.partial(served_under_wrk, seconds=given.seconds)
        compare("the server: 0 ms, under wrk -t1 -c50", {"kabench serve": under_wrk})
    for made in tables:
        console.print()
        console.print(made)


# -- rounds and tables -------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """A peer's figures of each round, or why there are none."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    missing: str | None = None


def in_rounds(peers: Mapping[str, Callable[[], Figures]], rounds: int, console: Console) -> dict[str, Measured]:
    """Measure every peer in turn, round after round."""
    measured = {name: Measured() for name in peers}
    for number in range(rounds):
        for name, measure in peers.items():
            of_peer = measured[name]
            if of_peer.missing is not None:
                continue
            try:
                figures = measure()
            except PeerMissingError as error:
                of_peer.missing = f"missing: {error}"
            except PeerFailedError as error:
                of_peer.missing = f"failed: {error}"
            else:
                of_peer.rates.append(figures.rate)
                of_peer.cpu_us.append(figures.cpu_us)
                console.print(f"round {number + 1}  {name:<20}{figures.rate:>10.0f}/s", style="dim", highlight=False)
    return measured


def ratios(base: Measured, other: Measured) -> list[float]:
    return [ours / theirs for ours, theirs in zip(base.rates, other.rates, strict=False)]


def table(title: str, base: str, measured: dict[str, Measured]) -> Table:
    made = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    made.add_column("client" if base == "kabench" else "server")
    for column in ("requests/s", "min", "max", "client CPU us", f"{base} / it"):
        made.add_column(column, justify="right")
    for name, of_peer in measured.items():
        if of_peer.missing is not None:
            made.add_row(name, of_peer.missing.splitlines()[0][:60], "", "", "", "")
            continue
        rates = of_peer.rates
        to_base = ratios(measured[base], of_peer)
        made.add_row(
            name,
            f"{statistics.median(rates):.0f}",
            f"{min(rates):.0f}",
            f"{max(rates):.0f}",
            f"{statistics.median(of_peer.cpu_us):.1f}",
            f"{statistics.median(to_base):.2f}" if to_base else "-",
        )
    return made


def as_json(measured: dict[str, Measured], base: str) -> dict[str, object]:
    return {
        name: {
            "rates": of_peer.rates,
            "cpu_us_per_request": of_peer.cpu_us,
            "median_rate": statistics.median(of_peer.rates) if of_peer.rates else None,
            "median_ratio": statistics.median(ratios(measured[base], of_peer)) if of_peer.rates else None,
            "missing": of_peer.missing,
        }
        for name, of_peer in measured.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each peer and round")
    parser.add_argument("--only", nargs="*", default=None, metavar="PEER", help="besides kabench")
    parser.add_argument("--loads", nargs="*", default=["nginx", "published", "server"])
    parser.add_argument("--node-modules", type=Path, default=None, help="where agentkeepalive and autocannon are")
    parser.add_argument("--no-pin", action="store_true", help="let the system choose cores for clients and servers")
    parser.add_argument("--json", type=Path, default=None)
    add_option(parser)
    given = parser.parse_args()
    if not given.no_pin:
        PINNED.set()
    console = Console(width=120)
    if given.against is not None:
        print_against(given, console)
        return
    peers = all_peers(given.node_modules)
    if given.only is not None:
        peers = {name: measure for name, measure in peers.items() if name in {"kabench", *given.only}}
    record: dict[str, object] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "rounds": given.rounds,
        "seconds": given.seconds,
    }

    def bound(job: Job) -> dict[str, Callable[[], Figures]]:
        return {name: functools.partial(measure, job) for name, measure in peers.items()}

    tables = []
    if "nginx" in given.loads:
        with nginx() as url:
            measured = in_rounds(bound(Job(url, "GET", "", given.seconds)), given.rounds, console)
        tables.append(table("0 ms: GET, one nginx worker, 50 sockets, 60 users", "kabench", measured))
        record["nginx"] = as_json(measured, "kabench")
    if "published" in given.loads:
        with echo_server(0.005) as url:
            job = Job(url, "POST", PUBLISHED_BODY.decode(), given.seconds)
            measured = in_rounds(bound(job), given.rounds, console)
        tables.append(table("5 ms: POST of 128 bytes, kabench serve, 50 sockets, 60 users", "kabench", measured))
        record["published"] = as_json(measured, "kabench")
    if "server" in given.loads:
        with echo_server(0.0) as ours, nginx() as theirs:
            urls = {"kabench serve": ours, "nginx": theirs}
            servers = {name: functools.partial(wrk, Job(url, "GET", "", given.seconds)) for name, url in urls.items()}
            measured = in_rounds(servers, given.rounds, console)
        tables.append(table("the server: 0 ms, under wrk -t1 -c50", "kabench serve", measured))
        record["server"] = as_json(measured, "kabench serve")
    for made in tables:
        console.print()
        console.print(made)
    if given.json is not None:
        given.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
