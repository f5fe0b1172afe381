"""The list of files that several jobs share: made once, so that a folder that changes meanwhile changes no share."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mvit_video.runtime.files import replacing

FILES = "files.json"


def write_file_list(folder: Path, files: Sequence[str]) -> None:
    """Make the list anew."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FILES, per_process=True) as beside:
        beside.write_text(json.dumps(list(files)), encoding="utf-8")


def shared_file_list(folder: Path, find: Callable[[], Sequence[str]]) -> list[str]:
    """The list of a folder; whichever job comes first makes it.

    Args:
        folder: of the results.
        find: lists the files.
    """
    target = folder / FILES
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=".files", suffix=".tmp", dir=folder)
        try:
            with open(handle, "w", encoding="utf-8") as stream:
                json.dump(list(find()), stream)
            with contextlib.suppress(FileExistsError):  # another job was first, and its list counts
                os.link(beside, target)
        finally:
            os.unlink(beside)
    files: list[str] = json.loads(target.read_text(encoding="utf-8"))
    return files
