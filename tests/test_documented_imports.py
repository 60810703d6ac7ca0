"""Whatever the documents import from kabench can be imported, so a file that moves breaks nothing users have copied."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCENARIOS = sorted((ROOT / "scenarios").glob("*.py"))

_IMPORT = re.compile(r"from kabench[\w.]* import (?:\([^)]*\)|[\w, ]+)")
_DOTTED = re.compile(r"(?<![\w./])kabench(?:\.[A-Za-z_]\w*)+")

NEEDS_A_PROCESS = "kabench.distributed"
"""Importing locust changes Python's blocking calls in the whole process, so it does not happen in that of the tests."""


def documented() -> list[str]:
    """All names of kabench that the documents import or mention, with their modules."""
    names = set()
    for page in [*PAGES, *SCENARIOS]:
        text = page.read_text()
        names |= set(_DOTTED.findall(text))
        for statement in _IMPORT.findall(text):
            (node,) = ast.parse(statement).body
            assert isinstance(node, ast.ImportFrom)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return sorted(names)


def resolve(name: str) -> None:
    """Import what a dotted name stands for. Raises `ImportError`."""
    module, *names = name.split(".")
    found: object = importlib.import_module(module)
    for each in names:
        module += f".{each}"
        found = getattr(found, each) if hasattr(found, each) else importlib.import_module(module)


@pytest.mark.parametrize("name", [name for name in documented() if not name.startswith(NEEDS_A_PROCESS)])
def test_a_documented_name_can_be_imported(name: str) -> None:
    try:
        resolve(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "kabench":
            raise
        pytest.skip(f"{error.name} is not installed")


def test_documented_names_that_need_locust_can_be_imported() -> None:
    if importlib.util.find_spec("locust") is None:
        pytest.skip("locust is not installed")
    names = [name for name in documented() if name.startswith(NEEDS_A_PROCESS)]
    code = "import sys\nfrom tests.test_documented_imports import resolve\nfor name in sys.argv[1:]: resolve(name)"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_documents_are_read() -> None:
    assert {"kabench.agent.KeepAliveAgent", "kabench.load.clients.ClientSettings", "kabench.run"} <= set(documented())
    assert "kabench.distributed.KabenchUser" in documented()
