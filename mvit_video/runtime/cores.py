"""How many cores there are to work with."""

import os


def usable_cores() -> int:
    """Cores this process may use: in a job of a cluster, or in a container, often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
