"""What kabench's processes share: alarms, limits of open files, event loops, child processes. Imports nothing else."""
