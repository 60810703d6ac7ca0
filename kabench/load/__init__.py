"""The load engine: a `LoadPlan` goes in, a `RunResult` comes out. Nothing here prints."""

from kabench.load.agents import AGENT_SPECS, AgentSpecError
from kabench.load.engine import AgentProgress, MeasurementError, RunControl, TargetUnreachableError, run
from kabench.load.plan import LoadPlan, PlanError

__all__ = [
    "AGENT_SPECS",
    "AgentProgress",
    "AgentSpecError",
    "LoadPlan",
    "MeasurementError",
    "PlanError",
    "RunControl",
    "TargetUnreachableError",
    "run",
]
