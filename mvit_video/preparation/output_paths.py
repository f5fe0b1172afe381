"""Where things are written: mirrored paths, and places that must not be written to."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from mvit_video.video.location import is_remote


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
