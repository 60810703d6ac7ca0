"""Imports point downward only, and importing the library stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import kabench

PACKAGE = Path(kabench.__file__).parent

LAYERS = {
    "agent": set[str](),
    "server": set[str](),
    "histogram": set[str](),
    "faults": {"agent", "server"},
    "redaction": {"agent"},
    "result": {"agent", "server", "histogram"},
    "metrics": {"agent", "server", "histogram", "result"},
    "load": {"agent", "server", "histogram", "redaction", "result"},
    "comparison": {"agent", "server", "histogram", "result", "metrics", "load"},
    "report": {"proxy", "probe", "agent", "server", "histogram", "result", "metrics", "comparison"},
    "distributed": {"agent", "server", "histogram", "redaction", "result", "load", "report"},
    "proxy": {"agent", "server", "histogram", "load"},
    "probe": {"agent", "redaction"},
    "cli": {
        "probe",
        "proxy",
        "agent",
        "server",
        "faults",
        "histogram",
        "redaction",
        "result",
        "metrics",
        "load",
        "comparison",
        "report",
        "distributed",
    },
    "pytest_plugin": {"server", "result", "load", "comparison"},
}
"""What each part may import besides itself and the package's version."""


def part_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("kabench.") else ""


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names if node.module == "kabench"}
    return found


def test_imports_point_downward() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in LAYERS:
            continue
        reached = {part_of(name) for name in imports_of(path)} - {"", "__version__", part}
        wrong += [f"{path.relative_to(PACKAGE)} imports kabench.{name}" for name in sorted(reached - LAYERS[part])]
    assert not wrong


def test_every_part_is_in_the_picture() -> None:
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {part for part in parts if not part.startswith("_")} - {"py.typed"} == set(LAYERS)


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_agent_is_light() -> None:
    heavy = {"typer", "rich", "locust", "gevent", "plotly", "matplotlib", "hdrh", "msgspec", "requests", "urllib3"}
    assert not modules_after("import kabench.agent") & heavy


def test_importing_kabench_loads_nothing_else() -> None:
    assert not modules_after("import kabench") & {"typer", "rich", "asyncio", "httptools", "hdrh", "msgspec"}
    assert "hdrh" in modules_after("from kabench import run, LoadPlan, load_result")


def test_the_command_line_loads_only_what_it_prints_with() -> None:
    assert not modules_after("import kabench.cli") & {"asyncio", "httptools", "hdrh", "msgspec", "locust", "urllib3"}
