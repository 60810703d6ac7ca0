"""The exit codes of processes in which locust runs. They are the same as those of the command line."""

CANNOT_START = 2
COULD_NOT_MEASURE = 3
INTERRUPTED = 130
