"""The command line as its users meet it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kabench.cli import main
from kabench.result import load_result, parse_result, save_result
from kabench.server import EmbeddedServer, ServerOptions
from kabench.system.signals import SAME_WITHIN_S
from tests.test_result import a_result, a_run

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = ("--total", "120", "--concurrency", "6", "--max-sockets", "5", "--delay", "1ms")


_PROGRESS = re.compile(r"^\S+ \d+ s: .*\n", re.MULTILINE)


def kabench(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command. Unless progress is asked about, its lines are left out: a busy machine has some to print."""
    done = subprocess.run(
        [sys.executable, "-m", "kabench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        env=os.environ | {"COLUMNS": "200"} | environment,
        check=False,
    )
    if "--progress" not in arguments:
        done.stderr = _PROGRESS.sub("", done.stderr)
    return done


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--agent", "nothing"], "there is no agent 'nothing'; there are keepalive, plain, plain-handoff"),
        (["run", "--concurrency", "0"], "--concurrency"),
        (["run", "--concurrency", "-5"], "--concurrency"),
        (["run", "--max-sockets", "0"], "--max-sockets"),
        (["run", "--max-free-sockets", "0"], "--max-free-sockets"),
        (["run", "--requests", "0"], "--requests"),
        (["run", "--total", "0"], "--total"),
        (["run", "--duration", "0"], "duration"),
        (["run", "--duration", "-1s"], "--duration"),
        (["run", "--delay", "soon"], "'soon' is no duration"),
        (["run", "--timeout", "5 parsecs"], "--timeout"),
        (["run", "--ttl", "x"], "--ttl"),
        (["run", "--requests", "5", "--total", "5"], "--requests and --total: give only one"),
        (["run", "--tls", "https://127.0.0.1:1/"], "--tls is for kabench's own server"),
        (
            ["run", "https://127.0.0.1:1/", "--cacert", "missing.pem"],
            "--cacert missing.pem cannot be used: No such file",
        ),
        (["run", "https://127.0.0.1:1/", "--cacert", "ca.pem", "--insecure"], "give only one of them"),
        (["run", "http://127.0.0.1:1/", "--insecure"], "--cacert, --cert, --key and --insecure are for https URLs"),
        (["serve", "--key", "key.pem", "--tls"], "a key goes with a certificate"),
        (["serve", "--cert", "missing.pem"], "the certificate missing.pem cannot be used: No such file"),
        (["run", "--total", "5", "--duration", "5s"], "--total and --duration: give only one"),
        (["run", "nowhere"], "'nowhere' is no http URL"),
        (["run", "ftp://127.0.0.1/"], "is no http URL"),
        (["run", "http://"], "names no host"),
        (["run", "http://127.0.0.1:99999/"], "is no URL: its port is no number up to 65535"),
        (["run", "http://127.0.0.1/", "--delay", "5ms"], "--delay is for kabench's own server"),
        (["run", "--header", "no colon"], "there is no colon"),
        (["run", "--header", "bad name: x"], "is no header name"),
        (["run", "--data", "@/nowhere/at/all"], "No such file"),
        (["run", "--data", "@/"], "directory"),
        (["run", "--json", "/nowhere/at/all.json"], "there is no folder /nowhere/at"),
        (["run", "--json", "/"], "this is a folder"),
        (["run", "--nothing"], "--nothing"),
        (["serve", "--port", "70000"], "--port"),
        (["serve", "--host", ""], "no host to listen on"),
        (["serve", "--host", "not a host"], "cannot listen on not a host"),
        (["serve", "--idle-timeout", "-1s"], "--idle-timeout"),
        (["report", "/nowhere/at/all.json"], "No such file"),
        (["nothing"], "nothing"),
    ],
)
def test_what_cannot_start_is_a_line_or_two_and_exit_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kabench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert says in said.err
    assert said.err.startswith("kabench: ")
    assert len(said.err.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_that_cannot_be_written_is_known_before_the_load(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    began = time.monotonic()
    finished = kabench("run", "--duration", "30s", cwd=tmp_path)
    assert finished.returncode == 2
    assert "results: no file can be written there" in finished.stderr
    assert "--no-save" in finished.stderr
    assert time.monotonic() - began < 15


def test_a_taken_port_is_exit_2(taken_port: int) -> None:
    finished = kabench("serve", "--port", str(taken_port))
    assert finished.returncode == 2
    what_to_do = "use --port to name another port, or 0 for any free one"
    assert (
        finished.stderr == f"kabench: cannot listen on 127.0.0.1:{taken_port}: Address already in use; {what_to_do}\n"
    )


def test_a_refused_connection_is_exit_3(closed_port: int, tmp_path: Path) -> None:
    finished = kabench("run", f"http://127.0.0.1:{closed_port}/", cwd=tmp_path)
    assert finished.returncode == 3
    assert finished.stderr == (
        f"kabench: cannot reach the target: http://127.0.0.1:{closed_port}: Connection refused\n"
    )


def test_a_host_that_does_not_resolve_is_exit_3(tmp_path: Path) -> None:
    finished = kabench("run", "http://no-such-host.invalid/", cwd=tmp_path)
    assert finished.returncode == 3
    assert "'no-such-host.invalid' does not resolve" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_an_agent_without_one_success_is_exit_3_and_reported(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    finished = kabench("run", f"{echo_server.url}?status=500", "--total", "10", "--agent", "keepalive", cwd=tmp_path)
    assert finished.returncode == 3
    assert "failed 100.00% of 10" in finished.stdout
    assert "keepalive: not one successful transaction" in finished.stderr
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_a_run_prints_its_report_and_saves_its_record(tmp_path: Path) -> None:
    finished = kabench("run", *QUICK, "--name", "my run/1", "--json", "record.json", cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "[kabench:120] keepalive, 5 created, 120 requestFinished," in finished.stdout
    assert "[kabench:120] plain, 120 created, 120 requestFinished, 1.00 req/socket," in finished.stdout
    assert "keepalive against plain" in finished.stdout
    assert max(len(line) for line in finished.stdout.splitlines() if not line.startswith("Record:")) <= 80
    assert "\x1b" not in finished.stdout
    (saved,) = (tmp_path / "results").iterdir()
    assert "my-run-1" in saved.name
    assert load_result(saved) == load_result(tmp_path / "record.json")
    again = kabench("report", str(saved), cwd=tmp_path)
    assert again.returncode == 0
    assert again.stdout.strip() == finished.stdout.split("\nRecord:")[0].strip()


def test_a_run_over_https_verifies_resumes_and_says_so(tmp_path: Path) -> None:
    done = kabench("run", *QUICK, "--tls", "--json", "record.json", "--no-save", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kabench's own echo server over https" in done.stdout
    keepalive, plain = load_result(tmp_path / "record.json").runs
    assert keepalive.sockets.tls_handshakes == keepalive.sockets.created == 5
    assert plain.sockets.tls_handshakes == 120
    assert (plain.sockets.tls_resumed or 0) > 100
    assert f"TLS: 120 handshakes, {plain.sockets.tls_resumed} of them resumed" in done.stdout


def test_an_https_url_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    few = ("--agent", "keepalive", "--total", "10", "--concurrency", "2", "--no-save")
    with EmbeddedServer(ServerOptions(delay_s=0, tls=True)) as server:
        refused = kabench("run", server.url, *few, cwd=tmp_path)
        assert refused.returncode == 3
        assert "the certificate was not accepted: unable to get local issuer certificate" in refused.stderr
        assert "name its authority with --cacert FILE" in refused.stderr
        (tmp_path / "ca.pem").write_text(server.ca_data or "")
        trusted = kabench("run", server.url, *few, "--cacert", "ca.pem", cwd=tmp_path)
        assert (trusted.returncode, trusted.stderr) == (0, "")
        insecure = kabench("run", server.url, *few, "--insecure", cwd=tmp_path)
        assert insecure.returncode == 0
        assert "certificates are not verified" in insecure.stdout


def test_serve_over_https_says_how_to_trust_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kabench", "serve", "--tls", "--port", "0", "--delay", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[2]
        authority = Path(server.stdout.readline().split("--cacert ")[1].split(";")[0])
        try:
            done = kabench(
                "run",
                url,
                "--cacert",
                str(authority),
                "--agent",
                "keepalive",
                "--total",
                "5",
                "--no-save",
                cwd=tmp_path,
            )
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(10) == 0
        assert (done.returncode, done.stderr) == (0, "")
    assert not authority.exists()


def test_json_on_stdout_leaves_it_clean(tmp_path: Path) -> None:
    finished = kabench("run", *QUICK, "--json", "-", "--no-save", cwd=tmp_path)
    assert finished.returncode == 0
    assert len(parse_result(finished.stdout.encode(), "stdout").runs) == 2
    assert "Transactions:" in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_sent_is_what_was_asked_for(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"from a file")
    sent = [
        ((), "GET", 0),
        (("--data", "text"), "POST", 4),
        (("--data", "@body", "--method", "put"), "PUT", 11),
    ]
    for options, method, size in sent:
        before = echo_server.counts().request_body_bytes
        finished = kabench(
            "run", echo_server.url, "--total", "3", "-c", "1", "-a", "keepalive", "--json", "-", *options, cwd=tmp_path
        )
        assert finished.returncode == 0
        assert json.loads(finished.stdout)["plan"]["method"] == method
        assert echo_server.counts().request_body_bytes - before == 3 * size


def test_secrets_stay_out_of_record_and_report(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    url = echo_server.url.replace("http://", "http://user:hunter2@")
    finished = kabench("run", url, "--total", "3", "-H", "Authorization: Bearer hunter2", "--json", "-", cwd=tmp_path)
    assert finished.returncode == 0
    assert "hunter2" not in finished.stdout + finished.stderr
    assert all("hunter2" not in path.read_text() for path in (tmp_path / "results").iterdir())


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "kabench", "run", "--requests", "1000000", "--progress", "plain", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("keepalive 1 s"):
            break
    return process


def without_progress(err: str) -> list[str]:
    """What is said on standard error, but how far it is."""
    return [line for line in err.splitlines() if not line.startswith("keepalive ")]


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def is_gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_once_stops_reports_and_saves(number: signal.Signals, tmp_path: Path) -> None:
    process = start(cwd=tmp_path)
    children = children_of(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted: the figures are those measured until then" in out
    assert "Traceback" not in err
    (saved,) = (tmp_path / "results").iterdir()
    (run,) = load_result(saved).runs
    assert run.interrupted
    assert run.transactions > 0
    assert len(children) == 2
    assert all(is_gone(child) for child in children)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_twice_exits_at_once_and_leaves_nobody_behind(tmp_path: Path) -> None:
    process = start(cwd=tmp_path)
    children = children_of(process.pid)
    for child in children:  # so that stopping takes longer than the second Ctrl-C
        os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # belongs to the first
    time.sleep(SAME_WITHIN_S)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    for child in children:
        os.kill(child, signal.SIGCONT)
    _, err = process.communicate(timeout=10)
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while not all(is_gone(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_under_nohup_goes_on_when_the_terminal_goes_away(tmp_path: Path) -> None:
    nohup = ["nohup", sys.executable, "-m", "kabench", "run", "--duration", "2s", "--progress", "plain", "--no-save"]
    with subprocess.Popen(
        [*nohup, "--agent", "keepalive", "--json", "r.json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("keepalive 1 s")
        process.send_signal(signal.SIGHUP)
        process.stderr.read()
        assert process.wait(timeout=20) == 0
    assert not load_result(tmp_path / "r.json").runs[0].interrupted


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_server_that_dies_in_the_middle_is_exit_3_reported_and_saved(tmp_path: Path) -> None:
    process = start(cwd=tmp_path)
    commands = {child: (Path("/proc") / str(child) / "cmdline").read_bytes() for child in children_of(process.pid)}
    (server,) = [child for child, command in commands.items() if b"kabench.server" in command]
    os.kill(server, signal.SIGKILL)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "the echo server died (SIGKILL)" in err
    assert len(without_progress(err)) == 1
    assert "Transactions:" in out
    (saved,) = (tmp_path / "results").iterdir()
    assert load_result(saved).runs[0].transactions > 0


def test_several_records_are_shown_side_by_side(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_result(a_result(name=name), tmp_path / f"{name}.json")
    finished = kabench("report", "one.json", "two.json", cwd=tmp_path)
    assert finished.returncode == 0
    assert "keepalive against keepalive" in finished.stdout


def test_version_and_help() -> None:
    assert kabench("--version").stdout.startswith("kabench 0.")
    for command in ("run", "serve", "report"):
        assert kabench(command, "--help").returncode == 0
    assert "--max-sockets" in kabench("run", "--help").stdout


def test_output_that_nobody_reads_does_not_lose_the_record(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m kabench run {' '.join(QUICK)} | true; exit ${{PIPESTATUS[0]}}"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    (saved,) = (tmp_path / "results").iterdir()
    assert len(load_result(saved).runs) == 2


def test_a_terminal_without_blocks_gets_a_report_without_blocks(tmp_path: Path) -> None:
    finished = kabench("run", *QUICK, "--name", "näme", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "########" in finished.stdout
    assert finished.stdout.isascii()


def test_a_long_name_is_cut_in_the_file_name(tmp_path: Path) -> None:
    assert kabench("run", *QUICK, "--name", "n" * 300, cwd=tmp_path).returncode == 0
    (saved,) = (tmp_path / "results").iterdir()
    assert load_result(saved).name == "n" * 300


def test_a_method_in_lower_case_is_the_same_method(tmp_path: Path) -> None:
    finished = kabench("run", *QUICK, "--method", "post", "--json", "-", "--no-save", cwd=tmp_path)
    plan = json.loads(finished.stdout)["plan"]
    assert (plan["method"], len(plan["data"])) == ("POST", 128)


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    save_result(a_result(a_run(agent="a\x1b[31m", errors={"k\x07": 1}), name="n\x1b]0;x"), tmp_path / "one.json")
    finished = kabench("report", "one.json", cwd=tmp_path)
    assert finished.returncode == 0
    assert "\x1b" not in finished.stdout
    assert "\x07" not in finished.stdout


def test_a_record_with_an_odd_plan_still_prints(tmp_path: Path) -> None:
    odd = a_result(plan={"agent_options": "none", "headers": 7, "delay_s": "x"})
    save_result(odd, tmp_path / "one.json")
    assert kabench("report", "one.json", cwd=tmp_path).returncode == 0
