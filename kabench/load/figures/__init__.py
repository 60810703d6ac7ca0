"""What a load counts, from the recorder in a worker, by messages, to the tally that makes an `AgentRun` of it.

What a figure means stands in `kabench.metrics`; when requests are sent, in `kabench.load.schedules`.
"""
