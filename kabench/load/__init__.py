"""The load engine: a `LoadPlan` goes in, a `RunResult` comes out. Nothing here prints."""

from kabench.load.agents import AGENT_SPECS, AgentSpecError
from kabench.load.engine import AgentProgress, MeasurementError, RunControl, TargetUnreachableError, check_agents, run
from kabench.load.pacing import Stage
from kabench.load.plan import LoadPlan, PlanError
from kabench.load.targets import LoadTarget

__all__ = [
    "AGENT_SPECS",
    "AgentProgress",
    "AgentSpecError",
    "LoadPlan",
    "LoadTarget",
    "MeasurementError",
    "PlanError",
    "RunControl",
    "Stage",
    "TargetUnreachableError",
    "check_agents",
    "run",
]
