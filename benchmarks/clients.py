"""Load through one Python client, closed model, for peers.py: `python clients.py NAME JOB` prints one line of JSON.

Each client is used in the way that its documentation calls fastest: one session, `sockets` pooled sockets, `users`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine


@dataclass
class Job:
    """The load to send. `requests` counts the answers."""

    url: str
    method: str
    body: str
    users: int
    sockets: int
    seconds: float
    requests: int = 0
    ends_at: float = 0.0

    @property
    def data(self) -> bytes | None:
        return self.body.encode() or None

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json"} if self.body else {}

    def goes_on(self) -> bool:
        return perf_counter() < self.ends_at


def uvloop_run(main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(main)


async def tasks(job: Job, send: Callable[[], Awaitable[object]]) -> None:
    async def user() -> None:
        while job.goes_on():
            await send()
            job.requests += 1

    await asyncio.gather(*(user() for _ in range(job.users)))


def threads(job: Job, send: Callable[[], object]) -> None:
    counts = [0] * job.users

    def user(number: int) -> None:
        while job.goes_on():
            send()
            counts[number] += 1

    running = [threading.Thread(target=user, args=(number,)) for number in range(job.users)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    job.requests = sum(counts)


def kabench_agent(job: Job) -> None:
    """Use the agent as a library: each user is a task that awaits agent.send()."""
    from kabench.agent import AsyncKeepAliveAgent

    async def main() -> None:
        async with AsyncKeepAliveAgent(max_sockets=job.sockets, free_socket_timeout=30) as agent:
            prepared = agent.prepare(job.method, job.url, headers=job.headers, body=job.data)
            await tasks(job, lambda: agent.send(prepared))

    uvloop_run(main())


def aiohttp(job: Job) -> None:
    import aiohttp

    async def main() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=job.sockets)) as session:

            async def send() -> None:
                async with session.request(job.method, job.url, data=job.data, headers=job.headers) as response:
                    await response.read()

            await tasks(job, send)

    uvloop_run(main())


def httpx(job: Job) -> None:
    import httpx

    async def main() -> None:
        limits = httpx.Limits(max_connections=job.sockets, max_keepalive_connections=job.sockets)
        async with httpx.AsyncClient(limits=limits, timeout=30) as client:
            await tasks(job, lambda: client.request(job.method, job.url, content=job.data, headers=job.headers))

    uvloop_run(main())


def pyreqwest(job: Job) -> None:
    from pyreqwest.client import ClientBuilder

    async def main() -> None:
        async with ClientBuilder().max_connections(job.sockets).build() as client:

            async def send() -> None:
                request = client.request(job.method, job.url).headers(job.headers)
                if job.data is not None:
                    request = request.body_bytes(job.data)
                await (await request.build().send()).bytes()

            await tasks(job, send)

    uvloop_run(main())


def urllib3(job: Job) -> None:
    import urllib3

    pool = urllib3.PoolManager(maxsize=job.sockets, block=True)
    threads(job, lambda: pool.request(job.method, job.url, body=job.data, headers=job.headers))


def requests(job: Job) -> None:
    import requests

    session = requests.Session()
    session.trust_env = False
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=job.sockets, pool_block=True))
    threads(job, lambda: session.request(job.method, job.url, data=job.data, headers=job.headers).content)


def geventhttpclient(job: Job) -> None:
    import gevent.pool
    from geventhttpclient import HTTPClient

    client = HTTPClient.from_url(job.url, concurrency=job.sockets, network_timeout=30, connection_timeout=30)
    path = "/" + job.url.split("/", 3)[3]

    def user() -> None:
        while job.goes_on():
            client.request(job.method, path, body=job.data or b"", headers=job.headers).read()
            job.requests += 1

    pool = gevent.pool.Pool(job.users)
    for _ in range(job.users):
        pool.spawn(user)
    pool.join()


def pycurl(job: Job) -> None:
    """Use libcurl's multi interface with one handle a socket, since users beyond that would only wait."""
    import pycurl

    multi = pycurl.CurlMulti()
    handles = []
    for _ in range(job.sockets):
        handle = pycurl.Curl()
        handle.setopt(pycurl.URL, job.url)
        handle.setopt(pycurl.WRITEFUNCTION, len)
        handle.setopt(pycurl.CUSTOMREQUEST, job.method)
        handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in job.headers.items()])
        if job.data is not None:
            handle.setopt(pycurl.POSTFIELDS, job.data)
        multi.add_handle(handle)
        handles.append(handle)
    while job.goes_on():
        multi.perform()
        _, finished, failed = multi.info_read(job.sockets)
        if failed:
            raise RuntimeError(failed[0])
        job.requests += len(finished)
        for handle in finished:
            multi.remove_handle(handle)
            multi.add_handle(handle)
        if not finished:
            multi.select(0.05)


CLIENTS: dict[str, Callable[[Job], None]] = {
    "kabench agent": kabench_agent,
    "aiohttp": aiohttp,
    "geventhttpclient": geventhttpclient,
    "httpx": httpx,
    "pycurl": pycurl,
    "pyreqwest": pyreqwest,
    "requests": requests,
    "urllib3": urllib3,
}


def main() -> None:
    name, given = sys.argv[1:]
    job = Job(**json.loads(given))
    cpu_before = process_time()
    begun_at = perf_counter()
    job.ends_at = begun_at + job.seconds
    CLIENTS[name](job)
    measured = {"elapsed_s": perf_counter() - begun_at, "cpu_s": process_time() - cpu_before}
    print(json.dumps({"requests": job.requests, **measured}))


if __name__ == "__main__":
    main()
