"""Folders that hold one folder of videos, or of images, per class.

Files that are not used (unknown extensions, hidden ones such as the twins `._NAME.mp4` that macOS leaves, files beside
the class folders, empty class folders) are counted and named in the manifest's `left_out`.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from mvit_video.data.datasets.extensions import VIDEOS, FileKind
from mvit_video.data.datasets.left_out import (
    BESIDE,
    BESIDE_PICTURES,
    EMPTY_FOLDER,
    HIDDEN,
    LINK,
    LeftOut,
    LeftOutFiles,
    describe_left_out,
    examples,
    extension_reason,
)
from mvit_video.data.datasets.listing import scan
from mvit_video.data.datasets.manifest import Manifest, PathLike
from mvit_video.runtime.formatting import are, count_text
from mvit_video.video.location import PICTURE_EXTENSIONS

logger = logging.getLogger(__name__)

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True)
class ClassFolders:
    """A folder of class folders, read once.

    Attributes:
        root: the folder.
        files: paths of each class's files, by the class's name, both sorted; no class is empty.
        left_out: files that are not used, by reason, relative to the root.
        frame_rate: of videos that are folders of pictures; None where such are not looked for.
        kind: what the files are.
        twins: of each path that is one file with others through links, the first of these paths, relative to the root.
    """

    root: str
    files: Mapping[str, tuple[str, ...]]
    left_out: LeftOut
    frame_rate: float | None = None
    kind: FileKind = VIDEOS
    twins: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(self.files)


def read_class_folders(root: PathLike, *, frame_rate: float | None = None, kind: FileKind = VIDEOS) -> ClassFolders:
    """List a folder of class folders.

    Files are known by their extension (in any case) and may lie in sub-folders of the class folder.

    Args:
        root: the folder.
        frame_rate: with it, a folder below a class folder that holds pictures is a video of so many frames per second.
        kind: VIDEOS or IMAGES.

    Raises:
        ValueError: no class folders, splits in the place of classes, or a class folder whose files are all no videos.
    """
    source = os.fspath(root)
    left_out = LeftOutFiles()
    folders = []
    for entry in scan(source, kind.plural):
        if entry.name.startswith("."):
            left_out.add(HIDDEN, entry.name)
        elif entry.is_dir():
            folders.append(entry.name)
        else:
            left_out.add(BESIDE, entry.name)
    _check_folders(source, sorted(folders), kind)
    files: dict[str, tuple[str, ...]] = {}
    links: set[str] = set()
    for name in sorted(folders):
        before = LeftOutFiles()
        found = _files_below(os.path.join(source, name), source, before, links, kind, frames=frame_rate is not None)
        rest = before.frozen()
        if found:
            files[name] = tuple(found)
        elif any(reason != HIDDEN for reason in rest):
            raise ValueError(_no_file(os.path.join(source, name), rest, kind))
        else:
            left_out.add(EMPTY_FOLDER, name)
        for reason, names in rest.items():
            for path in names:
                left_out.add(reason, path)
    if not files:
        way_out = f"put the {kind.plural} of each class into its folder"
        raise ValueError(f"{source}: all of its class folders are empty; {way_out}")
    twins = _twins((path for paths in files.values() for path in paths), links, source) if links else {}
    return ClassFolders(source, files, left_out.frozen(), frame_rate, kind, twins)


def from_folder(
    root: PathLike,
    *,
    class_names: Sequence[str] | None = None,
    frame_rate: float | None = None,
    kind: FileKind = VIDEOS,
) -> Manifest:
    """Read a folder that holds one folder of videos (or images) per class, in the sorted order of names and paths.

    Args:
        root: the folder, see `read_class_folders`.
        class_names: names of the classes in the order of their indices, `class_names` of the training manifest for the
            other splits. By default the sorted names of the class folders that hold a video.
        frame_rate, kind: see `read_class_folders`.

    Raises:
        ValueError: see `read_class_folders`; or a folder that is none of `class_names`.
    """
    return manifest_of(read_class_folders(root, frame_rate=frame_rate, kind=kind), class_names=class_names)


def manifest_of(folders: ClassFolders, *, class_names: Sequence[str] | None = None) -> Manifest:
    """The manifest of folders that were read; the argument is that of `from_folder`."""
    names = folders.names
    paths = [path for files in folders.files.values() for path in files]
    labels = [label for label, files in enumerate(folders.files.values()) for _ in files]
    manifest = Manifest(
        paths,
        labels,
        names,
        folders.root,
        left_out=folders.left_out,
        groups=[folders.twins.get(path, "") for path in paths] if folders.twins else None,
        frame_rate=folders.frame_rate,
        kind=folders.kind,
    )
    _say_twins(folders)
    return manifest if class_names is None else manifest.with_classes(class_names)


def folder_class_names(root: PathLike, *, frame_rate: float | None = None, kind: FileKind = VIDEOS) -> tuple[str, ...]:
    """The classes of a folder of class folders, sorted: those `from_folder` takes when it is given none."""
    return read_class_folders(root, frame_rate=frame_rate, kind=kind).names


def _check_folders(source: str, folders: Sequence[str], kind: FileKind) -> None:
    if not folders:
        example = f"{source}/<class>/<{kind.noun}>{kind.extensions[0]}"
        raise ValueError(f"{source}: no class folders in it; lay the {kind.plural} out as {example}")
    if {name.lower() for name in folders} <= _SPLIT_NAMES:
        raise ValueError(f"{source}: its folders ({', '.join(folders)}) are splits, not classes; pass one of them")


def _twins(paths: Iterable[str], links: set[str], root: str) -> dict[str, str]:
    """See ClassFolders.twins. Each link is read once, and each folder resolved once: network storage is slow to ask."""
    real_folder = cache(os.path.realpath)

    def place(path: str) -> str:
        folder, name = os.path.split(path)
        return os.path.join(real_folder(folder), name)

    targets = {place(path): place(os.path.join(os.path.dirname(path), os.readlink(path))) for path in links}
    same: dict[str, list[str]] = {}
    for path in paths:
        where, seen = place(path), set[str]()
        while where in targets and where not in seen:  # a link may lead to another
            seen.add(where)
            where = targets[where]
        same.setdefault(where, []).append(path)
    several = [twins for twins in same.values() if len(twins) > 1]
    return {path: os.path.relpath(twins[0], root) for twins in several for path in twins}


def _say_twins(folders: ClassFolders) -> None:
    """Name the files that are there several times, and warn of those that are in several classes."""
    classes: dict[str, set[str]] = {}
    for name, paths in folders.files.items():
        for path in paths:
            if path in folders.twins:
                classes.setdefault(folders.twins[path], set()).add(name)
    if not classes:
        return
    noun = folders.kind.noun
    several = count_text(len(classes), noun)
    logger.info(
        "%s: %s %s there several times, through links: %s", folders.root, several, are(len(classes)), examples(classes)
    )
    conflicting = [f"{path} ({' and '.join(sorted(names))})" for path, names in classes.items() if len(names) > 1]
    if conflicting:
        logger.warning(
            "%s: %s %s in several classes, through links, and the model is trained on each of them: %s. Remove the "
            "links from the wrong classes",
            folders.root,
            count_text(len(conflicting), noun),
            are(len(conflicting)),
            examples(conflicting),
        )


def _files_below(
    folder: str, root: str, left_out: LeftOutFiles, links: set[str], kind: FileKind, *, frames: bool
) -> list[str]:
    """Paths of the files of a folder and its sub-folders, sorted; no link is followed to a folder of files.

    Args:
        links: receives the paths that are links.
        frames: whether a sub-folder that holds pictures is a video.
    """
    paths: list[str] = []
    for entry in scan(folder, kind.plural):
        if entry.name.startswith("."):
            left_out.add(HIDDEN, os.path.relpath(entry.path, root))
        elif frames and entry.is_dir() and _holds_pictures(entry.path):
            paths.append(entry.path)
            _note_others(entry.path, root, left_out)
        elif entry.is_dir(follow_symlinks=False):
            paths += _files_below(entry.path, root, left_out, links, kind, frames=frames)
        elif entry.is_dir():
            left_out.add(LINK, os.path.relpath(entry.path, root))
        elif kind.has(entry.name):
            paths.append(entry.path)
        else:
            left_out.add(extension_reason(entry.name), os.path.relpath(entry.path, root))
            continue
        if entry.is_symlink() and paths and paths[-1] == entry.path:
            links.add(entry.path)
    return sorted(paths)


def _holds_pictures(folder: str) -> bool:
    return any(entry.name.lower().endswith(PICTURE_EXTENSIONS) for entry in scan(folder))


def _note_others(folder: str, root: str, left_out: LeftOutFiles) -> None:
    """Note what lies beside the pictures of a video: other videos, say, that are not looked for there."""
    for entry in scan(folder):
        if not entry.name.lower().endswith(PICTURE_EXTENSIONS):
            hidden = entry.name.startswith(".")
            left_out.add(HIDDEN if hidden else BESIDE_PICTURES, os.path.relpath(entry.path, root))


def _no_file(folder: str, rest: LeftOut, kind: FileKind) -> str:
    known = ", ".join(kind.extensions[:6])
    pictures = kind is VIDEOS and any(reason.removeprefix("extension ") in PICTURE_EXTENSIONS for reason in rest)
    frames = ""
    if pictures:
        frames = "; where they are the frames of videos, a folder for each, give data.source.frame_rate"
    return (
        f"{folder}: no {kind.noun} in the class folder (found {describe_left_out(rest)}); {kind.plural} are known by "
        f"their extension ({known} and {len(kind.extensions) - 6} more): add {kind.plural}, rename them, or remove the "
        f"folder"
        f"{frames}"
    )
