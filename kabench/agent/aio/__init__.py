"""The agents for asyncio: one protocol per socket, one timer per agent."""

from kabench.agent.aio.agent import AsyncAgent, AsyncKeepAliveAgent, AsyncPlainAgent
from kabench.agent.aio.exchange import Exchange
from kabench.agent.aio.request import Headers, PreparedRequest
from kabench.agent.aio.response import Response, StreamedResponse
from kabench.agent.reader import ResponseHead
from kabench.agent.urls import Origin

__all__ = [
    "AsyncAgent",
    "AsyncKeepAliveAgent",
    "AsyncPlainAgent",
    "Exchange",
    "Headers",
    "Origin",
    "PreparedRequest",
    "Response",
    "ResponseHead",
    "StreamedResponse",
]
