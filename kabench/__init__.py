"""kabench: a keep-alive agent library, and the load-testing toolkit that proves what keep-alive is worth.

`kabench.agent` is the library. `run`, `LoadPlan` and `load_result` are the toolkit, loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kabench.load import LoadPlan, run
    from kabench.result import load_result

__version__ = "0.1.0"

__all__ = ["LoadPlan", "__version__", "load_result", "run"]

_HOMES = {"LoadPlan": "kabench.load", "load_result": "kabench.result", "run": "kabench.load"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
