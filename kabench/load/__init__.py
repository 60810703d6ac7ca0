"""The load engine: a `LoadPlan` goes in, a `RunResult` comes out. Nothing here prints."""

from kabench.load.clients.specs import AGENT_SPECS, AgentSpecError
from kabench.load.plan.pacing import Stage
from kabench.load.plan.plan import LoadPlan, PlanError
from kabench.load.plan.targets import LoadTarget
from kabench.load.runner import (
    AgentProgress,
    MeasurementError,
    RunControl,
    TargetUnreachableError,
    check_agents,
    default_agents,
    run,
)

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
    "default_agents",
    "run",
]
