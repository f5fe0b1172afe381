"""How much memory was resident in this process at most, for scripts and tests; for Linux, elsewhere as far as known."""

import re
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def forget_peak() -> bool:
    """Let the peak begin anew with what is resident now. False where that cannot be done."""
    if sys.platform != "linux":
        return False
    Path("/proc/self/clear_refs").write_text("5")
    return True


def peak_bytes() -> int:
    """The most so far, or since `forget_peak`.

    What getrusage tells begins, on Linux, with the peak of the process that started this one, and so with whatever else
    was done there; it is asked only where there is no other way.
    """
    if _STATUS.exists():
        return int(re.findall(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
