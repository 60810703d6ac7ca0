"""The check that a locust is installed that is new enough."""

from __future__ import annotations

import importlib.metadata
import re

from kabench.extras import install_command

OLDEST_LOCUST = (2, 32)


class LocustError(ImportError):
    """locust is not installed, or too old."""


def check_locust() -> None:
    """Raise `LocustError` if locust cannot be used. It is not imported, since that changes the whole process."""
    try:
        version = importlib.metadata.version("locust")
    except importlib.metadata.PackageNotFoundError:
        raise LocustError(f"locust is needed: {install_command('locust')}") from None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_LOCUST:
        oldest = ".".join(map(str, OLDEST_LOCUST))
        raise LocustError(f"locust {version} is too old; {oldest} is needed: {install_command('locust')}")
