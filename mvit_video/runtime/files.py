"""Files that are whole or absent at every instant."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str], *, per_process: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to. It becomes `path` at the end of the block, and is removed after an error.

    Args:
        path: the file to make or to replace.
        per_process: the name beside holds the number of the process, for files that several processes may write at
            once. Without it a process that is killed leaves at most one file, which the next writer replaces.
    """
    target = Path(path)
    number = f".{os.getpid()}" if per_process else ""
    beside = target.with_name(f".{target.name}{number}.tmp")
    try:
        with named(target):
            yield beside
            os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the file to an error of the system that names none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def check_writable(folder: Path, *, way_out: str) -> None:
    """Refuse a folder that results cannot be written to, before they are computed; nothing is made.

    Args:
        folder: that will be made if it is not there.
        way_out: what to do instead.

    Raises:
        ValueError: it is a file, or it and the folders above may not be written to.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"the results cannot be written to {folder}: {place} is no folder; {way_out}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"the results cannot be written to {folder}: {place} may not be written to; {way_out}")


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it there, so that it is whole or absent at every instant.

    Parts of a file name that are no valid UTF-8 are written as escapes.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
