"""The keep-alive agent: pools sockets, closes idle ones before the server does, and says what its pool is doing.

from kabench.agent import AsyncKeepAliveAgent

async with AsyncKeepAliveAgent(max_sockets=50) as agent:
    response = await agent.request("GET", "http://127.0.0.1:8080/")
    print(response.status, response.json(), agent.get_current_status())
"""

from kabench.agent.aio import AsyncKeepAliveAgent, AsyncPlainAgent, PreparedRequest, Response
from kabench.agent.errors import (
    AgentClosedError,
    AgentError,
    ConnectError,
    ConnectTimeoutError,
    IncompleteResponseError,
    LocalPortsExhaustedError,
    QueueTimeoutError,
    ResponseParseError,
    SocketClosedError,
    SocketTimeoutError,
    StaleSocketError,
    TooManyOpenFilesError,
)
from kabench.agent.options import AgentOptions
from kabench.agent.status import AgentStatus

__all__ = [
    "AgentClosedError",
    "AgentError",
    "AgentOptions",
    "AgentStatus",
    "AsyncKeepAliveAgent",
    "AsyncPlainAgent",
    "ConnectError",
    "ConnectTimeoutError",
    "IncompleteResponseError",
    "LocalPortsExhaustedError",
    "PreparedRequest",
    "QueueTimeoutError",
    "Response",
    "ResponseParseError",
    "SocketClosedError",
    "SocketTimeoutError",
    "StaleSocketError",
    "TooManyOpenFilesError",
]
