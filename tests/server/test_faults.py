"""What the echo server does wrong on purpose, on real sockets, and that it counts all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from kabench.faults import FaultError, parse_fault
from kabench.server import EmbeddedServer, Fault, FaultKind, ServerError, ServerOptions, read_counts
from kabench.server.faults import EXTRA_BYTES, GARBAGE, RequestChance, SocketChance
from tests.server.echoes import FIN, GET, RST, RawSocket, asked_once, echoing
from tests.sockets import reset, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from kabench.server.echo import EchoServer

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

OK_HEAD = b"HTTP/1.1 200 OK\r\n"
LAST_GET = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def faults(*texts: str) -> dict[str, Any]:
    return {"faults": tuple(parse_fault(text) for text in texts)}


# -- what they are called ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("reset:1%", Fault(FaultKind.RESET, rate=0.01)),
        ("close-mid-body:0.5%", Fault(FaultKind.CLOSE_MID_BODY, rate=0.005)),
        ("slow-body:250ms", Fault(FaultKind.SLOW_BODY, duration_s=0.25)),
        ("slow-body:1s:10%", Fault(FaultKind.SLOW_BODY, rate=0.1, duration_s=1)),
        ("slow-body:10%:1s", Fault(FaultKind.SLOW_BODY, rate=0.1, duration_s=1)),
        ("stall:1s/5s", Fault(FaultKind.STALL, duration_s=1, period_s=5)),
        ("stall:1s:2%", Fault(FaultKind.STALL, rate=0.02, duration_s=1)),
        ("close-idle:2s", Fault(FaultKind.CLOSE_IDLE, duration_s=2)),
        ("drop-idle:2s:50%", Fault(FaultKind.DROP_IDLE, rate=0.5, duration_s=2)),
        ("refuse:100%", Fault(FaultKind.REFUSE)),
        ("refuse:1s/10s", Fault(FaultKind.REFUSE, duration_s=1, period_s=10)),
    ],
)
def test_faults_are_written_as_a_name_a_time_and_a_rate(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rest:1%", "there is no fault 'rest'; there are reset,"),
        ("reset", "write for instance reset:1%"),
        ("reset:1", "write for instance reset:1%"),
        ("reset:0%", "a rate of 0 is not above 0"),
        ("reset:-1%", "is not above 0 and at most 1"),
        ("reset:101%", "is not above 0 and at most 1"),
        ("reset:nan%", "is not above 0 and at most 1"),
        ("reset:1%:2%", "write for instance reset:1%"),
        ("reset:1s", "write for instance reset:1%"),
        ("stall:1%", "write for instance stall:1s/5s"),
        ("stall:5s/5s", "5 s is not shorter than each 5 s"),
        ("stall:0s/5s", "it takes a time above 0"),
        ("stall:1s/5s:1%", "write for instance stall:1s/5s"),
        ("slow-body:0s", "it takes a time above 0"),
        ("slow-body:1s/5s", "write for instance slow-body:1s:1%"),
        ("close-idle:soon", "write for instance close-idle:2s"),
        ("", "there is no fault ''"),
    ],
)
def test_what_is_no_fault_is_said(text: str, said: str) -> None:
    with pytest.raises(FaultError) as caught:
        parse_fault(text)
    assert said in str(caught.value)


def test_requests_cannot_meet_more_than_one_fault_each() -> None:
    with pytest.raises(ValueError, match="hit 120% of the requests"):
        ServerOptions(**faults("reset:60%", "garbage:60%"))
    ServerOptions(**faults("reset:60%", "garbage:40%", "close-idle:1s", "drop-idle:1s", "stall:1s/5s"))


def test_options_go_to_another_process_whole() -> None:
    options = ServerOptions(**faults("reset:1%", "stall:1s/5s"), seed=7, counts_file="counts")
    assert ServerOptions.from_json(json.loads(json.dumps(options.as_json()))) == options


# -- whom they hit -----------------------------------------------------------------------------------------------------


def test_the_seed_says_which_requests_and_sockets_are_hit_and_rates_hold() -> None:
    given = [parse_fault(text) for text in ("reset:2%", "garbage:3%", "close-idle:1s:20%", "refuse:10%")]

    def drawn(seed: int) -> tuple[list[FaultKind | None], list[frozenset[FaultKind]]]:
        requests, sockets = RequestChance(given, seed), SocketChance(given, seed)
        of_requests = [fault.kind if fault is not None else None for fault in (requests.next() for _ in range(20_000))]
        return of_requests, [frozenset(sockets.next()) for _ in range(5_000)]

    requests, sockets = drawn(1)
    assert drawn(1) == (requests, sockets)
    assert drawn(2) != (requests, sockets)
    assert requests.count(FaultKind.RESET) == pytest.approx(400, rel=0.2)
    assert requests.count(FaultKind.GARBAGE) == pytest.approx(600, rel=0.2)
    assert set(requests) == {None, FaultKind.RESET, FaultKind.GARBAGE}
    assert sum(FaultKind.CLOSE_IDLE in each for each in sockets) == pytest.approx(1000, rel=0.2)
    assert sum(FaultKind.REFUSE in each for each in sockets) == pytest.approx(500, rel=0.2)
    both = frozenset({FaultKind.CLOSE_IDLE, FaultKind.REFUSE})
    assert sockets.count(both) == pytest.approx(100, rel=0.4)  # each is drawn by itself


@pytest.mark.parametrize(
    ("at", "until"), [(100.0, 100.0), (103.9, 103.9), (104.0, 105.0), (104.99, 105.0), (105.0, 105.0), (109.5, 110.0)]
)
def test_a_stall_is_the_last_part_of_each_period(at: float, until: float) -> None:
    assert parse_fault("stall:1s/5s").held_until(at, zero=100.0) == pytest.approx(until)


# -- what they do ------------------------------------------------------------------------------------------------------


def test_reset_is_rst_instead_of_a_response(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("reset:100%")) as server:
            assert await asked_once(server) == RST
            counts = server.snapshot()
        assert (counts.requests, counts.responses, counts.faults) == (1, 0, {"reset": 1})

    run(main())


def test_close_mid_body_leaves_the_end_out(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("close-mid-body:100%")) as server:
            seen = await asked_once(server)
            assert b"Content-Length: 20\r\n" in seen
            assert seen.endswith(b"\r\n\r\n" + b"x" * 10 + FIN)
            without_body = await asked_once(server, GET.replace(b"GET", b"HEAD"))
            assert b"\r\n\r\n" not in without_body  # so not even that is whole
            counts = server.snapshot()
        assert (counts.responses, counts.response_body_bytes, counts.faults) == (0, 0, {"close-mid-body": 2})

    run(main())


def test_garbage_is_no_response(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("garbage:100%")) as server:
            seen = {await asked_once(server) for _ in range(40)}
            assert seen == {each + FIN for each in GARBAGE}
            assert server.snapshot().faults == {"garbage": 40}

    run(main())


def test_extra_bytes_come_behind_a_right_response(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("extra-bytes:100%")) as server:
            seen = await asked_once(server)
            assert seen.startswith(OK_HEAD)
            assert seen.endswith(b"\r\n\r\n" + b"x" * 20 + EXTRA_BYTES + FIN)
            counts = server.snapshot()
        assert (counts.responses, counts.response_body_bytes, counts.faults) == (1, 20, {"extra-bytes": 1})

    run(main())


def test_the_extra_bytes_are_a_whole_response() -> None:
    head, _, body = EXTRA_BYTES.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"


def test_no_length_ends_with_the_connection(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("no-length:100%")) as server:
            seen = await asked_once(server)
            assert b"Content-Length" not in seen
            assert b"\r\nConnection: close\r\n" in seen
            assert seen.endswith(b"\r\n\r\n" + b"x" * 20 + FIN)
            client = await RawSocket.to(server)
            client.send(LAST_GET.replace(b"size=20", b"size=20&chunked=1"))
            assert b"Transfer-Encoding: chunked" in await client.rest()  # which says no length either
            client.close()
            counts = server.snapshot()
        assert (counts.responses, counts.response_body_bytes, counts.faults) == (2, 40, {"no-length": 1})

    run(main())


@pytest.mark.parametrize("delay_s", [0.0, 0.01])
def test_a_slow_body_takes_its_time_and_others_wait_for_it(run: Run, delay_s: float) -> None:
    async def main() -> None:
        async with echoing(**faults("slow-body:200ms:100%"), delay_s=delay_s) as server:
            client = await RawSocket.to(server)
            began_at = perf_counter()
            client.send(b"GET /?size=20 HTTP/1.1\r\nHost: h\r\n\r\n" + b"GET /?size=7 HTTP/1.1\r\nHost: h\r\n\r\n")
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert perf_counter() - began_at < 0.15
            assert await client.reader.read(100) == b"xx"
            assert await client.reader.readexactly(18) == b"x" * 18
            assert 0.2 <= perf_counter() - began_at < 2
            assert b"Content-Length: 20\r\n" in head
            assert (await client.answer()).endswith(b"\r\n\r\n" + b"x" * 7)
            assert perf_counter() - began_at >= 0.4
            client.close()
            counts = server.snapshot()
        assert (counts.responses, counts.response_body_bytes, counts.faults) == (2, 27, {"slow-body": 2})

    run(main())


def test_a_stall_holds_a_response_back(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("stall:100ms:100%")) as server:
            client = await RawSocket.to(server)
            began_at = perf_counter()
            client.send(GET)
            assert (await client.answer()).startswith(OK_HEAD)
            assert 0.1 <= perf_counter() - began_at < 2
            client.close()
            assert server.snapshot().faults == {"stall": 1}
        async with echoing(**faults("stall:190ms/200ms")) as server:  # almost always
            client = await RawSocket.to(server)
            for _ in range(4):
                client.send(GET)
                await client.answer()
                await asyncio.sleep(0.01)
            client.close()
            counts = server.snapshot()
        assert counts.responses == 4
        assert counts.faults["stall"] >= 3

    run(main())


def test_close_idle_closes_unannounced_and_drop_idle_says_nothing_until_bytes_come(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("close-idle:150ms")) as server:
            client = await RawSocket.to(server)
            client.send(GET)
            answer = await client.answer()
            assert b"Keep-Alive" not in answer
            began_at = perf_counter()
            assert await client.rest() == FIN
            assert 0.1 <= perf_counter() - began_at < 2
            client.close()
            counts = server.snapshot()
            assert (counts.faults, counts.idle_closes) == ({"close-idle": 1}, 0)
        async with echoing(**faults("drop-idle:150ms", "close-idle:400ms"), idle_timeout_s=0.3) as server:
            client = await RawSocket.to(server)
            for _ in range(3):  # not while it is used
                client.send(GET)
                await client.answer()
                await asyncio.sleep(0.07)
            assert await client.is_silent(0.5)
            assert server.snapshot().faults == {}
            client.send(GET)
            assert await client.rest() == RST
            client.close()
            counts = server.snapshot()
        assert (counts.requests, counts.faults, counts.idle_closes) == (3, {"drop-idle": 1}, 0)

    run(main())


def test_refuse_resets_a_new_socket(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("refuse:100%")) as server:
            assert await asked_once(server) == RST
            counts = server.snapshot()
        assert (counts.sockets, counts.requests, counts.faults) == (1, 0, {"refuse": 1})

    run(main())


async def can_connect(server: EchoServer) -> bool:
    return (await asked_once(server, LAST_GET)).startswith(OK_HEAD)


def test_refuse_lets_nobody_in_for_a_while(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("refuse:200ms/300ms")) as server:
            client = await RawSocket.to(server)
            client.send(GET)
            await client.answer()
            seen = [True]
            async with asyncio.timeout(20):
                while seen != [True, False, True, False, True]:
                    can = await can_connect(server)
                    if can != seen[-1]:
                        seen.append(can)
                    await asyncio.sleep(0.005)
            client.send(GET)  # who was there is served
            assert (await client.answer()).startswith(OK_HEAD)
            client.close()
            assert server.snapshot().faults["refuse"] >= 2

    run(main())


def test_what_nobody_waits_for_any_more_is_counted_as_unanswered(run: Run) -> None:
    async def main() -> None:
        async with echoing(**faults("slow-body:30s:50%"), delay_s=30) as server:
            client = await RawSocket.to(server)
            client.send(GET.replace(b"/0", b"/") * 5)
            await until(lambda: server.counts.requests == 5)
            reset(client.writer)
            await until(lambda: server.counts.unanswered == 5)

    run(main())


def test_every_request_is_accounted_for(run: Run) -> None:
    """Requests are responses, faults that are instead of one, or unanswered."""

    async def main() -> None:
        instead_of_one, others = ("reset", "garbage", "close-mid-body"), ("extra-bytes", "no-length", "refuse")
        given = faults(*(f"{kind}:10%" for kind in instead_of_one + others))
        async with echoing(**given, seed=3) as server:
            for _ in range(120):
                await asked_once(server, GET + LAST_GET)
            await until(lambda: not server.connections)
            counts = server.snapshot()
        instead = sum(counts.faults[kind] for kind in instead_of_one)
        assert counts.requests == counts.responses + instead + counts.unanswered
        assert counts.sockets == 120
        assert len(counts.faults) == 6

    run(main())


def test_two_runs_of_one_seed_meet_the_same_faults() -> None:
    def counted() -> dict[str, int]:
        options = ServerOptions(delay_s=0, **faults("reset:5%", "garbage:5%", "no-length:5%", "refuse:5%"), seed=11)
        with EmbeddedServer(options) as server:
            asyncio.run(ask_many(server.port, 200))
            return server.counts().faults

    first = counted()
    assert len(first) == 4
    assert counted() == first


async def ask_many(port: int, times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(ConnectionResetError):  # refused while it connects
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(LAST_GET)
            await RawSocket(reader, writer).rest()
            writer.close()


# -- counts that outlive the server ------------------------------------------------------------------------------------


def test_counts_in_a_file_survive_a_sigkill_and_a_new_server_goes_on_counting(tmp_path: Path) -> None:
    path = str(tmp_path / "counts")
    options = ServerOptions(delay_s=0, **faults("reset:50%"), counts_file=path)
    for lives in (1, 2):
        with EmbeddedServer(options) as server:
            asyncio.run(ask_many(server.port, 20))
            assert server.counts() == read_counts(path)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        counts = read_counts(path)
        assert counts.sockets == counts.requests == 20 * lives
        assert counts.responses + counts.faults["reset"] == 20 * lives
        assert counts.response_body_bytes == 20 * counts.responses
    shown = subprocess.run(
        [sys.executable, "-m", "kabench.server", "counts", path], capture_output=True, text=True, check=True
    )
    assert json.loads(shown.stdout)["requests"] == 40


def test_a_file_that_is_no_counts_file_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "letter.txt"
    other.write_text("Dear reader")
    with pytest.raises(ServerError, match="is not one: it holds something else"):
        EmbeddedServer(ServerOptions(counts_file=str(other)))
    assert other.read_text() == "Dear reader"
    with pytest.raises(ServerError, match="No such file or directory"):
        EmbeddedServer(ServerOptions(counts_file=str(tmp_path / "nowhere" / "counts")))
