"""What embedded sets share: one process writes a set, and a set made from other options is not taken for this one."""

import fcntl
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvit_video.runtime.files import replacing

logger = logging.getLogger(__name__)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it."""
    with replacing(path, per_process=True) as beside:
        beside.write_bytes(content)


def check_same(root: Path, name: str, *, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a set that was made from another spec or by another version of the generator.

    Args:
        root: folder of the set.
        name: of the kind of set.
        wanted, found: what determines it.

    Raises:
        ValueError: they differ.
    """
    different = [
        f"{key} {found.get(key)} (asked for: {value})" for key, value in wanted.items() if found.get(key) != value
    ]
    if different:
        raise ValueError(
            f"{root} holds another {name} set, with {', '.join(different)}; give another directory or delete {root}"
        )


@contextmanager
def only_writer(lock_file: Path) -> Iterator[None]:
    """Hold the lock of a set; the system frees it when its holder dies, however it dies."""
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is writing %s; waiting for it", lock_file.parent)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
