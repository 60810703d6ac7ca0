"""A field is described once: whatever goes over the fields of options, plans and figures forgets none of them."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main

from kabench.agent import AgentOptions, AsyncKeepAliveAgent
from kabench.agent.options import AgentOptionArguments, OptionKind
from kabench.cli import app
from kabench.cli.agent_options import agent_options_from, agent_parameters
from kabench.cli.options import LoadOptions
from kabench.comparison.merged import merged_runs
from kabench.distributed.gathering import AgentReport, Gathering, WorkerReport
from kabench.load import AgentSpecError, LoadPlan, LoadTarget
from kabench.load.clients.specs import check_spec
from kabench.load.figures.messages import NO_SOCKETS, Counts, Second, SocketCounts, Totals
from kabench.load.figures.sockets import counts_of
from kabench.load.figures.tally import Tally
from kabench.load.plan.share import Share
from kabench.metrics import FIGURES, METRICS, SIEGE_LINES, Place, shown_at
from kabench.report.markdown import markdown_of_run
from kabench.report.siege import siege_lines
from kabench.result import AgentRun, Sockets, WorkerRecord
from tests.load.loads import run_here
from tests.responses import answer
from tests.sockets import Peer, serving
from tests.test_result import a_result, a_run

OPTIONS = AgentOptions.described()
DOCS = Path(__file__).parents[1] / "docs"
OTHER_THAN_THE_DEFAULT: dict[OptionKind, Any] = {OptionKind.DURATION: 2.5, OptionKind.LIMIT: 7, OptionKind.COUNT: 7}
WORKERS = 3


def with_another(name: str) -> AgentOptions:
    """Options of which this one is not as it is by default."""
    option = OPTIONS[name]
    default = getattr(AgentOptions(), name)
    value = OTHER_THAN_THE_DEFAULT.get(option.kind, not default if option.kind is OptionKind.FLAG else None)
    if option.choices:
        value = option.choices[1]
    given = {"keep_alive": False, name: value} if name == "hand_off" else {name: value}
    options = AgentOptions(**given)
    assert getattr(options, name) != default
    return options


# -- options of an agent


def test_the_arguments_of_an_agent_are_its_options() -> None:
    assert list(get_type_hints(AgentOptionArguments)) == list(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_documented(name: str) -> None:
    assert f"`{name}`" in (DOCS / "agent.md").read_text()


@pytest.mark.parametrize("name", OPTIONS)
def test_parts_of_a_shared_option_add_up_and_others_are_alike(name: str) -> None:
    options = with_another(name)
    whole = getattr(options, name)
    parts = [getattr(Share(index, WORKERS).of_options(options), name) for index in range(WORKERS)]
    assert sum(parts) == whole if OPTIONS[name].is_shared else parts == [whole] * WORKERS


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.is_shared])
def test_a_plan_refuses_more_workers_than_can_share_an_option(name: str) -> None:
    with pytest.raises(ValueError, match=f"workers: 8 of them cannot share 7 {OPTIONS[name].called}"):
        LoadPlan(agent_options=with_another(name), workers=8)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_peer_is_refused_where_it_cannot_do_what_an_option_says(name: str) -> None:
    plan = LoadPlan(url="http://127.0.0.1/", agent_options=with_another(name))
    check_spec("keepalive", plan)
    check_spec("urllib3-keepalive", plan)
    if OPTIONS[name].is_common:
        check_spec("urllib3", plan)
    else:
        with pytest.raises(AgentSpecError, match=r"urllib3 does not support .*; keepalive, ") as caught:
            check_spec("urllib3", plan)
        assert OPTIONS[name].called in str(caught.value) or name == "hand_off"  # which goes with keep_alive


@pytest.mark.parametrize("name", OPTIONS)
def test_a_record_holds_an_option(name: str) -> None:
    options = with_another(name)
    assert LoadPlan(agent_options=options).as_record()["agent_options"][name] == getattr(options, name)


@pytest.mark.parametrize("command", ["run", "compare", "proxy"])
def test_the_command_line_has_all_options_that_have_a_place_there(command: str) -> None:
    group: Any = typer.main.get_command(app)
    flags = {flag for parameter in group.commands[command].params for flag in parameter.opts}
    for option in OPTIONS.values():
        assert (option.flag.partition("/")[0] in flags) == bool(option.help)


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.help])
def test_an_option_of_the_command_line_reaches_the_agent(name: str) -> None:
    given = {parameter.name: None for parameter in agent_parameters()}
    value = getattr(with_another(name), name)
    given[OPTIONS[name].flag.partition("/")[0].removeprefix("--").replace("-", "_")] = value
    assert getattr(agent_options_from(given), name) == value


# -- fields of a plan


CALLED_OTHERWISE = {"url": "urls", "targets": "request_file", "headers": "header", "stages": "stage"}


def test_a_record_holds_every_field_of_a_plan() -> None:
    assert list(LoadPlan().as_record()) == [field.name for field in dataclasses.fields(LoadPlan)]


def test_the_command_line_has_every_field_of_a_plan() -> None:
    options = {field.name for field in dataclasses.fields(LoadOptions)}
    for field in dataclasses.fields(LoadPlan):
        assert CALLED_OTHERWISE.get(field.name, field.name.removesuffix("_s")) in options


@pytest.mark.parametrize(
    "field", [field for field in dataclasses.fields(LoadPlan) if field.metadata], ids=lambda f: f.name
)
def test_a_peer_is_refused_where_a_field_says_so(field: dataclasses.Field[Any]) -> None:
    values: dict[str, Any] = {
        "cookies": True,
        "connect_to": "127.0.0.1:1",
        "unix_socket": "/tmp/x",
        "total_timeout_s": 1.0,
    }
    if not field.metadata["not_for_peers"]:
        assert field.name not in values
        return
    with pytest.raises(AgentSpecError, match=f"does not support {field.metadata['not_for_peers']}"):
        check_spec("urllib3", LoadPlan(url="http://127.0.0.1/", **{field.name: values[field.name]}))


# -- figures


def filled(kind: type[Any], times: int = 1) -> Any:
    """Figures none of which is 0; `times` as much."""
    values: dict[str, Any] = {}
    for number, name in enumerate(kind.__struct_fields__, 2):
        by_key: dict[str, dict[Any, int]] = {"status_codes": {200: number * times}}
        by_key |= {each: {"reset": number * times} for each in ("errors", "unsent", "closed_by")}
        values[name] = by_key.get(name, number * times)
    return kind(**values)


@pytest.mark.parametrize("kind", [Totals, SocketCounts])
def test_figures_add_up_over_workers(kind: type[Any]) -> None:
    assert kind.sum_of([filled(kind), filled(kind, 2)]) == filled(kind, 3)
    assert kind.sum_of([]) == kind()


@pytest.mark.parametrize("kind", [Totals, SocketCounts])
def test_what_is_new_of_figures_is_told(kind: type[Any]) -> None:
    before, now = filled(kind), filled(kind, 3)
    new = now.since(before)
    opened_before = before.free + before.active if kind is SocketCounts else 0
    for name, counted in kind.counted().items():
        expected = getattr(now if counted.is_level else filled(kind, 2), name)
        assert getattr(new, name) == (expected + opened_before if name == "created" else expected), name


def test_an_agent_tells_all_counts_of_its_sockets() -> None:
    async def main() -> None:
        async with AsyncKeepAliveAgent() as agent:
            assert counts_of(agent) == NO_SOCKETS

    asyncio.run(main())


CALLED_OTHERWISE_IN_A_RECORD = {"body_bytes": "data_transferred_bytes", "wire_bytes": "data_wire_bytes"}


def a_second() -> Second:
    return Second(elapsed_s=1.0, totals=filled(Totals), sockets=filled(SocketCounts), cpu_s=0.5, max_rss_mb=30.0)


def holds_all(run: AgentRun) -> None:
    for name in SocketCounts.__struct_fields__:
        holder = run if name == "retries" else run.sockets
        assert getattr(holder, name) == getattr(filled(SocketCounts), name), name
    totals = filled(Totals)
    for name in Totals.__struct_fields__:
        value = getattr(totals, name)
        if name == "failed_answers":
            assert run.failed_transactions == value + totals.socket_errors
            continue
        if name == "interrupted":
            assert run.unanswered["interrupted"].count == value
            continue
        if name == "unsent":
            assert run.unanswered["reset"].sent == totals.errors["reset"] - value["reset"]
            continue
        recorded = getattr(run, CALLED_OTHERWISE_IN_A_RECORD.get(name, name))
        assert recorded == ({str(key): times for key, times in value.items()} if isinstance(value, dict) else value)
    assert run.sockets.req_per_socket


def test_a_record_holds_all_figures_of_a_worker() -> None:
    tally = Tally("keepalive", [WorkerRecord(name="worker-1", host="h", transactions=0)])
    tally.add_counts(0, Counts(("total", "service", "first_byte"), {1000: 3}))
    tally.end_second(0, a_second())
    tally.end()
    holds_all(tally.agent_run(interrupted=False))


def test_a_distributed_record_holds_all_figures_of_a_worker() -> None:
    gathering = Gathering(0.0)
    report = AgentReport("keepalive", [Counts(("total",), {1000: 3})], a_second())
    gathering.hear("one", WorkerReport("h", 1.0, [report], is_last=True), 1.0)
    (run,) = gathering.runs()
    holds_all(run)


def test_trials_added_up_lose_no_figure() -> None:
    tally = Tally("keepalive", [WorkerRecord(name="worker-1", host="h", transactions=0)])
    tally.add_counts(0, Counts(("total",), {1000: 3}))
    tally.end_second(0, a_second())
    tally.end()
    run = tally.agent_run(interrupted=False)
    once, twice = run, merged_runs("keepalive", [run, run])
    for field in dataclasses.fields(Sockets):
        value = getattr(once.sockets, field.name)
        if field.name == "req_per_socket":
            assert getattr(twice.sockets, field.name) == value
        elif isinstance(value, dict):
            assert getattr(twice.sockets, field.name) == {key: 2 * times for key, times in value.items()}
        else:
            assert getattr(twice.sockets, field.name) == 2 * value
    assert twice.transactions == 2 * once.transactions
    assert twice.failed_transactions == 2 * once.failed_transactions


def test_every_figure_has_a_name_of_its_own_and_siege_s_lines_are_twelve() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert [line.place for _, line in SIEGE_LINES] == list(range(1, 13))
    assert len(siege_lines(a_run())) == 12
    assert all(METRICS[figure.name] is figure for figure in FIGURES if figure.has_threshold)


def test_a_report_shows_every_figure_that_has_a_place_there() -> None:
    text = markdown_of_run(a_result())
    for figure in shown_at(Place.MARKDOWN):
        assert f"| {figure.label} |" in text.replace("\\", "")


# -- abilities of users


def test_targets_in_turn_cookies_templates_and_expectations_go_together() -> None:
    seen: list[bytes] = []

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.request()
            seen.append(request)
            body = b"wanted" if len(seen) % 2 else b"other"
            await peer.send(answer(body, b"Set-Cookie: a=1"))

    with serving(handler) as server:
        targets = tuple(LoadTarget(url=f"{server.origin}/{name}/{{{{counter}}}}") for name in ("one", "two"))
        run = run_here(
            targets=targets, method="GET", data=b"", cookies=True, templates=True, concurrency=1, requests=6,
            expect_body=b"wanted",
        )  # fmt: skip
    assert run.transactions == 6
    assert run.errors == {"unexpected_body": 3}
    paths = [request.split(b" ")[1] for request in seen]
    assert [path.split(b"/")[1] for path in paths] == [b"one", b"two"] * 3
    assert len(set(paths)) == 6
    assert [b"Cookie: a=1" in request for request in seen] == [False, True, True, True, True, True]
