"""`ProbeSocket`: a blocking socket to the server that sees every byte, FIN and RST, and when it came."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.agent.errors import connect_error
from kabench.agent.reader import ResponseReader
from kabench.probe.idle import End

if TYPE_CHECKING:
    from kabench.agent.aio.request import PreparedRequest
    from kabench.agent.reader import ResponseHead

_READ_BYTES = 65_536
_MAX_RESPONSE_BYTES = 64 * 1024 * 1024


class NoAnswerError(Exception):
    """A request was not answered; `end` says what came instead."""

    def __init__(self, why: str, end: End) -> None:
        super().__init__(why)
        self.end = end


@dataclass(frozen=True, slots=True)
class Answered:
    """A response: its head, when its last byte came (`perf_counter`), and how long it took."""

    head: ResponseHead
    at: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Ending:
    """The server's end of a socket: how, when, and what it said before (a 408, perhaps)."""

    end: End
    at: float
    said: bytes = b""


class ProbeSocket:
    """A socket that is connected within `patience_s` seconds. Raises `AgentError` if it cannot be."""

    def __init__(
        self,
        prepared: PreparedRequest,
        context: ssl.SSLContext | None,
        patience_s: float,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._prepared = prepared
        self._reader = ResponseReader()
        self.requests = 0
        origin = prepared.origin
        try:
            raw = socket.create_connection((origin.host, origin.port), patience_s)
        except OSError as error:
            raise connect_error(origin.key, origin.host, error) from None
        self._socket: socket.socket | ssl.SSLSocket = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._socket = context.wrap_socket(
                    raw, server_hostname=origin.host, session=session, suppress_ragged_eofs=True
                )
        except OSError as error:
            raw.close()
            raise connect_error(origin.key, origin.host, error) from None

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session, for another socket to resume; TLS 1.3 has it only after a response."""
        return self._socket.session if isinstance(self._socket, ssl.SSLSocket) else None

    @property
    def tls_version(self) -> str:
        """The version of TLS, such as `TLSv1.3`; empty without TLS."""
        return (self._socket.version() if isinstance(self._socket, ssl.SSLSocket) else None) or ""

    @property
    def has_resumed(self) -> bool:
        """Whether the session was resumed."""
        return isinstance(self._socket, ssl.SSLSocket) and bool(self._socket.session_reused)

    def ask(self, patience_s: float) -> Answered:
        """Send the request and read the response. Raises `NoAnswerError`, and `AgentError` if it is not HTTP."""
        reader = self._reader
        self.requests += 1
        began_at = perf_counter()
        self._socket.settimeout(patience_s)
        reader.begin(is_head_request=self._prepared.is_head)
        try:
            self._socket.sendall(self._prepared.wire)
            while True:
                data = self._socket.recv(_READ_BYTES)
                if not data and not reader.eof():
                    raise NoAnswerError("the server closed the socket instead", End.FIN)
                if not data or reader.feed(data):
                    break
                reader.body()
                if reader.body_bytes > _MAX_RESPONSE_BYTES or perf_counter() - began_at > patience_s:
                    raise NoAnswerError("the response does not end", End.SILENCE)
        except TimeoutError:
            raise NoAnswerError(f"no answer within {patience_s:.1f} s", End.SILENCE) from None
        except OSError:
            raise NoAnswerError("the server reset the socket", End.RST) from None
        now = perf_counter()
        reader.body()
        if reader.head is None:
            raise NoAnswerError("the server closed the socket instead", End.FIN)
        return Answered(reader.head, now, now - began_at)

    def wait_for_end(self, until: float) -> Ending | None:
        """Wait for the server to end the socket; return None if it has not by `until` (`perf_counter`)."""
        said = b""
        while (left_s := until - perf_counter()) > 0:
            self._socket.settimeout(left_s)
            try:
                data = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                return None
            except OSError:
                return Ending(End.RST, perf_counter(), said)
            if not data:
                return Ending(End.FIN, perf_counter(), said)
            said = (said + data)[:_READ_BYTES]
        return None

    def wake(self) -> None:
        """Make another thread that waits for this socket stop waiting."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()
