"""What embedded sets share: one process writes a set, and a set made from other options is not taken for this one."""

import fcntl
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvit_video.runtime.files import replacing

logger = logging.getLogger(__name__)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it."""
    with replacing(path, per_process=True) as beside:
        beside.write_bytes(content)


def check_size(spec: object, names: Sequence[str], *, step: int, why: str) -> None:
    """Refuse numbers of files that do not divide among the classes, and a negative seed.

    Args:
        spec: what determines the set; has `seed` and the fields `names`.
        names: of the numbers of files.
        step: each must be a positive multiple of it.
        why: "for 4 classes with equally many images".

    Raises:
        ValueError: with the nearest number that will do.
    """
    for name in names:
        count = getattr(spec, name)
        if count <= 0 or count % step:
            near = max(step, round(count / step) * step)
            raise ValueError(f"{name}={count} must be a positive multiple of {step}, {why}; use {name}={near}")
    seed = getattr(spec, "seed")  # noqa: B009 - of any spec
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")


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
