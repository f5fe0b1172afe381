"""Files and folders that users name: their text, their JSON, the videos in them, each folder listed once.

Everything that is not as it should be is a ValueError with the path, the rule and the way out.
"""

import json
import logging
import os
import unicodedata
from collections.abc import Iterable, Sequence

from mvit_video.video.location import is_remote, join_location

logger = logging.getLogger(__name__)


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


def listed_files(
    paths: Sequence[str], *, source: str, root: str | None, folders: bool = False
) -> tuple[list[str], list[str | None]]:
    """The files that a list names: where they should be, and each that is there, None for the others.

    Relative paths start from `root`; without one from the current folder, or, if none of the files is there, from the
    folder of the list.

    Args:
        paths: as they are listed.
        source: the list.
        root: folder or URL; None if none is given.
        folders: see `existing`.
    """
    wanted = [join_location(root or "", path) for path in paths]
    found = _however_written(wanted, source=source, folders=folders)
    if root is None and not any(found):
        beside = [join_location(os.path.dirname(source), path) for path in paths]
        found_beside = _however_written(beside, source=source, folders=folders)
        if any(found_beside):
            logger.info(
                "%s: its paths are taken from its own folder, for none of them leads anywhere from the current one, %s",
                source,
                os.getcwd(),
            )
            return beside, found_beside
    return wanted, found


def _however_written(paths: Sequence[str], *, source: str, folders: bool) -> list[str | None]:
    """The files that exist, and those whose letters with accents the list composes otherwise than the folder does.

    A copy from a Mac may have the accents of names apart from their letters (NFD), where a table has them together.
    """
    found = existing(paths, folders=folders)
    names_in: dict[str, dict[str, str | None]] = {}
    absent = [at for at, there in enumerate(found) if there is None and not paths[at].isascii()]
    for at in absent:
        alike = _composed_alike(paths[at], names_in)
        found[at] = None if alike is None else existing([alike], folders=folders)[0]
    count = sum(1 for at in absent if found[at] is not None)
    if count:
        logger.info("%s: %d of its paths write letters with accents otherwise than the folders do", source, count)
    return found


def _composed_alike(path: str, names_in: dict[str, dict[str, str | None]]) -> str | None:
    """The path as its folders spell it; None where there is no such file, or several.

    Args:
        path: a local one.
        names_in: of folders that were looked at, entries by their composed names; it grows.
    """
    place = "/" if path.startswith("/") else ""
    for part in filter(None, path.split("/")):
        if not os.path.lexists(os.path.join(place, part)):
            folder = place or os.curdir
            if folder not in names_in:
                names: dict[str, str | None] = {}
                for entry in scan(folder) if os.path.isdir(folder) else ():
                    composed = unicodedata.normalize("NFC", entry.name)
                    names[composed] = None if composed in names else entry.name
                names_in[folder] = names
            alike = names_in[folder].get(unicodedata.normalize("NFC", part))
            if alike is None:
                return None
            part = alike
        place = os.path.join(place, part)
    return place


def absent_text(root: str | None, *, all_of_them: bool) -> tuple[str, str]:
    """Where listed files were looked for, and the way out, for an error about those that are not there."""
    if not root:
        place = f"the current folder ({os.getcwd()}), nor beside the list"
    else:
        place = root if is_remote(root) or os.path.isabs(root) else f"{root} (from {os.getcwd()})"
    return place, "check root" if all_of_them else "check root, or leave them out with data.source.missing=skip"


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
