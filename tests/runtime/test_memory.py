"""Free memory of the machine, the container and the job."""

from pathlib import Path

import pytest

from mvit_video.runtime.memory import available_memory

GB = 10**9


def system(root: Path, groups: str, **files: str) -> Path:
    """A made-up /proc and /sys with 8 GB available; `files` by their place in the control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 7812500 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_what_the_machine_has(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, "0::/\n")) == 8 * GB


@pytest.mark.parametrize("where", ["job__step__", "job__", ""])
def test_the_tightest_group_counts(tmp_path: Path, where: str) -> None:
    limits = {f"{where}memory_DOT_max": f"{3 * GB}\n", f"{where}memory_DOT_current": f"{GB}\n"}
    assert available_memory(system(tmp_path, "0::/job/step\n", **limits)) == 2 * GB


def test_a_group_without_a_limit(tmp_path: Path) -> None:
    limits = {"job__memory_DOT_max": "max\n", "job__memory_DOT_current": f"{GB}\n"}
    assert available_memory(system(tmp_path, "0::/job\n", **limits)) == 8 * GB


def test_groups_of_version_1(tmp_path: Path) -> None:
    limits = {
        "memory__slurm__memory_DOT_limit_in_bytes": f"{5 * GB}\n",
        "memory__slurm__memory_DOT_usage_in_bytes": f"{6 * GB}\n",
    }
    assert available_memory(system(tmp_path, "4:cpu:/x\n5:memory:/slurm\n", **limits)) == 0


def test_this_machine() -> None:
    assert available_memory() > 10**6
