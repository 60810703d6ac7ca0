"""What kabench's processes share: alarms, open-file limits, event loops, listening, signals, child processes."""
