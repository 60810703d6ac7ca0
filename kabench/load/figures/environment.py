"""The environment of a run: the machine, the Python, and the packages that matter."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kabench.result import Environment

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEASURED_WITH = ("httptools", "uvloop", "hdrhistogram", "urllib3")


def environment_of(event_loop: str, peers: Mapping[str, str]) -> Environment:
    """Describe this machine, with the versions of `peers` and of what kabench measures with."""
    measured_with = {package: version for package in _MEASURED_WITH if (version := installed_version(package))}
    return Environment(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        event_loop=event_loop,
        platform=platform.platform(),
        cpu_model=_cpu_model(),
        cpu_count=os.cpu_count() or 1,
        versions=dict(peers) | measured_with,
    )


def installed_version(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    import importlib.metadata  # takes a while, and most workers do without

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def max_rss_mb() -> float:
    """Return the most memory that this process has had, in MB of 2^20 bytes.

    On Linux it is read from /proc: getrusage(2) gives the peak of the process that started this one, if that is higher.
    """
    try:
        peak = re.search(rb"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_bytes(), re.MULTILINE)
    except OSError:
        peak = None
    if peak is not None:
        return int(peak[1]) / 2**10
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
