"""Comparisons of agents, or of versions of one: trials, statistics, verdicts and thresholds.

`trials` runs trials, `saved` takes saved records instead; `statistics` and `looks` are the arithmetic, `verdicts` makes
verdicts of it, `record` is the file format, and `thresholds` are the user's own limits.
"""
