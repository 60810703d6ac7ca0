"""The suite on every supported Python, each in a fresh environment: `nox`. See CONTRIBUTING.md."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.options.reuse_existing_virtualenvs = True


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Install the package with its test extra and run the suite."""
    session.install(".[test]", "-c", "constraints.txt")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(default=False)
def mutation(session: nox.Session) -> None:
    """Plant faults where figures and decisions are made, and list those that no test notices."""
    config = nox.project.load_toml("pyproject.toml")["tool"]["mutmut"]
    named = [*config["only_mutate"], *config["pytest_add_cli_args_test_selection"]]
    if missing := [path for path in named if not Path(path).exists()]:
        session.error(f"pyproject.toml names what is not there: {', '.join(missing)}")
    session.install(".[test]", "-c", "constraints.txt")
    session.install("mutmut>=3.8,<4")
    mutants = Path("mutants")
    shutil.rmtree(mutants, ignore_errors=True)  # what is left of an earlier run can hide that a fault survives now
    mutants.mkdir()
    (mutants / ".gitignore").write_text("*\n")
    session.run("mutmut", "run", *session.posargs)
    if not session.posargs:  # a run of some names lists them itself
        session.run("mutmut", "results")
