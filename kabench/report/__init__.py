"""Reports: pure functions of a record. Nothing here measures."""

from kabench.report.terminal import render_agent_run, render_result

__all__ = ["render_agent_run", "render_result"]
