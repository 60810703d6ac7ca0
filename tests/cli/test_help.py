"""Help fits a terminal of 80 columns, in groups; options that were renamed work under their old names, too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from kabench.cli import app
from kabench.cli.command import Command
from kabench.cli.old_names import _OLD_NAMES, new_key, with_new_names
from kabench.cli.panels import Panel
from kabench.result import load_result
from kabench.server import EmbeddedServer, ServerOptions
from tests.cli.test_command_line import QUICK, kabench
from tests.cli.test_input_files import with_input

if TYPE_CHECKING:
    from pathlib import Path

GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands


def help_of(command: str) -> list[str]:
    done = kabench(command, "--help", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_breaks_no_word(command: str) -> None:
    lines = help_of(command)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if re.search(r"\w-$", line)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_in_a_group(command: str) -> None:
    assert isinstance(COMMANDS[command], Command)
    loose = [each.name for each in COMMANDS[command].params if each.rich_help_panel not in set(Panel)]
    assert loose == []
    headings = [line.removesuffix(":") for line in help_of(command) if re.fullmatch(r"\S.*:", line)]
    assert headings == [panel for panel in Panel if panel in headings]
    assert headings[-1] == Panel.REST  # it has --help alone


def test_a_help_names_options_arguments_and_defaults_as_a_user_writes_them() -> None:
    text = "\n".join(help_of("run"))
    assert text.partition("\n")[0].endswith("kabench run [OPTIONS] [URL...]")
    assert re.search(r"^  URL\.\.\. +Send to this URL", text, re.MULTILINE)
    assert re.search(r"^  -a, --agent AGENT +Send", text, re.MULTILINE)
    assert re.search(r"^  --free-socket-timeout TIME +Close .*\n.*\(30s\)\.$", text, re.MULTILINE)
    assert "[default" not in text
    assert "--processes" not in text
    assert help_of("diff")[0].endswith("kabench diff [OPTIONS] OLD NEW")


# -- old names


@pytest.mark.parametrize("command", _OLD_NAMES)
def test_old_names_stand_for_options_that_exist_and_are_hidden(command: str) -> None:
    flags = {flag for parameter in COMMANDS[command].params for flag in parameter.opts}
    assert {new for new in _OLD_NAMES[command].values() if new} <= flags
    assert not set(_OLD_NAMES[command]) & flags


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        ("probe", ["--budget", "5s", "URL"], ["--max-time", "5s", "URL"]),
        ("probe", ["--budget=5s"], ["--max-time", "5s"]),
        ("probe", ["-b", "5s", "-b5s"], ["--max-time", "5s", "--max-time", "5s"]),
        ("proxy", ["--target", "URL", "-p", "0"], ["URL", "-p", "0"]),
        ("proxy", ["--target=URL", "-tURL", "-t", "URL"], ["URL", "URL", "URL"]),
        ("run", ["--processes", "2", "--", "--processes"], ["--workers", "2", "--", "--processes"]),
        ("compare", ["--processes", "2"], ["--processes", "2"]),
        (None, ["-", "", "x"], ["-", "", "x"]),
    ],
)
def test_old_names_become_new_ones(command: str | None, given: list[str], meant: list[str]) -> None:
    assert with_new_names(command, given) == meant


def test_keys_of_a_scenario_are_renamed_too() -> None:
    assert new_key("run", "processes") == "workers"
    assert new_key("run", "max_sockets") == "max_sockets"
    assert new_key("run", "max-sockets") == "max-sockets"  # which is no key, and named as it was written
    assert new_key("proxy", "target") == "target"


def test_a_command_with_an_old_name_does_what_it_did(tmp_path: Path) -> None:
    done = with_input(b"processes = 2", "run", "-f", "-", *QUICK, "--no-save", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 0
    assert load_result(tmp_path / "r.json").plan["workers"] == 2
    with EmbeddedServer(ServerOptions(delay_s=0)) as server:
        done_probing = kabench("probe", server.url, "--budget", "1s", "--max-requests", "10", cwd=tmp_path)
        assert done_probing.returncode == 0
