"""kabench: a keep-alive agent library, and a load-testing toolkit that measures what keep-alive is worth.

`kabench.agent` is the library. `run`, `compare`, `diff`, `LoadPlan`, `load_result` and `load_comparison` are the
toolkit. They are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kabench.version import __version__

if TYPE_CHECKING:
    from kabench.comparison.record import load_comparison
    from kabench.comparison.saved import diff
    from kabench.comparison.trials import compare
    from kabench.load import LoadPlan, run
    from kabench.result import load_result

__all__ = ["LoadPlan", "__version__", "compare", "diff", "load_comparison", "load_result", "run"]

_HOMES = {
    "LoadPlan": "kabench.load",
    "compare": "kabench.comparison.trials",
    "diff": "kabench.comparison.saved",
    "load_comparison": "kabench.comparison.record",
    "load_result": "kabench.result",
    "run": "kabench.load",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
