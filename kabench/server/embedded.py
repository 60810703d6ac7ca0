"""`EmbeddedServer`: the delayed echo server in a process of its own, started and ended by this one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Self

from kabench.server.counts import ServerCounts
from kabench.system.child import end_child, start_child
from kabench.system.listening import cannot_listen

if TYPE_CHECKING:
    from types import TracebackType

    from kabench.server.options import ServerOptions


class ServerError(RuntimeError):
    """The server could not start, or has ended."""


class EmbeddedServer:
    """A running echo server. A context manager; leaving it ends the process.

    Raises `ServerError` if it cannot listen.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.process = start_child(self._command())
        try:
            self._tell(json.dumps(options.as_json()))
            heard = self._hear()
        except BaseException:
            self.stop()
            raise
        if heard["event"] != "listening":
            self.stop()
            raise ServerError(cannot_listen(options.host, options.port, str(heard.get("why"))))
        self.url: str = heard["url"]
        self.port: int = heard["port"]
        self.ca_data: str | None = heard["ca_data"]

    def _command(self) -> list[str]:
        return [sys.executable, "-P", "-m", "kabench.server"]

    def counts(self) -> ServerCounts:
        """Return what the server has counted so far. Raises `ServerError` if it has ended."""
        self._tell("counts")
        return ServerCounts(**self._hear()["counts"])

    @property
    def is_running(self) -> bool:
        """Whether its process is alive."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End the process; twice is fine."""
        end_child(self.process)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _tell(self, line: str) -> None:
        if self.process.stdin is None:
            raise ServerError("the echo server has no standard input")
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise ServerError("the echo server has ended") from None

    def _hear(self) -> dict[str, Any]:  # a line of JSON
        line = self.process.stdout.readline() if self.process.stdout is not None else b""
        if not line:
            raise ServerError("the echo server has ended")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
