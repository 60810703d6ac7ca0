"""The errors of an agent. Each is an `AgentError`, and also the standard exception that a caller would look for."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import ClassVar


class AgentError(Exception):
    """The root of all errors of an agent."""

    kind: ClassVar[str] = "agent_error"
    """The error's name in records and reports."""


class AgentClosedError(AgentError, RuntimeError):
    """The agent was closed before or while the request was under way."""

    kind = "agent_closed"


class ConnectError(AgentError, ConnectionError):
    """A socket could not be opened: the name did not resolve, or nobody answered at the address."""

    kind = "connect_failed"


class ConnectTimeoutError(ConnectError, TimeoutError):
    """A socket was not open within `connect_timeout`.

    `timeout` is that limit in seconds.
    """

    kind = "connect_timeout"

    def __init__(self, message: str, timeout: float) -> None:
        super().__init__(message)
        self.timeout = timeout


class TlsError(ConnectError):
    """The TLS handshake failed; nothing of the request was sent."""

    kind = "tls_failed"


class CertificateError(TlsError):
    """The server's certificate was not accepted: its authority, name or date. Nothing of the request was sent."""

    kind = "certificate_rejected"


class LocalPortsExhaustedError(ConnectError):
    """The system had no local port left for a new socket: too many were opened in too short a time."""

    kind = "local_ports_exhausted"


class TooManyOpenFilesError(ConnectError):
    """The process has as many files and sockets open as its limit allows."""

    kind = "too_many_open_files"


class SocketTimeoutError(AgentError, TimeoutError):
    """An active socket saw no byte for `timeout` seconds, or what was sent on it was not acknowledged for that long.

    `timeout` is 0.0 where the system gave the socket up by its own rules.
    """

    kind = "socket_timeout"
    code: ClassVar[str] = "ERR_SOCKET_TIMEOUT"

    def __init__(self, message: str, timeout: float, *, reused_socket: bool) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.reused_socket = reused_socket


class QueueTimeoutError(AgentError, TimeoutError):
    """The request waited for a socket longer than `queue_timeout` (`timeout`, in seconds)."""

    kind = "queue_timeout"

    def __init__(self, message: str, timeout: float) -> None:
        super().__init__(message)
        self.timeout = timeout


class SocketClosedError(AgentError, ConnectionResetError):
    """The other side closed or reset the socket before the response was whole."""

    kind = "socket_closed"

    def __init__(self, message: str, *, reused_socket: bool) -> None:
        super().__init__(message)
        self.reused_socket = reused_socket


class StaleSocketError(SocketClosedError):
    """A reused socket died before the first byte of the response, and the request could not safely be sent again.

    The server has probably closed the idle socket while the request was on its way (the keep-alive race).
    """

    kind = "stale_socket"


class IncompleteResponseError(SocketClosedError):
    """The socket was closed in the middle of a response."""

    kind = "incomplete_response"


class ResponseParseError(AgentError, ValueError):
    """What came back is not an HTTP/1.x response."""

    kind = "bad_response"


class ConflictingLengthsError(ResponseParseError):
    """The response has two Content-Lengths that differ, so its end is unknown (RFC 9110 section 8.6)."""


class ResponseTooLargeError(AgentError, ValueError):
    """The body is longer than `max_response_bytes`; its socket was closed."""

    kind = "response_too_large"


class NotJsonError(AgentError, ValueError):
    """The body of a response is no JSON document."""

    kind = "not_json"


class WrongLoopError(AgentError, RuntimeError):
    """The agent was used from another event loop than the one it was first used in."""

    kind = "wrong_loop"


class UploadCancelledError(AgentError):
    """The iterator that a request's body was read from was cancelled, but not by the task that awaits the request."""

    kind = "upload_cancelled"


class StreamConsumedError(AgentError, RuntimeError):
    """The body of a streamed response has been read already, or given up."""

    kind = "stream_consumed"


def reused_socket(error: BaseException) -> bool | None:
    """Return whether the socket that an error is about had carried a request before; None if it is about no socket.

    Follows the errors that this one was raised from or contains, so it takes urllib3's, requests' and httpx's errors
    as well as this package's.
    """
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        reused = getattr(found, "reused_socket", None)
        if isinstance(reused, bool):
            return reused
        waiting += [found.__cause__, getattr(found, "reason", None), *found.args]
    return None


def connect_error(where: str, host: str, error: Exception) -> ConnectError:
    """Return the error that says why no socket to `where` opened, and what to do if the cause is on this machine."""
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateError(f"{where}: the certificate was not accepted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None)
        return TlsError(f"{where}: TLS failed: {reason.replace('_', ' ').lower() if reason else error}")
    if isinstance(error, socket.gaierror):
        return ConnectError(f"the host name {host!r} does not resolve: {error.strerror or error}")
    if isinstance(error, UnicodeError):
        return ConnectError(f"the host name {host!r} does not resolve: it is no host name")
    if not isinstance(error, OSError):
        return ConnectError(f"{where}: {type(error).__name__}: {error}")
    if error.errno == errno.EADDRNOTAVAIL:
        return LocalPortsExhaustedError(
            f"{where}: this machine has no local port left for another socket; those of closed ones are free again "
            "after a minute. Use a keep-alive agent, fewer requests, or a wider net.ipv4.ip_local_port_range"
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return TooManyOpenFilesError(f"{where}: too many open files; raise the limit (ulimit -n)")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ConnectError(f"{where}: {reason}")
