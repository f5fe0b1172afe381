"""From rows of any annotation (path, labels, start and end, group, weight) to a manifest.

Tables and the official files of data sets are parsed elsewhere; here files are looked up, labels become numbers, and
what contradicts itself is refused with the row, the value, the rule and the way out.
"""

import logging
import math
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import av

from mvit_video.data.datasets.array_views import FloatArrayView
from mvit_video.data.datasets.class_names import checked_names, class_index, numbered_names
from mvit_video.data.datasets.extensions import VIDEOS, FileKind
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.left_out import LeftOut, examples
from mvit_video.data.datasets.listing import absent_text, listed_files
from mvit_video.data.datasets.manifest import Manifest, Missing, PathLike, say_duplicates
from mvit_video.data.datasets.segments import WHOLE, Segment, Segments
from mvit_video.video.location import is_remote
from mvit_video.video.opening import open_input

logger = logging.getLogger(__name__)

Label = str | int
Beyond = Literal["error", "cut"]
END_TOLERANCE_S = 1.0  # ends are rounded by those who annotate
_MAX_CLASSES = 100_000
_THREADS = 16


@dataclass(frozen=True)
class Row:
    """One entry of an annotation.

    Attributes:
        place: where it is written, "table.csv:12".
        path: of the video, as written.
        labels: its classes, by name or number; one, but for multi-label data.
        segment: the stretch of the video.
        group: what it belongs together with; empty if nothing is known.
        weight: how often it is drawn, relative to the others.
    """

    place: str
    path: str
    labels: tuple[Label, ...]
    segment: Segment = WHOLE
    group: str = ""
    weight: float | None = None


def manifest_of_rows(
    rows: Sequence[Row],
    *,
    class_names: Sequence[str],
    source: str,
    root: PathLike | None = None,
    missing: Missing = "error",
    beyond: Beyond = "error",
    multi_label: bool = False,
    frame_rate: float | None = None,
    left_out: LeftOut | None = None,
    numbered: bool = True,
    kind: FileKind = VIDEOS,
) -> Manifest:
    """The manifest of the rows whose files are there.

    Args:
        rows: at least one.
        class_names: the classes, in the order of their numbers; see `names_of_labels`.
        source: the annotation, for people.
        root: folder or URL that relative paths start from; by default the current folder, or that of the annotation
            where none of the files is there.
        missing: whether a file that does not exist is an error, or its rows are left out.
        beyond: whether a segment that ends more than a second beyond its video is an error, or is cut to the video's
            end (and left out if nothing remains). Known from the headers of the local files.
        multi_label: keep all labels of a row; otherwise each has one.
        frame_rate: frames per second of videos that are folders of pictures; None where there are none.
        left_out: what of the annotation was not used, by reason.
        numbered: whether a whole number that is no class's name is a class's number.
        kind: VIDEOS or IMAGES.

    Raises:
        ValueError: a file does not exist, a label is unknown, a segment lies beyond the end.
    """
    if missing not in ("error", "skip"):
        raise ValueError(f"missing={missing!r} must be 'error' or 'skip'")
    if beyond not in ("error", "cut"):
        raise ValueError(f"beyond={beyond!r} must be 'error' or 'cut'")
    base = None if root is None else os.fspath(root)
    paths, found = listed_files([row.path for row in rows], source=source, root=base, folders=frame_rate is not None)
    absent = _absent(rows, paths, found, source=source, base=base or "", missing=missing, kind=kind)
    kept = [(row, path) for row, path in zip(rows, found) if path is not None]
    reasons = dict(left_out or {})
    if any(not row.segment.whole for row, _ in kept):
        kept, gone = _within_videos(kept, beyond=beyond)
        if gone:
            reasons["segment beyond the end"] = gone
        if not kept:
            raise ValueError(f"{source}: every segment lies beyond the end of its video; correct the times")
    indices = {name: index for index, name in enumerate(class_names)}
    sets = [
        sorted({label_index(label, indices, row.place, numbered=numbered) for label in row.labels}) for row, _ in kept
    ]
    manifest = Manifest(
        [path for _, path in kept],
        [labels[0] for labels in sets],
        tuple(class_names),
        source,
        absent,
        left_out=reasons,
        segments=_segments([row for row, _ in kept]),
        groups=[row.group for row, _ in kept] if any(row.group for row, _ in kept) else None,
        weights=_weights([row for row, _ in kept], source),
        label_sets=LabelSetArrayView(sets) if multi_label else None,
        frame_rate=frame_rate,
        kind=kind,
    )
    say_duplicates(manifest)
    return manifest


def names_of_labels(
    rows: Sequence[Row],
    *,
    class_names: Sequence[str] | None,
    num_classes: int | None,
    source: str,
    labels: Literal["auto", "names"] = "auto",
) -> tuple[str, ...]:
    """The classes of the rows.

    Args:
        class_names: the names, if they are known.
        num_classes: number of classes of numbered labels; by default the largest label + 1.
        labels: "auto" takes labels for numbers if all of them are whole numbers; "names" never.

    Returns:
        `class_names`; or the sorted names; or "class 0", "class 1", ... for numbers.
    """
    if class_names is not None:
        return checked_names(class_names, source)
    used = {label for row in rows for label in row.labels}
    if labels == "names" or not all(_is_number(label) for label in used):
        return tuple(sorted({str(label) for label in used}))  # JSON has 1 and "1"
    count = num_classes or max(int(label) for label in used) + 1
    if count > _MAX_CLASSES:
        raise ValueError(f"{source}: {count} classes, not 1 to {_MAX_CLASSES}; if labels are names, give labels=names")
    return numbered_names(count)


def check_groups(first: Iterable[Row], second: Iterable[Row], *, splits: tuple[str, str]) -> None:
    """Refuse a group that lies in two splits. ValueError with both rows."""
    seen: dict[str, str] = {}
    for row in first:
        if row.group:
            seen.setdefault(row.group, row.place)
    for row in second:
        if row.group in seen:
            raise ValueError(
                f"{row.place}: group {row.group!r} is in {splits[1]!r} here and in {splits[0]!r} at "
                f"{seen[row.group]}; what belongs together must be in one split, or its accuracy says nothing: move "
                "one of the rows, or give data.source.group_column=none to read no groups"
            )


def _is_number(label: Label) -> bool:
    return isinstance(label, int) or re.fullmatch("[0-9]{1,9}", label) is not None


def label_index(label: Label, indices: dict[str, int], place: str, *, numbered: bool) -> int:
    """A label's class: by its name, else by its number. ValueError with the place for one that is none."""
    if str(label) in indices:
        return indices[str(label)]
    if numbered and _is_number(label):
        if int(label) >= len(indices):
            raise ValueError(
                f"{place}: label {label} is out of range: with {len(indices)} classes, labels run from 0 to "
                f"{len(indices) - 1}; correct the label, or add the class to the training or to the class names"
            )
        return int(label)
    return class_index(indices, str(label), place=place)


def _absent(
    rows: Sequence[Row],
    paths: Sequence[str],
    found: Sequence[str | None],
    *,
    source: str,
    base: str,
    missing: Missing,
    kind: FileKind,
) -> tuple[str, ...]:
    """The paths that do not exist. ValueError if they may not be left out."""
    gone = [(row, path) for row, path, there in zip(rows, paths, found) if there is None]
    if gone and (missing == "error" or len(gone) == len(rows)):
        shown = examples((f"{path} ({row.place})" for row, path in gone), 5)
        place, way_out = absent_text(base, all_of_them=len(gone) == len(rows))
        raise ValueError(
            f"{source}: {len(gone)} of {len(rows)} listed {kind.plural} do not exist under {place}: {shown}; {way_out}"
        )
    if gone:
        logger.warning("%s: left out %d of %d rows whose files do not exist", source, len(gone), len(rows))
    return tuple(path for _, path in gone)


def _within_videos(kept: list[tuple[Row, str]], *, beyond: Beyond) -> tuple[list[tuple[Row, str]], tuple[str, ...]]:
    """The rows whose segments lie in their videos, and the places of those left out."""
    files = sorted({path for row, path in kept if not row.segment.whole})
    with ThreadPoolExecutor(_THREADS) as pool:
        durations = dict(zip(files, pool.map(stated_duration, files)))
    inside, gone = [], []
    cut: list[str] = []
    for row, path in kept:
        duration = durations.get(path)
        ends_beyond = not math.isinf(row.segment.end) and row.segment.end - END_TOLERANCE_S > (duration or math.inf)
        starts_beyond = duration is not None and row.segment.start >= duration
        if beyond == "error" and (starts_beyond or ends_beyond):
            raise ValueError(
                f"{row.place}: the segment {row.segment} of {path} lies beyond the end of the video, {duration:.2f} s: "
                "correct the times, or give data.source.beyond=cut to cut segments at the end"
            )
        if starts_beyond:
            gone.append(row.place)
            continue
        if ends_beyond:
            cut.append(row.place)
        inside.append((row, path))
    if cut:
        logger.warning("%d segments end beyond their videos and are cut there: %s", len(cut), examples(cut))
    return inside, tuple(gone)


def stated_duration(path: str) -> float | None:
    """Seconds that a file's header states; None for URLs, folders, and files whose header does not tell."""
    if is_remote(path) or os.path.isdir(path):
        return None
    try:
        with open_input("file:" + path) as container:
            return None if container.duration is None else container.duration / av.time_base
    except (av.error.FFmpegError, OSError):
        return None  # a broken file is met, and counted, when it is read


def _segments(rows: Sequence[Row]) -> Segments | None:
    return Segments([row.segment for row in rows]) if any(not row.segment.whole for row in rows) else None


def _weights(rows: Sequence[Row], source: str) -> FloatArrayView | None:
    if all(row.weight is None for row in rows):
        return None
    weights = FloatArrayView(1.0 if row.weight is None else row.weight for row in rows)
    if not sum(weights):
        raise ValueError(f"{source}: all weights are 0; give at least one row a positive weight")
    return weights
