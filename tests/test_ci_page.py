"""docs/ci.md and action.yml do what they say: what they tell a shell to do is done here, but installing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from kabench.result import load_result

yaml = pytest.importorskip("yaml")
pytest.importorskip("scipy")
pytest.importorskip("plotly")

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "ci.md").read_text()


def workflow_of_the_page() -> dict[str, Any]:
    (text,) = re.findall(r"<!-- workflow -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    workflow: dict[str, Any] = yaml.safe_load(text)
    return workflow


def in_bash(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PATH": path} | environment,
    )


def quicker(script: str) -> str:
    """The same with trials of a fraction of a second."""
    return script.replace("--trials 12", "--trials 8 --requests 20 --warmup 0")


def test_the_workflow_is_the_one_that_runs_here() -> None:
    assert yaml.safe_load((ROOT / ".github" / "workflows" / "compare.yml").read_text()) == workflow_of_the_page()


def test_the_workflow_s_comparison_runs_and_writes_what_is_uploaded(tmp_path: Path) -> None:
    steps = {step.get("name"): step for step in workflow_of_the_page()["jobs"]["compare"]["steps"]}
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    done = in_bash(quicker(steps["Compare"]["run"]), tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stderr
    for name in steps["Keep the reports"]["with"]["path"].split():
        assert (tmp_path / name).stat().st_size > 0
    assert summary.read_text().startswith("before\n### compare: POST")
    assert "| req\\_per\\_socket |" in summary.read_text()
    assert ET.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"


def test_the_action_splits_its_arguments_as_a_shell_would_and_carries_nothing_of_them_out(tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = [step for step in action["runs"]["steps"] if step.get("name") == "Run kabench"]
    assert step["shell"] == "bash"
    given = dict(step["env"].items())
    assert given == {"KABENCH_ARGUMENTS": "${{ inputs.arguments }}", "KABENCH_FOLDER": "${{ inputs.folder }}"}
    scripts = tmp_path / "runner" / "kabench" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "kabench").symlink_to(Path(sys.executable).parent / "kabench")
    arguments = "run --agent keepalive --total 60 --no-save --name 'two $(words)' --fail-if 'req_per_socket > 1000'"
    done = in_bash(
        step["run"],
        tmp_path,
        RUNNER_TEMP=str(tmp_path / "runner"),
        KABENCH_ARGUMENTS=arguments,
        KABENCH_FOLDER=action["inputs"]["folder"]["default"],
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / action["inputs"]["folder"]["default"]
    assert sorted(path.name for path in folder.iterdir()) == ["junit.xml", "record.json", "report.html", "report.md"]
    assert load_result(folder / "record.json").name == "two $(words)"


def test_the_action_installs_what_its_default_needs() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = [step for step in action["runs"]["steps"] if step.get("name") == "Install kabench"]
    assert "$KABENCH_SOURCE[compare,html]" in step["run"]
    assert action["inputs"]["arguments"]["default"].startswith("compare --agent")


def test_the_page_names_the_figures_that_there_are() -> None:
    from kabench.metrics import ALIASES, METRICS

    named = set(
        re.findall(r"`([a-z_0-9]+)`", PAGE.partition("Figures are those of the record")[2].partition("\n\n")[0])
    )
    assert named <= set(METRICS) | set(ALIASES) | {"run", "answered_"}
    named |= {f"answered_{name}" for name in named if f"answered_{name}" in METRICS}
    assert set(METRICS) - named <= {
        "p75",
        "p90",
        "p95",
        "p99",
        "p99_9",
        "service_p50",
        "service_p90",
        "transactions",
        "successful_transactions",
    }


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(import pytest\n.*?)```", PAGE, re.DOTALL)
    (tmp_path / "test_mine.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--strict-markers"]
    done = subprocess.run([*command, "test_mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    left_out = subprocess.run(
        [*command, "-m", "not kabench", "test_mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "2 deselected" in left_out.stdout
