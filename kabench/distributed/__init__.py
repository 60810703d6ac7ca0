"""Load from several machines: locust connects the workers, and kabench sends the requests.

`install` makes a locust file print and save kabench's report. `KabenchUser` is a locust user that sends at kabench's
speed. Both need locust (the extra `locust`), which replaces Python's blocking calls in the whole process, so they are
loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kabench.distributed.reporter import install
    from kabench.distributed.user import KabenchUser

__all__ = ["KabenchUser", "install"]

_HOMES = {"KabenchUser": "kabench.distributed.user", "install": "kabench.distributed.reporter"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from kabench.distributed.requirement import check_locust

        check_locust()
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
