"""What is said where locust is not there, or too old."""

from __future__ import annotations

import importlib.metadata

import pytest

import kabench.distributed
from kabench.cli.errors import CommandError
from kabench.cli.extras import needs_locust
from kabench.distributed.requirement import LocustError, check_locust


def locust_is(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def found(package: str) -> str:
        assert package == "locust"
        if version is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)


@pytest.mark.parametrize("version", ["2.32.0", "2.47.1", "3.0", "10.1.dev3"])
def test_a_locust_that_is_new_enough_will_do(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    locust_is(monkeypatch, version)
    check_locust()


@pytest.mark.parametrize("version", ["2.31.8", "1.6.0", "0.14", "unknown"])
def test_an_old_one_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    locust_is(monkeypatch, version)
    with pytest.raises(LocustError, match=f"locust {version} is too old; 2.32 is needed: pip install"):
        check_locust()


def test_where_there_is_none_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    locust_is(monkeypatch, None)
    with pytest.raises(CommandError, match=r"for --distributed, locust is needed: pip install 'locust>=") as caught:
        needs_locust("--distributed")
    assert caught.value.exit_code == 2
    with pytest.raises(LocustError):
        kabench.distributed.install  # noqa: B018  # it is loaded when it is asked for


def test_there_is_nothing_else_in_it() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kabench.distributed.nonsense  # noqa: B018
