"""Checks for packages that a plain installation does not have."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from kabench.cli.errors import CommandError
from kabench.extras import install_command

if TYPE_CHECKING:
    from collections.abc import Iterable


def needs_extra(what: str, extra: str, packages: Iterable[str]) -> None:
    """Raise `CommandError`, which says how to install them, if packages of an extra are missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise CommandError(f"{what} needs {' and '.join(missing)}: {install_command(extra)}")


def needs_locust(what: str) -> None:
    """Raise `CommandError` if locust is not installed, or too old."""
    from kabench.distributed.requirement import LocustError, check_locust

    try:
        check_locust()
    except LocustError as error:
        raise CommandError(f"for {what}, {error}") from None
