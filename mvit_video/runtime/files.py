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
        yield beside
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it there, so that it is whole or absent at every instant.

    Parts of a file name that are no valid UTF-8 are written as escapes.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
