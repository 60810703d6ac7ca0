"""The groups of options in a command's help, in the order in which they stand there."""

from __future__ import annotations

from enum import StrEnum


class Panel(StrEnum):
    """A group of options. Its text is its heading."""

    WHAT = "What is sent"
    RECORDS = "What is read"
    HOW_MUCH = "How much"
    HOW_LONG = "How long"
    TRIALS = "Trials"
    AGENT = "The agent"
    SERVER = "How the server is reached"
    OWN_SERVER = "kabench's own server"
    LISTENING = "Where it listens"
    ANSWERS = "What it answers"
    FAULTS = "What it does wrong on purpose"
    LIMITS = "What it takes from clients"
    FAILURES = "What fails"
    WORKERS = "Worker processes"
    OUTPUT = "Output"
    REST = "Other"
