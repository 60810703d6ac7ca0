"""File descriptors that run out, really: a clear error, and an agent that lives on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kabench.server import EmbeddedServer, ServerOptions

PREPARE = """
import json, os, resource, sys
from kabench.agent import AsyncKeepAliveAgent, KeepAliveAgent, TooManyOpenFilesError, reused_socket
import asyncio, urllib3
url = sys.argv[1]

def exhaust():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return held
"""
ASYNCIO = """
async def main():
    async with AsyncKeepAliveAgent() as agent:
        held = exhaust()
        try:
            await agent.request("GET", url)
        except TooManyOpenFilesError as error:
            said = str(error)
        for number in held:
            os.close(number)
        response = await agent.request("GET", url)
        status = agent.get_current_status()
        print(json.dumps([said, response.status, status.create_socket_error_count, status.create_socket_count]))

asyncio.run(main())
"""
THREADS = """
with KeepAliveAgent(retries=False) as agent:
    held = exhaust()
    try:
        agent.request("GET", url)
    except urllib3.exceptions.NewConnectionError as error:
        said = str(error.__cause__)
        assert isinstance(error.__cause__, TooManyOpenFilesError)
    for number in held:
        os.close(number)
    response = agent.request("GET", url)
    status = agent.get_current_status()
    print(json.dumps([said, response.status, status.create_socket_error_count, status.create_socket_count]))
"""


@pytest.mark.parametrize("program", [ASYNCIO, THREADS], ids=["asyncio", "threads"])
def test_an_agent_lives_on_when_files_run_out(program: str) -> None:
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        done = subprocess.run(
            [sys.executable, "-c", PREPARE + program, server.url],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said, status, errors, created = json.loads(done.stdout)
    assert said.endswith("too many open files; raise the limit (ulimit -n)")
    assert (status, errors, created) == (200, 1, 1)
