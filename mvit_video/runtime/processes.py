"""Which process this is, and whether another one on this machine still exists."""

import os
from pathlib import Path


def machine_identity() -> tuple[str, str]:
    """(host name and process namespace, boot): process ids mean the same only where the first is equal.

    Containers on one host often share its name and have process ids of their own. The boot is empty where the system
    does not tell it.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{os.uname().nodename} {namespace}".strip(), boot


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's own unit; None if there is none, or a dead one.

    Two processes that had the same id after each other differ in it. Without /proc it is "" for every process that
    exists.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name, in parentheses, may hold spaces
    state, start = fields[0], fields[19]
    return None if state in "ZX" else start  # a zombie waits for its parent: in a container perhaps for ever


def own_process() -> dict[str, int | str]:
    """How a journal names this process, so that anyone on this machine can see whether it still exists.

    The id alone may be that of another process later, or on the same host in another container.
    """
    pid = os.getpid()
    return {"pid": pid, "process_start": process_start(pid) or "", "machine": machine_identity()[0]}
