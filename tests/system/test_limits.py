from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kabench.result import load_result

if TYPE_CHECKING:
    from pathlib import Path

    from kabench.server import EmbeddedServer

resource = pytest.importorskip("resource")


def in_a_process_with(soft: int, hard: int, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    code = (
        "import resource; from kabench.system.limits import allow_open_sockets; allow_open_sockets(); "
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert in_a_process_with(100, 300, code, tmp_path).stdout == "(300, 300)\n"


RUN = "import sys; sys.argv = ['kabench', 'run', '--no-save', '--quiet', *{!r}]; from kabench.cli import main; main()"


def test_a_run_has_more_sockets_than_the_soft_limit(tmp_path: Path) -> None:
    code = RUN.format(["--max-sockets", "150", "-c", "150", "--total", "600", "-a", "keepalive", "--delay", "50ms"])
    done = in_a_process_with(100, 400, code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "150 created" in done.stdout


def test_more_sockets_than_the_system_allows_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    done = in_a_process_with(100, 120, RUN.format(["--max-sockets", "150", "-c", "150"]), tmp_path)
    assert done.returncode == 2
    assert "--max-sockets: a worker needs 150 sockets, and the system lets a process have 88" in done.stderr


def test_a_rate_without_a_limit_of_sockets_keeps_within_the_system_s_and_says_where_that_held_it_up(
    tmp_path: Path,
) -> None:
    at_a_rate = ["-a", "keepalive", "--rate", "500", "-d", "1s", "--json", "r.json"]
    slow = in_a_process_with(60, 60, RUN.format([*at_a_rate, "--delay", "200ms"]), tmp_path)
    assert slow.returncode == 0
    assert "kabench: requests waited for a socket: the system lets a process have 28 of them" in slow.stderr
    (run,) = load_result(tmp_path / "r.json").runs
    assert (run.sockets.created, run.errors) == (28, {})
    fast = in_a_process_with(60, 60, RUN.format([*at_a_rate, "--delay", "0", "--rate", "50"]), tmp_path)
    assert (fast.returncode, fast.stderr) == (0, "")


def test_more_users_than_the_system_has_sockets_for_share_them(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    url = f"{echo_server.url}20"
    options = [url, "-c", "60", "--total", "240", "--json", "r.json"]
    done = in_a_process_with(60, 60, RUN.format(options), tmp_path)
    assert done.returncode == 0
    assert "requests waited for a socket" in done.stderr
    (run,) = load_result(tmp_path / "r.json").runs
    assert (run.transactions, run.sockets.created, run.errors) == (240, 28, {})
