"""The keep-alive agent: pools sockets, closes idle ones before the server does, and says what its pool is doing.

from kabench.agent import AsyncKeepAliveAgent

async with AsyncKeepAliveAgent(max_sockets=50) as agent:
    response = await agent.request("GET", "http://127.0.0.1:8080/")
    print(response.status, response.json(), agent.get_current_status())
"""

from typing import TYPE_CHECKING

from kabench.agent.book import CloseReason
from kabench.agent.errors import (
    AgentClosedError,
    AgentError,
    CertificateError,
    ConnectError,
    ConnectTimeoutError,
    IncompleteResponseError,
    LocalPortsExhaustedError,
    NotJsonError,
    QueueTimeoutError,
    ResponseParseError,
    ResponseTooLargeError,
    SocketClosedError,
    SocketTimeoutError,
    StaleSocketError,
    StreamConsumedError,
    TlsError,
    TooManyOpenFilesError,
    WrongLoopError,
    reused_socket,
)
from kabench.agent.events import AgentEvent, EventKind
from kabench.agent.options import AgentOptions
from kabench.agent.status import AgentStatus

if TYPE_CHECKING:
    from kabench.agent.aio import AsyncKeepAliveAgent, AsyncPlainAgent, PreparedRequest, Response, StreamedResponse
    from kabench.agent.aio.httpx_transport import AsyncKeepAliveTransport as AsyncKeepAliveTransport
    from kabench.agent.opentelemetry import instrument as instrument
    from kabench.agent.prometheus import AgentCollector as AgentCollector
    from kabench.agent.sync import KeepAliveAgent, KeepAliveProxyAgent, PlainAgent
    from kabench.agent.sync.errors import UntrustedResponseError as UntrustedResponseError
    from kabench.agent.sync.httpx_transport import KeepAliveTransport as KeepAliveTransport
    from kabench.agent.sync.requests_adapter import KeepAliveAdapter as KeepAliveAdapter
    from kabench.agent.tls import InsecureTlsWarning, TlsOptions

_LAZY = {
    "AgentCollector": "kabench.agent.prometheus",
    "AsyncKeepAliveAgent": "kabench.agent.aio",
    "AsyncKeepAliveTransport": "kabench.agent.aio.httpx_transport",
    "AsyncPlainAgent": "kabench.agent.aio",
    "InsecureTlsWarning": "kabench.agent.tls",
    "KeepAliveAdapter": "kabench.agent.sync.requests_adapter",
    "KeepAliveAgent": "kabench.agent.sync",
    "KeepAliveProxyAgent": "kabench.agent.sync",
    "KeepAliveTransport": "kabench.agent.sync.httpx_transport",
    "PlainAgent": "kabench.agent.sync",
    "PreparedRequest": "kabench.agent.aio",
    "Response": "kabench.agent.aio",
    "StreamedResponse": "kabench.agent.aio",
    "TlsOptions": "kabench.agent.tls",
    "UntrustedResponseError": "kabench.agent.sync.errors",
    "instrument": "kabench.agent.opentelemetry",
}
"""What needs asyncio, TLS, urllib3 or an optional package is imported when it is first used; the rest is light."""

__all__ = [
    "AgentClosedError",
    "AgentError",
    "AgentEvent",
    "AgentOptions",
    "AgentStatus",
    "AsyncKeepAliveAgent",
    "AsyncPlainAgent",
    "CertificateError",
    "CloseReason",
    "ConnectError",
    "ConnectTimeoutError",
    "EventKind",
    "IncompleteResponseError",
    "InsecureTlsWarning",
    "KeepAliveAgent",
    "KeepAliveProxyAgent",
    "LocalPortsExhaustedError",
    "NotJsonError",
    "PlainAgent",
    "PreparedRequest",
    "QueueTimeoutError",
    "Response",
    "ResponseParseError",
    "ResponseTooLargeError",
    "SocketClosedError",
    "SocketTimeoutError",
    "StaleSocketError",
    "StreamConsumedError",
    "StreamedResponse",
    "TlsError",
    "TlsOptions",
    "TooManyOpenFilesError",
    "WrongLoopError",
    "reused_socket",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ImportError(f"kabench.agent.{name} needs {package}, which is not installed") from error
