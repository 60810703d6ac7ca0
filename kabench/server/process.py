"""The echo server as a process of its own: `python -m kabench.server`, controlled by lines of JSON.

It reads its options from one line on standard input, and writes `{"event": "listening", ...}` on standard output once
it accepts connections, or `{"event": "failed", ...}`. Then it answers a line `counts` with its counts, and ends with
its standard input: so it never outlives the process that started it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from typing import TextIO

from kabench.server.echo import EchoServer
from kabench.server.options import ServerOptions
from kabench.system.limits import allow_open_sockets
from kabench.system.listening import listen_error
from kabench.system.loop import run


def say(out: TextIO, event: str, **facts: object) -> None:
    """Write one line of JSON."""
    out.write(json.dumps({"event": event, **facts}) + "\n")
    out.flush()


async def _serve(options: ServerOptions, reader: asyncio.StreamReader) -> None:
    try:
        server = EchoServer(options)
        await server.start()
    except (OSError, ValueError) as error:  # an invalid host name, a certificate that cannot be used
        say(sys.stdout, "failed", why=listen_error(error))
        return
    say(sys.stdout, "listening", url=server.url, port=server.port, ca_data=server.ca_data)
    try:
        while line := await reader.readline():
            if line.strip() == b"counts":
                say(sys.stdout, "counts", counts=dataclasses.asdict(server.snapshot()))
    finally:
        await server.stop()


async def _main() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    options = ServerOptions.from_json(json.loads(await reader.readline()))
    await _serve(options, reader)


def main() -> None:
    """Run until standard input ends."""
    allow_open_sockets()
    run(_main())
