"""What a plain installation does not have."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from kabench.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable


def needs_extra(what: str, extra: str, packages: Iterable[str]) -> None:
    """See that an extra is installed. Raises `CommandError` if not, and says how to."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise CommandError(f"{what} needs {' and '.join(missing)}: pip install 'kabench[{extra}]'")


def needs_locust(what: str) -> None:
    """See that locust is installed, and not too old. Raises `CommandError` if not."""
    from kabench.distributed.requirement import LocustError, check_locust

    try:
        check_locust()
    except LocustError as error:
        raise CommandError(f"for {what}, {error}") from None
