"""The suite on every supported Python, each in a fresh environment: `nox`. See CONTRIBUTING.md."""

from __future__ import annotations

import nox

nox.options.reuse_existing_virtualenvs = True


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Install the package with its test extra and run the suite."""
    session.install(".[test]", "-c", "constraints.txt")
    session.run("python", "-m", "pytest", *session.posargs)
