"""The load that is wanted: the plan, its targets, the requests they become, when they are due, and each worker's share.

Nothing here sends, waits or counts.
"""

from kabench.load.plan.pacing import Stage
from kabench.load.plan.plan import LoadPlan, PlanError
from kabench.load.plan.targets import LoadTarget

__all__ = ["LoadPlan", "LoadTarget", "PlanError", "Stage"]
