"""Files of JSON lines that grow while a prediction runs, and survive its end in the middle of one."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvit_video.video.location import is_remote


def file_state(path: str) -> list[int] | None:
    """Size and modification time of a local file; None for one that is not there or not local."""
    if is_remote(path):
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says plainly that results cannot be written.

    Raises:
        ValueError: the disk is full, or the folder is not writable.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{folder}: results cannot be written there: {error.strerror or error}. Make room, or give output=FOLDER "
            "elsewhere; what is written already is kept, and the same command goes on"
        ) from error


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a file of lines. One that was cut short by the end of a process stays a line of its own."""
    text = json.dumps(line, ensure_ascii=False)
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write((text if _ends_in_newline(path) else "\n" + text) + "\n")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a file that are whole, with where they begin; none of a file that is not there."""
    if not path.is_file():
        return
    with open(path, "rb") as stream:
        offset = 0
        for data in stream:
            start, offset = offset, offset + len(data)
            try:
                line = json.loads(data)
            except ValueError:
                continue  # the last line of a process that was killed; its file is looked at again
            if isinstance(line, dict) and isinstance(line.get("path"), str):
                yield start, line


def _ends_in_newline(path: Path) -> bool:
    """Whether the next line can be added at once."""
    if not path.is_file() or not path.stat().st_size:
        return True
    with open(path, "rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"
