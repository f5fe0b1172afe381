"""From what people name (files, folders, patterns, lists, URLs) to the files that a model looks at."""

import difflib
import glob
import logging
import os
from collections.abc import Iterator, Sequence

from mvit_video.data.datasets.extensions import IMAGES, VIDEOS, FileKind
from mvit_video.data.datasets.left_out import HIDDEN, LeftOutFiles, describe_left_out, examples, extension_reason
from mvit_video.data.datasets.listing import read_text
from mvit_video.prediction.live_source import is_live, live_source
from mvit_video.runtime.formatting import are, count_text
from mvit_video.video.location import is_remote, join_location

logger = logging.getLogger(__name__)

_SNIFFED = 4096  # bytes of a file of unknown extension that tell text from anything else


def find_files(sources: Sequence[str], kind: FileKind) -> list[str]:
    """The files that the sources name, in their order, each once.

    Args:
        sources: each a file, a folder (with the folders in it), a pattern with `*`, a text file with a path or URL on
            each line, or a URL.
        kind: what the model looks at. Of folders and patterns the files of this kind are taken; what else they hold is
            counted and named in the log.

    Raises:
        ValueError: no source, one that does not exist, that holds no such file, or that is of another kind.
    """
    check_sources(sources)
    left_out = LeftOutFiles()
    found = [path for source in sources for path in _of_source(os.fspath(source), kind, left_out)]
    if left_out.frozen():
        logger.info("no %s, and left out: %s", kind.plural, describe_left_out(left_out.frozen()))
    files = list(dict.fromkeys(found))
    if len(files) < len(found):
        again = len(found) - len(files)
        logger.info("%s %s named more than once and looked at once", count_text(again, kind.noun), are(again))
    return files


def check_sources(sources: Sequence[str]) -> None:
    """Refuse sources that are not there, before weights are fetched for them.

    Raises:
        ValueError: there is no source, or one of them does not exist.
    """
    if not sources:
        raise ValueError(
            "nothing to look at is given: name files, folders, patterns, lists, URLs or a camera, as in "
            "python -m mvit_video.predict clip.mp4"
        )
    for source in sources:
        if is_live(source):
            live_source(source)
        elif not (is_remote(source) or os.path.exists(source) or glob.has_magic(source)):
            raise ValueError(f"{source}: there is no such file or folder{_nearest_text(source)}")


def _of_source(source: str, kind: FileKind, left_out: LeftOutFiles) -> list[str]:
    if is_remote(source):
        return [source]
    if os.path.isdir(source):
        return _of_folder(source, kind, left_out)
    if os.path.exists(source):
        return [source] if kind.has(source) else _of_other_file(source, kind)
    return _of_pattern(source, kind, left_out)


def _nearest_text(path: str) -> str:
    """What comes nearest to a name that is not there, for the end of a message."""
    folder, name = os.path.split(path)
    place = folder or os.getcwd()
    if not os.path.isdir(place):
        return f", and no folder {place}; relative paths are taken from {os.getcwd()}"
    near = difflib.get_close_matches(name, sorted(os.listdir(place)), n=1)
    hint = f"; did you mean {os.path.join(folder, near[0])!r}?" if near else ""
    return f" in {place}{hint}"


def _of_folder(folder: str, kind: FileKind, left_out: LeftOutFiles) -> list[str]:
    found: list[str] = []
    others: list[str] = []
    for path in _walk(folder):
        (found if _taken(path, kind, left_out) else others).append(path)
    if not found:
        holds = f"it holds {len(others)} other files ({examples(others)})" if others else "it is empty"
        raise ValueError(
            f"{folder}: there is no {kind.noun} in this folder or the folders in it; {holds}. The extensions of "
            f"{kind.plural} are {', '.join(kind.extensions[:8])} and {len(kind.extensions) - 8} more"
        )
    return found


def _walk(folder: str) -> Iterator[str]:
    """The files of a folder and of those in it, in the order of their names; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(place, name) for name in sorted(names))


def _taken(path: str, kind: FileKind, left_out: LeftOutFiles) -> bool:
    name = os.path.basename(path)
    if name.startswith("."):
        left_out.add(HIDDEN, path)
    elif not kind.has(name):
        left_out.add(extension_reason(name), path)
    else:
        return True
    return False


def _of_pattern(pattern: str, kind: FileKind, left_out: LeftOutFiles) -> list[str]:
    matching = sorted(glob.glob(pattern, recursive=True))
    files = [path for path in matching if not os.path.isdir(path)]
    found = [path for path in files if _taken(path, kind, left_out)]
    if not found:
        others = f", only {len(matching)} other files or folders ({examples(matching)})" if matching else ""
        raise ValueError(f"{pattern}: no {kind.noun} matches this pattern from {os.getcwd()}{others}")
    return found


def _of_other_file(source: str, kind: FileKind) -> list[str]:
    """A file without the extension of its kind: a list, one of the other kind, or one whose content decides."""
    other = IMAGES if kind is VIDEOS else VIDEOS
    if other.has(source):
        raise ValueError(
            f"{source}: is {other.one}, and the model looks at {kind.plural}; give {kind.plural}, or weights=NAME of a "
            f"model for {other.plural}"
        )
    if not _is_text(source):
        return [source]
    lines = [line.strip() for line in read_text(source, "list").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    for base in ("", os.path.dirname(source)):
        paths = [join_location(base, name) for name in names]
        if any(is_remote(path) or os.path.exists(path) for path in paths):
            return paths
    first = f", the first is {names[0]!r}" if names else ""
    raise ValueError(
        f"{source}: is a text file, and none of its {len(names)} lines is the path of a file or a URL{first}. A list "
        f"of {kind.plural} has one path a line, from the current folder or from that of the list"
    )


def _is_text(path: str) -> bool:
    with open(path, "rb") as stream:
        start = stream.read(_SNIFFED)
    if b"\0" in start:
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4  # a character that is cut off at the end
    return True
