"""What an agent says of itself: events, the log, Prometheus and OpenTelemetry metrics."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AgentEvent,
    AsyncKeepAliveAgent,
    AsyncPlainAgent,
    ConnectError,
    EventKind,
    KeepAliveAgent,
    QueueTimeoutError,
    SocketTimeoutError,
)
from kabench.agent.events import EventSink
from tests.sockets import Peer, ScriptedServer, answering_after, echo_forever, serving, until, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


def told(events: list[AgentEvent]) -> list[tuple[str, str, int]]:
    return [(event.kind.value, event.reason, event.request_count) for event in events]


def test_events_tell_a_socket_s_life(run: Run) -> None:
    async def main() -> None:
        events: list[AgentEvent] = []
        async with ScriptedServer(echo_forever) as server:
            async with AsyncKeepAliveAgent(free_socket_timeout=0.05, timeout=5, on_event=events.append) as agent:
                for _ in range(2):
                    await agent.request("GET", server.url)
                await until(lambda: len(events) == 4)
            assert told(events) == [
                ("created", "", 1),
                ("reused", "", 2),
                ("timed_out", "free_timeout", 2),
                ("closed", "free_timeout", 2),
            ]
            assert {event.origin for event in events} == {server.origin}
            assert 0.05 <= events[-1].age_s < 5

    run(main())


def test_events_tell_of_timeouts_failures_and_retries(run: Run) -> None:
    async def closing_after_one(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    async def main() -> None:
        events: list[AgentEvent] = []
        options: dict[str, Any] = {"max_sockets": 1, "queue_timeout": 0.05, "timeout": 0.2, "on_event": events.append}
        async with ScriptedServer(answering_after(5)) as slow, AsyncKeepAliveAgent(**options) as agent:
            outcomes = await asyncio.gather(*(agent.request("GET", slow.url) for _ in range(2)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [SocketTimeoutError, QueueTimeoutError]
            with pytest.raises(ConnectError):
                await agent.request("GET", "http://127.0.0.1:1/")
            await asyncio.sleep(0)
        assert told(events) == [
            ("created", "", 1),
            ("timed_out", "queue_timeout", 0),
            ("timed_out", "active_timeout", 1),
            ("closed", "active_timeout", 1),
            ("create_failed", "error", 1),
        ]
        events.clear()
        async with ScriptedServer(closing_after_one) as server, AsyncKeepAliveAgent(on_event=events.append) as agent:
            for _ in range(2):
                await agent.request("GET", server.url)
            await asyncio.sleep(0)
            assert [kind for kind, _, _ in told(events)] == ["created", "reused", "closed", "retried", "created"]

    run(main())


def test_a_listener_may_ask_and_may_even_close_the_agent(run: Run) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server:
            agent = AsyncKeepAliveAgent()
            seen: list[int] = []

            def listen(event: AgentEvent) -> None:
                seen.append(agent.get_current_status().create_socket_count)
                agent.close_now()

            agent.add_event_listener(listen, {EventKind.CREATED})
            await asyncio.gather(agent.request("GET", server.url), return_exceptions=True)
            assert seen == [1]

    run(main())


def test_a_listener_that_raises_is_logged_and_harms_nobody(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        heard: list[AgentEvent] = []

        def raise_(event: AgentEvent) -> None:
            raise ValueError(event.kind)

        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent(on_event=raise_) as agent:
            agent.add_event_listener(heard.append)
            assert (await agent.request("GET", server.url)).data == b"ok"
            await until(lambda: bool(heard))

    run(main())
    assert "on_event raised" in caplog.text


def test_nobody_who_listens_costs_no_event(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object) -> None:
        raise AssertionError("an event was made for nobody")

    monkeypatch.setattr("kabench.agent.events.AgentEvent", made)

    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncKeepAliveAgent() as agent:
            for _ in range(3):
                await agent.request("GET", server.url)

    run(main())


def test_the_log_is_silent_by_default_and_tells_at_debug_level(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with ScriptedServer(echo_forever) as server, AsyncPlainAgent() as agent:
            await agent.request("GET", server.url)
            await asyncio.sleep(0)

    run(main())
    assert not [record for record in caplog.records if record.name == "kabench.agent"]
    with caplog.at_level(logging.DEBUG, logger="kabench.agent"):
        run(main())
    texts = [record.getMessage() for record in caplog.records if record.name == "kabench.agent"]
    connected, closed = (text.removeprefix("http://127.0.0.1:").partition(": ")[2] for text in texts)
    assert connected == "a socket was connected"
    assert re.fullmatch(r"a socket was closed \(not reusable\) after 1 request and \d\.\d{3} s", closed)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (AgentEvent(EventKind.CLOSED, "o", "ttl", 2, 1.5), "a socket was closed (ttl) after 2 requests and 1.500 s"),
        (
            AgentEvent(EventKind.TIMED_OUT, "o", "active_timeout", 1, 8.0),
            "a socket timed out (active timeout) after 1 request and 8.000 s",
        ),
        (AgentEvent(EventKind.TIMED_OUT, "o", "queue_timeout"), "a request waited too long for a socket"),
        (AgentEvent(EventKind.CREATE_FAILED, "o", "error"), "a socket could not be connected (error)"),
        (
            AgentEvent(EventKind.RETRIED, "o", "server_closed", 3, 0.25),
            "a request is sent again, since its reused socket was stale (server closed), after 3 requests and 0.250 s",
        ),
    ],
)
def test_the_log_says_what_has_happened(event: AgentEvent, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="kabench.agent"):
        sink = EventSink(None)
        sink.tell(event.kind, event.origin, event.reason, event.request_count, event.age_s)
        sink.deliver()
    assert [record.getMessage() for record in caplog.records] == [f"o: {text}"]


def test_the_threaded_agent_tells_and_logs_the_same(caplog: pytest.LogCaptureFixture) -> None:
    events: list[AgentEvent] = []
    with (
        serving(echo_forever) as server,
        caplog.at_level(logging.DEBUG, logger="kabench.agent"),
        KeepAliveAgent(free_socket_timeout=0.05, timeout=5, on_event=events.append) as agent,
    ):
        for _ in range(2):
            agent.request("GET", server.url)
        wait_until(lambda: len(events) == 4)
    assert [kind for kind, _, _ in told(events)] == ["created", "reused", "timed_out", "closed"]
    assert sum(record.name == "kabench.agent" for record in caplog.records) == 3


def test_prometheus_collects_both_kinds_of_agent() -> None:
    prometheus = pytest.importorskip("prometheus_client")
    from kabench.agent import AgentCollector

    registry = prometheus.CollectorRegistry()
    with serving(echo_forever) as server, KeepAliveAgent() as threaded:
        asyncio_agent = AsyncKeepAliveAgent()
        registry.register(AgentCollector({"threaded": threaded, "asyncio": asyncio_agent}))
        for _ in range(2):
            threaded.request("GET", server.url)

        def sample(name: str, **labels: str) -> float | None:
            value: float | None = registry.get_sample_value(name, labels)
            return value

        assert sample("kabench_agent_sockets_created_total", agent="threaded") == 1
        assert sample("kabench_agent_requests_total", agent="threaded") == 2
        assert sample("kabench_agent_sockets", agent="threaded", origin=server.origin, state="free") == 1
        assert sample("kabench_agent_sockets_created_total", agent="asyncio") == 0
        assert b"kabench_agent_requests_retried_total" in prometheus.generate_latest(registry)


def test_opentelemetry_reports_by_the_names_of_its_conventions() -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from kabench.agent import instrument

    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])

    def points() -> dict[str, Any]:
        data = reader.get_metrics_data()
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: metric.data.data_points[0] for metric in metrics}

    with serving(echo_forever) as server:
        with KeepAliveAgent() as agent:
            instrument(agent, provider)
            agent.request("GET", server.url)
            connections = points()["http.client.open_connections"]
            assert connections.value == 1
            assert dict(connections.attributes) == {
                "url.scheme": "http",
                "server.address": "127.0.0.1",
                "server.port": server.port,
                "http.connection.state": "idle",
            }
        duration = points()["http.client.connection.duration"]
        assert (duration.count, duration.attributes["server.port"]) == (1, server.port)
    provider.shutdown()


def test_a_listener_that_raises_no_exception_once_is_told_all_the_rest(run: Run) -> None:
    class OnceError(BaseException):
        pass

    heard: list[str] = []
    raised: list[object] = []

    def listener(event: AgentEvent) -> None:
        heard.append(event.kind.value)
        if len(heard) == 1:
            raise OnceError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context.get("exception")))
        async with ScriptedServer(echo_forever) as server, AsyncPlainAgent(on_event=listener) as agent:
            for _ in range(20):
                await asyncio.gather(*(agent.request("GET", server.url) for _ in range(3)))
            await until(lambda: len(heard) == 120)

    run(main())
