"""Exit codes of processes that locust runs in; they are those of the command line."""

CANNOT_START = 2
COULD_NOT_MEASURE = 3
INTERRUPTED = 130
