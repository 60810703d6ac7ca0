"""Imports point downward only, and importing the library stays light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import kabench

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PACKAGE = Path(kabench.__file__).parent

ORDER = (
    ("version", "published", "text_files", "extras", "summary"),
    ("histogram",),
    ("agent",),
    ("redaction",),
    ("system",),
    ("http1",),
    ("server",),
    ("faults",),
    ("result",),
    ("metrics", "measured"),
    ("load",),
    ("proxy", "probe", "comparison"),
    ("report",),
    ("distributed",),
    ("cli", "pytest_plugin"),
)
"""The parts of kabench from the lowest up. Each may import those before it, and none beside or above it."""

STANDS_ALONE = {
    "agent": {"version"},
    "system": set[str](),
    "http1": {"system"},
    "server": {"version", "published", "system", "http1"},
}
"""These know nothing else of what stands before them."""

WINGS = ("plan", "figures", "clients", "schedules", "workers", "runner")
"""The wings of `kabench/load`, each of which imports only those before it."""


def part_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("kabench.") else ""


@functools.cache
def modules() -> dict[str, Path]:
    """All modules of kabench by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


def imports_of(path: Path) -> set[str]:
    """What a file imports, for a type checker only too.

    `from kabench.x import y` is an import of kabench.x.y where that is a module, else of kabench.x.
    """
    known = modules()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in known or node.module == "kabench" else node.module)
    return found


def test_imports_point_downward() -> None:
    parts = [part for step in ORDER for part in step]
    below = {
        part: {lower for step in ORDER[:index] for lower in step} for index, step in enumerate(ORDER) for part in step
    }
    wrong = []
    for name, path in modules().items():
        part = part_of(name)
        if part.startswith("_") or not part:
            continue
        reached = {part_of(imported) for imported in imports_of(path)} - {"", part}
        allowed = STANDS_ALONE.get(part, below[part])
        wrong += [f"{name} imports kabench.{other}" for other in sorted(reached - allowed)]
    assert not wrong
    assert set(parts) == {part_of(name) for name in modules()} - {"", "__main__"}


def test_the_wings_of_the_load_import_only_those_before_them() -> None:
    wrong = []
    for name, path in modules().items():
        _, part, *rest = name.split(".") if "." in name else ("", "", "")
        if part != "load" or not rest:
            continue
        before = WINGS[: WINGS.index(rest[0]) + 1]
        reached = {imported.split(".")[2] for imported in imports_of(path) if imported.startswith("kabench.load.")}
        wrong += [f"{name} imports kabench.load.{wing}" for wing in sorted(reached - set(before))]
        wrong += [f"{name} imports kabench.load" for imported in imports_of(path) if imported == "kabench.load"]
    assert not wrong


def circles(imports: Mapping[str, Collection[str]]) -> list[str]:
    """The modules that lead back to themselves, each with the shortest way there."""
    found = []
    for start in sorted(imports):
        ways: deque[tuple[str, ...]] = deque((start, imported) for imported in sorted(imports[start]))
        seen = set()
        while ways:
            way = ways.popleft()
            if way[-1] == start:
                found.append(" -> ".join(way))
                break
            if way[-1] not in seen:
                seen.add(way[-1])
                ways += [(*way, imported) for imported in sorted(imports[way[-1]])]
    return found


def test_no_module_leads_back_to_itself() -> None:
    known = modules()
    imports = {name: (imports_of(path) & set(known)) - {name} for name, path in known.items()}
    assert not circles(imports)


def test_a_circle_is_seen_whoever_is_in_it() -> None:
    assert circles({"a": ["b"], "b": ["c", "d"], "c": ["b"], "d": []}) == ["b -> c -> b", "c -> b -> c"]


def test_what_only_a_type_checker_imports_counts_and_a_submodule_is_not_its_package(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("if TYPE_CHECKING:\n    from kabench.agent import Agent, book\nfrom kabench.http1 import reset")
    assert imports_of(file) == {"kabench.agent", "kabench.agent.book", "kabench.http1.reset"}


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
