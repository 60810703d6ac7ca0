"""Agents, or versions of one, held against each other: trials, what they show, and what they break.

`trials` runs them, `saved` takes records that are there already; `statistics` and `looks` are the arithmetic,
`verdicts` puts it into words, `record` is the file format, `thresholds` are limits of the user's own.
"""
