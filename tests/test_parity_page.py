"""`docs/parity.md` says which test holds which row. This keeps it true."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections import defaultdict
from pathlib import Path

from kabench.agent import AgentOptions

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "parity.md").read_text()
NUMBERS = [*range(1, 36), *range(40, 46), *range(50, 63)]
ONLY_IN_THREADS = {"AK-59", "AK-60"}
"""Rows about urllib3's responses and pools, which the asyncio agents have none of."""

DRIVERS = {"test_aio": {"asyncio"}, "test_sync": {"threads"}, "test_book": set[str]()}
"""What a test file's name says about the agents its tests are for; all others are for both."""


def rows() -> dict[str, list[str]]:
    """The tests that each row names."""
    found = {}
    for line in PAGE.splitlines():
        match = re.match(r"\| (AK-\d\d)", line)
        if match:
            found[match[1]] = re.findall(r"`(test_\w+::test_\w+)`", line)
    return found


def carried() -> dict[str, list[str]]:
    """The tests that carry each row's number."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests" / "agent").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in re.findall(r"ak_(\d\d)", node.name):
                    found[f"AK-{number}"].append(f"{path.stem}::{node.name}")
    return found


def test_the_page_has_every_row_once_and_in_order() -> None:
    assert list(rows()) == [f"AK-{number:02}" for number in NUMBERS]


def test_every_row_names_the_tests_that_carry_its_number() -> None:
    found = carried()
    assert {row: sorted(named) for row, named in rows().items()} == {row: sorted(found[row]) for row in rows()}


def test_every_row_is_tested_for_both_kinds_of_agent() -> None:
    for row, named in rows().items():
        held: set[str] = set()
        for test in named:
            held |= next((kinds for start, kinds in DRIVERS.items() if test.startswith(start)), {"asyncio", "threads"})
        assert held >= ({"threads"} if row in ONLY_IN_THREADS else {"asyncio", "threads"}), row


def test_the_page_has_every_option_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", PAGE, re.MULTILINE))
    defaults = {option.name: getattr(AgentOptions(), option.name) for option in dataclasses.fields(AgentOptions)}
    assert list(listed) == list(defaults)
    for name, text in listed.items():
        stated = text.strip(" `").replace("unlimited", "None").replace("none", "None").removesuffix(" s")
        shown = defaults[name] if not isinstance(defaults[name], float) else f"{defaults[name]:g}"
        assert stated.strip("\"'") == str(shown), name
