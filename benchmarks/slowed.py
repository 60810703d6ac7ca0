"""(used by `verdicts.py`) kabench's agent as a custom client, unchanged and with a delay in it."""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.agent import AsyncKeepAliveAgent
from kabench.system.alarm import make_alarm

if TYPE_CHECKING:
    from kabench.load.clients.contract import ClientSettings
    from kabench.load.plan.source import Request


class Agent:
    """`AsyncKeepAliveAgent`, unchanged."""

    def __init__(self, settings: ClientSettings) -> None:
        self.agent = AsyncKeepAliveAgent(settings.agent_options)

    async def send(self, request: Request) -> tuple[int, bytes]:
        response = await self.agent.request(request.method, request.url, headers=request.headers, body=request.body)
        return response.status, response.data

    async def close(self) -> None:
        await self.agent.close()


class SlowedAgent(Agent):
    """An agent whose requests take 5 % longer against a server that answers after 5 ms.

    These 5 % are the delay and the wake-up after it. Event loops count in whole milliseconds, so it has its own alarm.
    """

    DELAY_S = 0.00017

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._alarm = make_alarm(asyncio.get_running_loop(), self._wake)

    async def send(self, request: Request) -> tuple[int, bytes]:
        answer = await super().send(request)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((perf_counter() + self.DELAY_S, over))
        if len(self._waiting) == 1:
            self._alarm.set(self._waiting[0][0])
        await over
        return answer

    def _wake(self) -> None:
        now = perf_counter()
        while self._waiting and self._waiting[0][0] <= now:
            _, over = self._waiting.popleft()
            if not over.done():
                over.set_result(None)
        if self._waiting:
            self._alarm.set(self._waiting[0][0])

    async def close(self) -> None:
        self._alarm.close()
        await super().close()
