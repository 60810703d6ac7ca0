"""How to install what an extra asks for, wherever kabench itself was installed from.

`pip install 'kabench[compare]'` works only for a kabench from a package index. One from a checkout, an archive or a
repository is not there, or the name belongs to somebody else. So advice names the packages themselves, which the
metadata of the installed kabench lists.
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex

_OF_AN_EXTRA = re.compile(r"""(?P<package>[^;]+?)\s*;.*\bextra\s*==\s*["'](?P<extra>[^"']+)["']""")


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra."""
    packages = packages_of(extra)
    if not packages:  # run from a checkout without being installed
        return f"pip install '.[{extra}]', in the checkout of kabench"
    return f"pip install {shlex.join(packages)}"


def packages_of(extra: str) -> list[str]:
    """Return the packages of an extra with their versions, as pip takes them; none if kabench is not installed."""
    try:
        required = importlib.metadata.requires("kabench") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    matches = [_OF_AN_EXTRA.fullmatch(text) for text in required]
    return [match["package"] for match in matches if match is not None and match["extra"] == extra]
