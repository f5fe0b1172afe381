"""Where things are written: mirrored paths, and places that must not be written to."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mvit_video.data.datasets.left_out import examples
from mvit_video.data.datasets.listing import existing
from mvit_video.video.location import is_remote

FileKey = tuple[str, int]  # a source: its file, and its first byte there


def common_folder(paths: Iterable[str]) -> str:
    """The deepest folder that all files lie under, absolute; remote files are passed over."""
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths if not is_remote(path)}
    return os.path.commonpath(folders) if folders else os.getcwd()


def is_within(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder or lies below it, links resolved."""
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def mirrored(paths: Sequence[str], *, root: str, folder: str) -> list[str]:
    """The file to write for each source: the same tree below another folder, as .mp4.

    Sources that differ in their extension alone keep it: `a.avi` and `a.mkv` become `a.avi.mp4` and `a.mkv.mp4`.
    """
    relative = [os.path.relpath(os.path.abspath(path), root) for path in paths]
    stems = [os.path.splitext(name)[0] for name in relative]
    times = Counter(stems)
    return [os.path.join(folder, (stem if times[stem] == 1 else name) + ".mp4") for name, stem in zip(relative, stems)]


def own_targets(
    wanted: Sequence[str], sources: Sequence[FileKey], *, folder: str, written: Mapping[FileKey, str]
) -> list[str]:
    """The file to write for each source, so that no two sources ever write the same one.

    Runs on parts of a data set (`splits`) see other common folders, so that what they want may be another source's.

    Args:
        wanted: what `mirrored` gives.
        sources: in the same order.
        folder: that the files are written to.
        written: by source, the files that earlier runs have written; a source keeps its own if it lies in the folder.

    Returns:
        A file for each, with a number before the extension where another source has the one that was wanted.
    """
    below = os.path.join(os.path.abspath(folder), "")
    held = {key: path for key, path in written.items() if path.startswith(below)}
    taken = set(held.values())
    targets = []
    for path, key in zip(wanted, sources, strict=True):
        stem, extension = os.path.splitext(path)
        number, target = 1, held.get(key) or path
        while key not in held and os.path.abspath(target) in taken:
            number += 1
            target = f"{stem}~{number}{extension}"
        taken.add(os.path.abspath(target))
        targets.append(target)
    return targets


class OutputLedger:
    """What a preparation has written, or has begun to, outside of its folder `out`: nothing else is replaced there.

    Args:
        path: the ledger, a file with a path on each line; it grows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[str] = set()
        for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
            try:
                self._known.add(json.loads(line))
            except ValueError:
                continue  # torn by an interrupted run, which had not begun to write that file

    def claim(self, files: Iterable[str], *, option: str, folder: str, known: Iterable[str] = ()) -> None:
        """Note files that will be written.

        Args:
            files: local ones.
            option: names the folder on the command line.
            folder: its value.
            known: absolute paths that this preparation is known to have written.

        Raises:
            ValueError: some of them exist, and this preparation did not write them.
        """
        self._known.update(known)
        fresh = [path for path in map(os.path.abspath, files) if path not in self._known]
        strangers = [path for path in existing(fresh) if path is not None]
        if strangers:
            raise ValueError(
                f"{option}={folder}: {len(strangers)} of the files to be written are there already, and are not of the "
                f"preparation in {self._path.parent}: {examples(strangers)}. Choose another folder, or delete them if "
                "nothing uses them"
            )
        with self._path.open("a", encoding="ascii") as stream:
            stream.write("\n" + "".join(json.dumps(path) + "\n" for path in fresh))
        self._known.update(fresh)


def check_apart(folder: str, *, option: str, sources: Iterable[str]) -> None:
    """Refuse to write among the source videos.

    Args:
        folder: what is to be written to.
        option: how it is called on the command line.
        sources: folders that hold the source videos, each with everything below it.

    Raises:
        ValueError: the folder is one of them, lies in one, or holds one.
    """
    if is_remote(folder):
        return
    for source in sources:
        if is_within(folder, source) or is_within(source, folder):
            raise ValueError(
                f"{option}={folder}: the source videos are in {source}; choose a folder that neither lies in it nor "
                "holds it, so that no source file can be touched"
            )
