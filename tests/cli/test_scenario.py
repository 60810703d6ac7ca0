"""Scenario files and the options of load: what a user writes, and the plan that comes of it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from kabench.cli import main, parse
from kabench.cli.agent_options import OF_A_LOAD
from kabench.cli.options import LoadOptions
from kabench.cli.parse import GivenStage
from kabench.cli.plan import plan_of
from kabench.published import PUBLISHED_BODY
from kabench.result import load_result
from kabench.server import EmbeddedServer, ServerOptions
from tests.cli.test_command_line import kabench

if TYPE_CHECKING:
    import subprocess

# -- texts


@pytest.mark.parametrize(
    ("text", "rate"),
    [("2000/s", 2000), ("2000", 2000), ("120/m", 2), ("0.5/s", 0.5), (" 90 / m ", 1.5), ("0", 0), (5, 5), (2.5, 2.5)],
)
def test_a_rate(text: str | float, rate: float) -> None:
    assert parse.rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "10/h", "-1/s", "nan", "inf", "1/s/s", "", "/s", "10 s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="rate"):
        parse.rate(text)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("10s:500", GivenStage(10, 500, is_rate=False)),
        ("1.5m:60/m", GivenStage(90, 1, is_rate=True)),
        ("250ms:2000/s", GivenStage(0.25, 2000, is_rate=True)),
        ("30:0", GivenStage(30, 0, is_rate=False)),
    ],
)
def test_a_stage(text: str, stage: GivenStage) -> None:
    assert parse.stage(text) == stage


@pytest.mark.parametrize("text", ["500", "10s", "soon:5", "10s:", ":5", "10s:many", "10s:-5", "10s:5:6"])
def test_what_is_no_stage(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse.stage(text)


@pytest.mark.parametrize(("text", "workers"), [("auto", parse.AUTO), ("1", 1), ("64", 64), (3, 3)])
def test_workers(text: str | int, workers: int) -> None:
    assert parse.workers(text) == workers


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "AUTO "])
def test_what_is_no_number_of_workers(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="neither 'auto' nor a number of processes above 0"):
        parse.workers(text)


# -- scenarios

Refusal = Callable[..., str]


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """What `kabench run` says to arguments with which it cannot start, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def refused(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kabench", "run", "--no-save", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, "")
        assert said.err.startswith("kabench: ")
        assert len(said.err.splitlines()) <= 2
        return said.err

    return refused


def run_with(folder: Path, scenario: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "load.toml").write_text(f"{scenario}\n")
    return kabench("run", "--scenario", "load.toml", "--no-save", "--quiet", "--json", "r.json", *arguments, cwd=folder)


def plan_with(folder: Path, scenario: str, *arguments: str) -> dict[str, Any]:
    """The plan that a scenario and a command line make."""
    done = run_with(folder, scenario, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    plan: dict[str, Any] = load_result(folder / "r.json").plan
    return plan


def test_a_scenario_says_what_the_command_line_could(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    plan = plan_with(
        tmp_path,
        f"""
        url = "{echo_server.url}"
        agent = ["keepalive", "plain"]
        concurrency = 4
        requests = 5
        max_sockets = 3
        timeout = "2s"
        free_socket_timeout = 4.5
        warmup = 0.1
        method = "PUT"
        header = ["X-A: 1", "X-B: 2"]
        data = "text"
        expect_status = [200]
        seed = 7
        workers = 2
        """,
    )
    assert plan["url"] == echo_server.url
    assert (plan["concurrency"], plan["requests"], plan["workers"], plan["seed"]) == (4, 5, 2, 7)
    assert plan["agent_options"]["max_sockets"] == 3
    assert plan["agent_options"]["timeout"] == 2.0
    assert plan["agent_options"]["free_socket_timeout"] == 4.5
    assert plan["warmup_s"] == 0.1
    assert (plan["method"], plan["data"], plan["expect_status"]) == ("PUT", "text", [200])
    assert plan["headers"] == [["X-A", "1"], ["X-B", "2"]]
    assert [run.agent for run in load_result(tmp_path / "r.json").runs] == ["keepalive", "plain"]


def test_rates_stages_and_several_urls(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    plan = plan_with(
        tmp_path,
        f"""
        urls = ["{echo_server.url}a", "{echo_server.url}b"]
        agent = ["keepalive"]
        rate = "60/m"
        arrivals = "poisson"
        stage = ["100ms:200/s", "0.1:0"]
        max_in_flight = 20
        """,
    )
    assert [target["url"] for target in plan["targets"]] == [f"{echo_server.url}a", f"{echo_server.url}b"]
    assert (plan["rate"], plan["arrivals"], plan["max_in_flight"]) == (1.0, "poisson", 20)
    assert plan["stages"] == [{"duration_s": 0.1, "level": 200.0}, {"duration_s": 0.1, "level": 0.0}]


def test_the_command_line_comes_first(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    scenario = """
        url = "http://127.0.0.1:1/"
        agent = ["plain"]
        concurrency = 4
        total = 1000000
        header = ["X-A: 1"]
        """
    plan = plan_with(tmp_path, scenario, echo_server.url, "-a", "keepalive", "--total", "12", "--header", "X-B: 2")
    assert (plan["url"], plan["concurrency"], plan["total"]) == (echo_server.url, 4, 12)
    assert plan["headers"] == [["X-B", "2"]]
    assert [run.agent for run in load_result(tmp_path / "r.json").runs] == ["keepalive"]


@pytest.mark.parametrize(
    "line", ['agent = "keepalive"', 'header = "X-A: 1"', 'stage = "200ms:3"', "expect_status = 200"]
)
def test_one_of_what_there_may_be_several_needs_no_list(echo_server: EmbeddedServer, tmp_path: Path, line: str) -> None:
    ends = "" if "stage" in line else "total = 10\n"
    plan_with(tmp_path, f'url = "{echo_server.url}"\nconcurrency = 2\n{ends}{line}\n')


def test_files_are_looked_for_beside_the_scenario(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "urls.txt").write_text(f"{echo_server.url}a\n2 {echo_server.url}b\n")
    (folder / "bodies.txt").write_text("one\ntwo\n")
    (folder / "a.toml").write_text(
        'url_file = "urls.txt"\ndata_lines = "bodies.txt"\nagent = ["keepalive"]\ntotal = 10\nmax_sockets = 2\n'
    )
    (folder / "body").write_text("beside")
    (folder / "b.toml").write_text(f'url = "{echo_server.url}"\ndata = "@body"\nagent = ["keepalive"]\ntotal = 10\n')
    options = ("--no-save", "--quiet", "--json", "r.json")
    assert kabench("run", "-f", "scenarios/a.toml", *options, cwd=tmp_path).returncode == 0
    plan = load_result(tmp_path / "r.json").plan
    assert plan["data_lines"] == ["one", "two"]
    assert [target["weight"] for target in plan["targets"]] == [1.0, 2.0]
    assert kabench("run", "-f", "scenarios/b.toml", *options, cwd=tmp_path).returncode == 0
    assert load_result(tmp_path / "r.json").plan["data"] == "beside"


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("concurency = 5", "--scenario load.toml: there is no option 'concurency'; did you mean 'concurrency'?"),
        ("max-sockets = 5", "there is no option 'max-sockets'; did you mean 'max_sockets'?"),
        ("xyzzy = 5", "there is no option 'xyzzy'"),
        ('scenario = "other.toml"', "there is no option 'scenario'"),
        ("concurrency = ", "--scenario load.toml: Invalid value (at line 1, column 15)"),
        ("x = 1\nx = 2", "--scenario load.toml: Cannot overwrite a value (at line 2"),
        ("[load]\nconcurrency = 5", "there is no option 'load'"),
        ("[concurrency]\nx = 5", "concurrency: an option's value cannot be a table"),
        ('concurrency = "many"', "--concurrency"),
        ("concurrency = 0", "--concurrency"),
        ('rate = "fast"', "'fast' is no rate"),
        ('workers = "some"', "neither 'auto' nor a number"),
        ('duration = "soon"', "'soon' is no duration"),
        ("requests = 5\ntotal = 5", "--requests and --total: give only one"),
        ('agent = ["nothing"]', "there is no agent 'nothing'"),
        ('data_lines = "missing.txt"', "missing.txt: No such file"),
        ('url = "http://h/"\nurl_file = "x"', "give only one of them"),
    ],
)
def test_a_scenario_that_is_wrong_is_a_line_or_two_and_exit_2(refusal: Refusal, scenario: str, says: str) -> None:
    Path("load.toml").write_text(f"{scenario}\n")
    assert says in refusal("--scenario", "load.toml")


def test_a_scenario_that_is_not_there_or_no_text_is_exit_2(refusal: Refusal) -> None:
    assert "No such file" in refusal("-f", "missing.toml")
    Path("load.toml").write_bytes(b"\xff\xfe")
    assert refusal("-f", "load.toml").startswith("kabench: --scenario load.toml: ")


# -- what is not given


def test_a_url_alone_gets_a_careful_load(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text("http://127.0.0.1:1/a\nhttp://127.0.0.1:1/b\n")
    (tmp_path / "requests").write_text('{"url": "http://127.0.0.1:1/"}\n')
    for given in (
        LoadOptions(urls=["http://127.0.0.1:1/"]),
        LoadOptions(url_file=tmp_path / "urls"),
        LoadOptions(request_file=tmp_path / "requests"),
    ):
        plan = plan_of(given)
        assert (plan.concurrency, plan.requests, plan.duration_s, plan.method) == (10, None, 10.0, "GET")
        assert (plan.data, plan.headers, plan.agent_options.max_sockets) == (b"", (), None)


def test_no_url_is_the_published_benchmark() -> None:
    plan = plan_of(LoadOptions())
    assert (plan.concurrency, plan.requests, plan.duration_s, plan.agent_options.max_sockets) == (60, 1000, None, 50)
    assert (plan.method, plan.data, plan.headers) == (
        "POST",
        PUBLISHED_BODY,
        (("Content-Type", "application/json"),),
    )


def test_a_rate_has_no_limit_of_sockets_unless_one_is_given() -> None:
    assert plan_of(LoadOptions(rate=5.0)).agent_options.max_sockets is None
    options = dataclasses.replace(OF_A_LOAD, max_sockets=3)
    assert plan_of(LoadOptions(rate=5.0, agent_options=options)).agent_options.max_sockets == 3


def test_a_url_gets_the_keepalive_agent_alone(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    plan_with(tmp_path, f'url = "{echo_server.url}"\ntotal = 20')
    assert [run.agent for run in load_result(tmp_path / "r.json").runs] == ["keepalive"]
    plan_with(tmp_path, "total = 20")
    assert [run.agent for run in load_result(tmp_path / "r.json").runs] == ["keepalive", "plain"]


# -- options that do not fit, and those that do


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", "10/s", "--concurrency", "5"], "--rate and --concurrency: give only one"),
        (["--rate", "0"], "--rate: 0 is not a finite number above 0"),
        (["--rate", "10/s", "--requests", "5"], "--requests: are for each user"),
        (["--rate", "10/s", "--cookies"], "--rate and --cookies: give only one"),
        (["--rate", "10/s", "--arrivals", "sometimes"], "'sometimes' is neither constant nor poisson"),
        (["--arrivals", "poisson"], "--arrivals: only with a rate"),
        (["--max-in-flight", "5"], "--max-in-flight is for --rate"),
        (["--stage", "10s:5", "--duration", "5s"], "--duration and --stage: give only one"),
        (["--stage", "10s:0", "--rate", "0"], "all levels are 0"),
        (["--stage", "0s:5"], "its time of 0 s is not a finite time above 0"),
        (["--workers", "51"], "--workers: 51 of them cannot share 50 sockets"),
        (["--workers", "0"], "neither 'auto' nor a number of processes"),
        (["--data", "x", "--data-lines", "y"], "--data and --data-lines: give only one"),
        (["--user", "me"], "--user: there is no colon"),
        (["--user", "a:b", "--header", "authorization: c"], "give only one of them"),
        (["--order", "sorted", "http://h/a", "http://h/b"], "'sorted' is neither turn nor random"),
        (["--connect-to", "nowhere", "http://h/"], "--connect-to: 'nowhere' is no address"),
        (["--connect-to", "h:1", "--unix-socket", "x", "http://h/"], "--connect-to and --unix-socket: give only one"),
        (["--unix-socket", "x"], "are for a URL"),
        (["--unix-socket", "x", "--agent", "urllib3", "http://h/"], "urllib3 does not support Unix sockets"),
        (["--expect-status", "99"], "99 is no status code"),
        (["--templates", "--data", "{{counting}}"], "{{counting}} is no placeholder"),
        (["--progress", "loud"], "--progress loud: there are auto, live, plain and none"),
        (["--csv", "/nowhere/at/all.csv"], "there is no folder /nowhere/at"),
        (["--hgrm", "/"], "this is a folder"),
        (["--agent", "no_such_module:Client"], "no_such_module cannot be imported"),
    ],
)
def test_options_that_do_not_fit_are_exit_2(refusal: Refusal, arguments: list[str], says: str) -> None:
    assert says in refusal(*arguments)


def test_basic_authentication_and_bodies_that_are_checked(echo_server: EmbeddedServer, tmp_path: Path) -> None:
    few = ("--agent", "keepalive", "--total", "5", "--concurrency", "1", "--no-save", "--quiet", "--json", "r.json")
    expected = json.dumps("Basic bWU6c2U6Y3JldA==")
    good = kabench("run", echo_server.url, "--user", "me:se:cret", "--expect-body", expected, *few, cwd=tmp_path)
    assert (good.returncode, good.stderr) == (0, "")
    assert load_result(tmp_path / "r.json").plan["headers"] == [["Authorization", "[redacted]"]]
    bad = kabench("run", echo_server.url, "--expect-body", expected, *few, cwd=tmp_path)
    assert bad.returncode == 3
    assert load_result(tmp_path / "r.json").runs[0].errors == {"unexpected_body": 5}


def test_an_insecure_run_through_a_peer_does_not_fill_the_terminal(tmp_path: Path) -> None:
    with EmbeddedServer(ServerOptions(delay_s=0, tls=True)) as server:
        options = ("--insecure", "--total", "30", "--no-save", "--quiet", "--max-sockets", "3")
        done = kabench("run", server.url, "--agent", "urllib3", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("scenario", "arguments", "expected"),
    [
        ("requests = 5", ["-d", "200ms"], {"requests": None, "duration_s": 0.2}),
        ("requests = 5\nconcurrency = 3", ["--rate", "50", "-d", "200ms"], {"concurrency": None, "rate": 50.0}),
        ("rate = 50\nduration = '9s'", ["-c", "2", "-n", "4"], {"rate": None, "concurrency": 2, "total": 4}),
        ("delay = '1ms'\ntotal = 4", ["{url}"], {"total": 4}),
        ("data = 'a'\ntotal = 4", ["--data", "b"], {"data": "b"}),
    ],
)
def test_what_the_command_line_says_comes_before_its_alternatives_in_the_scenario(
    echo_server: EmbeddedServer, tmp_path: Path, scenario: str, arguments: list[str], expected: dict[str, Any]
) -> None:
    words = [word.format(url=echo_server.url) for word in arguments]
    plan = plan_with(tmp_path, f"agent = ['keepalive']\n{scenario}\n", *words)
    assert {name: plan[name] for name in expected} == expected
