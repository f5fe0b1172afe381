"""How much memory this machine, container or job has left."""

from pathlib import Path

_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # version 2, version 1


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that processes can still take before the machine swaps or the job's limit ends them.

    Args:
        root: where /proc and /sys are.

    Raises:
        OSError: the system does not tell (only Linux does).
    """
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([free, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> list[int]:
    """Bytes left in each control group that this process is in and that has a limit."""
    left = []
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / controllers
        # A container sees its own group as the root of all, whatever its name.
        folders = {base / name.strip("/"), base, *(base / name.strip("/")).parents}
        for folder in (folder for folder in folders if folder == base or base in folder.parents):
            left += [
                room for limit, used in _LIMITS if (room := _difference(folder / limit, folder / used)) is not None
            ]
    return left


def _difference(limit: Path, used: Path) -> int | None:
    """Limit minus use; None where there is no limit."""
    if not (limit.is_file() and used.is_file()):
        return None
    text = limit.read_text(encoding="ascii").strip()
    return None if text == "max" else max(0, int(text) - int(used.read_text(encoding="ascii")))
