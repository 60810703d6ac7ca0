"""What a worker drives: users of the closed model or arrivals of the open one, through agents or clients.

What is counted stands in `figures`, and when requests are due, as arithmetic, in `plan.pacing`.
"""
