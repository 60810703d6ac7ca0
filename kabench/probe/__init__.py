"""What a server does to idle sockets, and the agent's settings that fit it."""

from kabench.probe.findings import Advice, Findings, advice_for
from kabench.probe.options import ProbeOptions
from kabench.probe.probe import ProbeControl, ProbeProgress, UnreachableError, probe

__all__ = [
    "Advice",
    "Findings",
    "ProbeControl",
    "ProbeOptions",
    "ProbeProgress",
    "UnreachableError",
    "advice_for",
    "probe",
]
