"""What an agent raises. Every error is an `AgentError`, and also the standard exception a caller would look for."""

from __future__ import annotations

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


class LocalPortsExhaustedError(ConnectError):
    """The system had no local port left for a new socket: too many were opened in too short a time."""

    kind = "local_ports_exhausted"


class TooManyOpenFilesError(ConnectError):
    """The process has as many files and sockets open as its limit allows."""

    kind = "too_many_open_files"


class SocketTimeoutError(AgentError, TimeoutError):
    """An active socket saw no byte for `timeout` seconds."""

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
