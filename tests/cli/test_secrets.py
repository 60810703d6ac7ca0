"""Passwords and tokens that commands are given: not in what they print, and not in what they write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_command_line import kabench

if TYPE_CHECKING:
    from pathlib import Path

    from kabench.server import EmbeddedServer

SECRET = "hunter2"
AT_THE_SERVER = "http://user:{secret}@{address}/?token={secret}"
NOBODY = "http://user:hunter2@127.0.0.1:1/?token=hunter2"
NO_URL = "http://user:hunter2@[::1/?token=hunter2"
ODD_PASSWORDS = ("http://bob:hunter2/x@127.0.0.1:1/", "http://bob:hun#hunter2@127.0.0.1:1/", "bob:hunter2@127.0.0.1/")


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "run",
            "{url}",
            "--total",
            "2",
            "--json",
            "-",
            "--html",
            "page.html",
            "--junit",
            "j.xml",
            "--markdown",
            "m.md",
        ],
        ["run", "{url}", "--total", "2", "-H", "Cookie: hunter2", "--user", "me:hunter2", "--csv", "c.csv"],
        ["run", "{url}", "--total", "2", "--agent", "requests", "--progress", "plain", "-H", "X-Api-Key: hunter2"],
        ["run", NOBODY],
        ["run", NO_URL],
        ["run", "{url}", "--total", "2", "-H", "Authorization hunter2"],
        ["run", "{url}", "--total", "2", "-H", "Authorization: hunter2\r\nX: y"],
        ["run", NOBODY, "--agent", "urllib3", "--agent", "httpx"],
        [
            "compare",
            "{url}",
            "--agent",
            "keepalive",
            "--agent",
            "plain",
            "--trials",
            "1",
            "--total",
            "5",
            "--json",
            "-",
        ],
        ["probe", "{url}", "--max-time", "1s", "--max-requests", "10", "--json", "-", "-H", "Authorization: hunter2"],
        ["probe", NOBODY],
        *(["probe", url] for url in ODD_PASSWORDS),
        *(["run", url] for url in ODD_PASSWORDS),
        ["probe", NO_URL],
        ["proxy", NO_URL],
        ["proxy", NOBODY],
        ["proxy", "http://user:hunter2@127.0.0.1:1/", "--port", "1", "--host", "no.such.host.invalid"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_no_secret_is_printed_or_written(echo_server: EmbeddedServer, tmp_path: Path, arguments: list[str]) -> None:
    url = AT_THE_SERVER.format(secret=SECRET, address=f"127.0.0.1:{echo_server.port}")
    done = kabench(*(url if each == "{url}" else each for each in arguments), cwd=tmp_path)
    assert done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    for path in tmp_path.rglob("*.*"):
        if path.is_file():
            assert SECRET not in path.read_text(), path.name


def test_a_proxy_shows_its_target_without_the_password_that_it_sends(
    echo_server: EmbeddedServer, tmp_path: Path
) -> None:
    target = f"http://user:{SECRET}@127.0.0.1:{echo_server.port}"
    command = [sys.executable, "-m", "kabench", "proxy", target, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert f"leads to http://127.0.0.1:{echo_server.port}" in said
    assert SECRET not in said + out + err
