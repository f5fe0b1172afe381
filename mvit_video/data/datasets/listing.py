"""Files and folders that users name: their text, their JSON, the videos in them, each folder listed once.

Everything that is not as it should be is a ValueError with the path, the rule and the way out.
"""

import json
import os
from collections.abc import Iterable, Sequence

from mvit_video.video.location import is_remote


def read_text(source: str, what: str) -> str:
    """Content of a UTF-8 file, with or without a byte order mark, with any line endings."""
    if not os.path.isfile(source):
        state = "is a folder" if os.path.isdir(source) else "does not exist"
        raise ValueError(f"{source}: the {what} {state}; give the path of the file")
    try:
        with open(source, encoding="utf-8-sig") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: the {what} is not UTF-8 text ({error}); save it as UTF-8") from error


def read_json(source: str, what: str) -> object:
    try:
        return json.loads(read_text(source, what))
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}:{error.lineno}: the {what} is not JSON ({error.msg}); repair the file") from error


def scan(folder: str, of: str = "videos") -> list[os.DirEntry[str]]:
    """Entries of a folder the user named; `of` says in the error what is looked for there."""
    if not os.path.isdir(folder):
        state = "is not a folder" if os.path.exists(folder) else "does not exist"
        raise ValueError(f"{folder}: the folder of {of} {state}; give the path of an existing folder")
    with os.scandir(folder) as entries:
        return list(entries)


def videos_by_stem(entries: Iterable[os.DirEntry[str]], extensions: Sequence[str]) -> dict[str, str]:
    """Path of each video among a folder's entries by its name without extension; the earlier extension wins."""
    found: dict[str, tuple[int, str]] = {}
    ranks = {extension: rank for rank, extension in reversed(list(enumerate(extensions)))}
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        if extension.lower() in ranks:
            candidate = (ranks[extension.lower()], entry.path)
            found[stem] = min(candidate, found.get(stem, candidate))
    return {stem: path for stem, (_, path) in found.items()}


def existing(paths: Sequence[str], *, folders: bool = False) -> list[str | None]:
    """Each path, or None if there is no such file; lists each parent folder once. URLs are taken at their word.

    Args:
        folders: take folders for files, too (of pictures, that are videos).
    """
    names_in: dict[str, set[str]] = {}
    found: list[str | None] = []
    for path in paths:
        if is_remote(path):
            found.append(path)
            continue
        folder, name = os.path.split(path)
        if folder not in names_in:
            entries = scan(folder or os.curdir) if os.path.isdir(folder or os.curdir) else []
            names_in[folder] = {entry.name for entry in entries if folders or not entry.is_dir(follow_symlinks=False)}
        found.append(path if name in names_in[folder] else None)
    return found
