"""A server process that resets sockets idle for two seconds, and announces that it does: `python FILE`, then a port."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys

IDLE_S = 2
ANSWER = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=%d\r\nContent-Length: 2\r\n\r\nok" % IDLE_S


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE_S)
            _, _, length = head.lower().partition(b"content-length: ")
            await reader.readexactly(int(length.split(b"\r\n")[0]))
            writer.write(ANSWER)
    except TimeoutError:
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    except (EOFError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
