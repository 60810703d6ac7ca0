"""Advice on extras names packages, which can be installed wherever kabench came from."""

from __future__ import annotations

import importlib.metadata
import shlex
import tomllib
from pathlib import Path

import pytest

from kabench.extras import install_command, packages_of

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", ["compare", "html", "locust"])
def test_the_command_installs_what_the_extra_asks_for(extra: str) -> None:
    assert sorted(packages_of(extra)) == sorted(EXTRAS[extra])
    assert sorted(shlex.split(install_command(extra))) == sorted(["pip", "install", *EXTRAS[extra]])


def test_conditions_besides_the_extra_are_no_part_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["a>=1", 'b[x]>=2,<3; extra == "one"', "c ; python_version < '4' and extra == 'one'", "d; extra=='two'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: required)
    assert packages_of("one") == ["b[x]>=2,<3", "c"]
    assert packages_of("none") == []


def test_without_an_installation_the_checkout_is_what_can_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert install_command("compare") == "pip install '.[compare]', in the checkout of kabench"
