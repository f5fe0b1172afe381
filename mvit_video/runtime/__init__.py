"""What everything stands on: files, logs, processes, signals, and the lock, journal and record of a run directory."""
