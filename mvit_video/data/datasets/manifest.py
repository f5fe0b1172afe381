"""Lists of labelled videos, read from the formats that data sets come in.

Every reader returns a `Manifest` and raises ValueError for any bad input, with file, line, rule and way out.
Folders are listed once each; asking the file system about every single video takes minutes on network storage.
"""

import csv
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import ArrayView, FloatArrayView, IntArrayView, TextArrayView
from mvit_video.data.datasets.class_names import (
    checked_names,
    class_index,
    label_table,
    numbered_names,
    read_class_names,
)
from mvit_video.data.datasets.extensions import VIDEO_EXTENSIONS, VIDEOS, FileKind
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.left_out import LeftOut
from mvit_video.data.datasets.list_file import EMPTY_LIST, bad_line, parse_list
from mvit_video.data.datasets.listing import absent_text, listed_files, read_json, read_text, scan, videos_by_stem
from mvit_video.data.datasets.segments import WHOLE, Segment, Segments
from mvit_video.images.formats import ImageDecodeError
from mvit_video.interop.pytorchvideo import import_pytorchvideo
from mvit_video.runtime.formatting import are, count_text
from mvit_video.video.byte_source import locate
from mvit_video.video.index import VideoDecodeError
from mvit_video.video.location import VideoLocation, same_place

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Missing = Literal["error", "skip"]

_SSV2_EXTENSIONS = (".webm", *VIDEO_EXTENSIONS)
_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Manifest:
    """Videos with their labels, and the names of the classes.

    Attributes:
        paths: one file per video; kept in flat memory that loader workers share.
        labels: class index of each video, 0 to num_classes - 1; likewise.
        class_names: name of each class.
        source: file or folder that the manifest was read from.
        missing: listed videos that were left out because their files are absent.
        left_out: what the source holds and the manifest does not, by reason: files of unknown extensions and so on.
        segments: the stretch of its file that each entry is; None where every entry is a whole file.
        groups: what belongs together (takes of one scene, one recording day) and must not be split; None if unknown.
        weights: how often each entry is drawn, relative to the others; None for all alike.
        label_sets: all classes of each video of a multi-label set; `labels` then holds the first of each.
        frame_rate: of videos that are folders of numbered pictures, frames per second; None where there are none.
        kind: what the entries are: VIDEOS or IMAGES.

    ValueError for no videos, another number of labels (or segments, ...) than of videos, or a label out of range.
    """

    paths: Sequence[str] = field(repr=False)
    labels: Sequence[int] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    source: str
    missing: tuple[str, ...] = field(default=(), repr=False)
    left_out: LeftOut = field(default_factory=dict, repr=False)
    segments: Segments | None = field(default=None, repr=False)
    groups: Sequence[str] | None = field(default=None, repr=False)
    weights: FloatArrayView | None = field(default=None, repr=False)
    label_sets: LabelSetArrayView | None = field(default=None, repr=False)
    frame_rate: float | None = field(default=None, repr=False)
    kind: FileKind = field(default=VIDEOS, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.paths, ArrayView):
            object.__setattr__(self, "paths", TextArrayView(self.paths))
        if not isinstance(self.labels, ArrayView):
            object.__setattr__(self, "labels", IntArrayView(self.labels))
        if not self.paths or len(self.paths) != len(self.labels):
            numbers = f"{len(self.paths)} {self.kind.plural} and {len(self.labels)} labels"
            raise ValueError(f"{self.source}: {numbers}; give at least one {self.kind.noun}, and one label for each")
        labels = np.asarray(self.labels)
        bad = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(bad):
            raise ValueError(f"{self.paths[bad[0]]}: {_range_message(self.labels[bad[0]], self.num_classes)}")
        if self.groups is not None and not isinstance(self.groups, ArrayView):
            object.__setattr__(self, "groups", TextArrayView(self.groups))
        for name in ("segments", "groups", "weights", "label_sets"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.paths):
                numbers = f"{len(self.paths)} {self.kind.plural} and {len(values)} {name}"
                raise ValueError(f"{self.source}: {numbers}; give one for each")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def further_content(self) -> Iterator[tuple[str, bytes]]:
        """What other kinds of manifests hold beside this, by name, for the fingerprint of a data set."""
        yield from ()

    @property
    def left_out_noun(self) -> str:
        """What one of the things in `left_out` is called."""
        return "file"

    @property
    def shard_of(self) -> npt.NDArray[np.int32] | None:
        """Number of the tar shard that holds each video, int32 (videos,); None for videos that are files."""
        return None

    def location(self, index: int) -> VideoLocation:
        """Where the bytes of a video are."""
        path = self.paths[index]
        return VideoLocation(name=path, url=path, frame_rate=self.frame_rate)

    def read(self, index: int) -> bytes:
        """The whole file of an entry: for images, which are decoded from memory.

        Raises:
            ImageDecodeError: it cannot be read.
            RuntimeError: a package that fsspec needs for its URL is not installed.
        """
        try:
            return locate(self.location(index)).read()
        except VideoDecodeError as error:
            raise ImageDecodeError(error.path, error.reason) from error

    def mean_size(self, most: int = 200) -> float | None:
        """Mean bytes of the files, of at most `most` entries spread evenly; None where their sizes are not at hand."""
        every = max(1, len(self) // most)
        sizes = [_local_size(self.location(index)) for index in range(0, len(self), every)]
        known = [size for size in sizes if size]
        return sum(known) / len(known) if known else None

    def segment(self, index: int) -> Segment:
        """The stretch of its file that an entry is."""
        return WHOLE if self.segments is None else self.segments[index]

    def counts(self) -> tuple[int, ...]:
        """Number of videos of each class; of a multi-label set, all labels of a video count."""
        labels = np.asarray(self.labels) if self.label_sets is None else self.label_sets.values
        return tuple(np.bincount(labels, minlength=self.num_classes).tolist())

    def empty_classes(self) -> tuple[str, ...]:
        """Names of the classes that have no video."""
        return tuple(name for name, count in zip(self.class_names, self.counts()) if not count)

    def with_classes(self, names: Sequence[str]) -> "Manifest":
        """The same videos, their labels mapped by name to another list of classes: a model's, or the training's.

        Raises:
            ValueError: a class that some video has is not among `names`; the text has both lists and the nearest names.
        """
        if tuple(names) == self.class_names:
            return self
        used = np.asarray(self.labels) if self.label_sets is None else self.label_sets.values
        table = label_table(used, self.class_names, names, source=self.source)
        sets = None if self.label_sets is None else self.label_sets.mapped(table)
        first = table[np.asarray(self.labels, np.int64)] if sets is None else [labels[0] for labels in sets]
        return replace(self, labels=IntArrayView(first), class_names=tuple(names), label_sets=sets)

    def subset(self, rows: npt.NDArray[np.integer], *, source: str | None = None) -> "Manifest":
        """Some of the entries, in the given order, with the same classes.

        Args:
            rows: places in this manifest.
            source: what to call the result to people; by default as this one.
        """
        return replace(self, **self._chosen(rows), source=source or self.source)

    def _chosen(self, rows: npt.NDArray[np.integer]) -> dict[str, Any]:
        """The columns of some rows."""

        def some(column: Sequence[Any] | None) -> list[Any] | None:
            return None if column is None else [column[row] for row in rows.tolist()]

        segments, weights, sets = some(self.segments), some(self.weights), some(self.label_sets)
        return {
            "paths": some(self.paths),
            "labels": some(self.labels),
            "segments": None if segments is None else Segments(segments),
            "groups": some(self.groups),
            "weights": None if weights is None else FloatArrayView(weights),
            "label_sets": None if sets is None else LabelSetArrayView(sets),
        }

    def num_duplicates(self) -> int:
        """Number of entries whose file, or segment of it, an earlier entry has."""
        places = map(same_place, self.paths)
        entries = set(places) if self.segments is None else set(zip(places, self.segments))
        return len(self.paths) - len(entries)

    def conflicting(self) -> list[tuple[str, tuple[str, ...]]]:
        """(path, class names) of the entries whose file, or segment of it, is there under several classes."""
        if self.label_sets is not None or not self.num_duplicates():
            return []
        labels: dict[tuple[str, Segment], tuple[str, set[int]]] = {}
        for index, (path, label) in enumerate(zip(self.paths, self.labels, strict=True)):
            labels.setdefault((same_place(path), self.segment(index)), (path, set()))[1].add(label)
        return [
            (path, tuple(self.class_names[label] for label in sorted(several)))
            for path, several in labels.values()
            if len(several) > 1
        ]


def _local_size(location: VideoLocation) -> int | None:
    """Bytes of a file, or of a stretch of one; None for other machines' files and folders of pictures."""
    if location.size is not None:
        return location.size
    return os.stat(location.url).st_size if not location.remote and os.path.isfile(location.url) else None


def say_duplicates(manifest: Manifest) -> None:
    """Count the entries that repeat an earlier one, and name those that are listed under several classes."""
    noun = manifest.kind.noun
    if manifest.num_duplicates():
        logger.info(
            "%s: %s %s",
            manifest.source,
            "1 entry repeats" if manifest.num_duplicates() == 1 else f"{manifest.num_duplicates()} entries repeat",
            f"{manifest.kind.one} that is already listed",
        )
    conflicting = manifest.conflicting()
    if conflicting:
        path, names = conflicting[0]
        several = ", or state that a video may have several (task=video_multilabel)" if noun == "video" else ""
        logger.warning(
            "%s: %s %s listed under several classes, and the model is trained on each of them: %s is %s. "
            "Correct the labels%s",
            manifest.source,
            count_text(len(conflicting), noun),
            are(len(conflicting)),
            path,
            " and ".join(names),
            several,
        )


def from_list(
    path: PathLike,
    *,
    root: PathLike | None = None,
    separator: str = " ",
    class_names_file: PathLike | None = None,
    num_classes: int | None = None,
    missing: Missing = "error",
    frame_rate: float | None = None,
    kind: FileKind = VIDEOS,
) -> Manifest:
    """Read a list with one `path label` per line (PySlowFast datasets/kinetics.py).

    The label is the last field, a number or (on all lines) a name. A whole number just before it is PySlowFast's
    ignored middle field (a count of frames) and is dropped; all that precedes is the path, which may hold separators.
    Paths and names may stand in double quotes. If no line has a label, every video gets label 0; a list with labels on
    some lines only is refused. Empty lines are skipped.

    Args:
        path: the list, UTF-8.
        root: folder that relative paths start from; by default the current folder, or that of the list where none of
            the files is there.
        separator: between the fields; " " stands for any run of spaces and tabs.
        class_names_file: one name per line, or a JSON object from name to index; by default the
            sorted names, or "class 0", "class 1", ... for numbers.
        num_classes: number of classes; by default that of class_names_file, else the largest label + 1.
        missing: whether a listed file that does not exist is an error or is left out.
        frame_rate: frames per second of the entries that are folders of pictures; None where there are none.
        kind: VIDEOS or IMAGES.
    """
    source = os.fspath(path)
    names = _Classes(class_names_file, num_classes)
    rows = parse_list(source, separator, kind)
    return _from_rows(rows, names, source=source, root=root, missing=missing, frame_rate=frame_rate, kind=kind)


def list_class_names(
    path: PathLike,
    *,
    separator: str = " ",
    class_names_file: PathLike | None = None,
    num_classes: int | None = None,
    kind: FileKind = VIDEOS,
) -> tuple[str, ...]:
    """The classes that `from_list` gives a list, without looking for its files."""
    source = os.fspath(path)
    classes = _Classes(class_names_file, num_classes)
    return classes.of(source, [label for _, _, label in parse_list(source, separator, kind)])


def from_labeled_video_paths(
    path: PathLike,
    *,
    root: PathLike | None = None,
    class_names_file: PathLike | None = None,
    num_classes: int | None = None,
    missing: Missing = "error",
) -> Manifest:
    """Read a labelled list with PyTorchVideo's own reader (pytorchvideo/data/labeled_video_paths.py, `from_csv`).

    One `path label` per line, separated by spaces or tabs (not commas), no header, no empty line; everything before the
    label is the path. The arguments are those of `from_list`.
    RuntimeError if PyTorchVideo is not installed.
    """
    source = os.fspath(path)
    lines = read_text(source, "labelled list").splitlines()
    for number, line in enumerate(lines, start=1):
        if re.search(r"\S\s+[0-9]{1,9}\s*$", line) is None:
            raise ValueError(bad_line(f"{source}:{number}", line, "does not suit PyTorchVideo's reader", " "))
    if not lines:
        raise ValueError(EMPTY_LIST.format(source))
    reader = import_pytorchvideo("data.labeled_video_paths").LabeledVideoPaths.from_csv(source)
    items = [reader[index] for index in range(len(reader))]
    # The reader keeps the byte order mark that some editors write at the start of a file.
    rows = [(i, name.removeprefix("\ufeff"), int(info["label"])) for i, (name, info) in enumerate(items, start=1)]
    names = _Classes(class_names_file, num_classes)
    return _from_rows(rows, names, source=source, root=root, missing=missing)


def from_kinetics_csv(
    annotation: PathLike,
    *,
    root: PathLike,
    class_names: Sequence[str] | None = None,
    class_names_file: PathLike | None = None,
    missing: Missing = "error",
) -> Manifest:
    """Read a Kinetics annotation CSV with the columns label, youtube_id, time_start and time_end, in any order.

    A video is `<id>_<start:06d>_<end:06d>.<ext>` or `<id>.<ext>`, in `root` itself or in a folder
    of it named after the label, with spaces or underscores.

    Args:
        annotation: the CSV file of one split, UTF-8, with a header.
        root: folder of the split's videos.
        class_names: names of the classes in the order of their indices, `class_names` of the training manifest for the
            other splits. By default the sorted labels of this file.
        class_names_file: the same from a file, see `from_list`.
        missing: whether a listed video without a file is an error or is left out.
    """
    source = os.fspath(annotation)
    rows = _read_kinetics_rows(source)
    used = _labels_of(rows)
    if class_names is not None and class_names_file is not None:
        raise ValueError("class_names and class_names_file are both given; give one of them")
    if class_names_file is not None:
        names = read_class_names(class_names_file)
    else:
        names = checked_names(used if class_names is None else class_names, "class_names")
    indices = {name: index for index, name in enumerate(names)}
    folders = _kinetics_folders(os.fspath(root), used)
    listed, found, labels = [], [], []
    for number, label, youtube_id, stem in rows:
        labels.append(class_index(indices, label, place=f"{source}:{number}"))
        places = (folders.get(_fold(label), {}), folders[""])
        found.append(next((files[name] for name in (stem, youtube_id) for files in places if name in files), None))
        listed.append(os.path.join(root, stem))
    return _assemble(listed, found, labels, names, source=source, root=root, missing=missing)


def kinetics_class_names(annotation: PathLike) -> tuple[str, ...]:
    """The classes of a Kinetics annotation CSV, sorted: those `from_kinetics_csv` takes when it is given none."""
    return tuple(_labels_of(_read_kinetics_rows(os.fspath(annotation))))


def _labels_of(rows: Sequence[tuple[int, str, str, str]]) -> list[str]:
    return sorted({label for _, label, _, _ in rows})


def from_ssv2_json(
    annotation: PathLike,
    *,
    root: PathLike,
    labels_file: PathLike,
    missing: Missing = "error",
    frame_rate: float | None = None,
) -> Manifest:
    """Read a Something-Something v2 split (something-something-v2-{train,validation}.json).

    The class of an entry is its template without the square brackets (PySlowFast datasets/ssv2.py).

    Args:
        annotation: JSON list of objects with "id" and "template".
        root: folder with `<id>.webm` (or `<id>.mp4`).
        labels_file: something-something-v2-labels.json, an object from class name to index.
        missing: whether a listed video without a file is an error or is left out.
        frame_rate: frames per second, where the videos are folders `<id>` of extracted frames; None for files.
    """
    source = os.fspath(annotation)
    entries = read_json(source, "annotation")
    if not isinstance(entries, list):
        raise ValueError(f"{source}: a JSON list of entries is expected; the file may be labels_file, swapped with it")
    names = read_class_names(labels_file)
    indices = {name: index for index, name in enumerate(names)}
    held = scan(os.fspath(root))
    if frame_rate is None:
        files = videos_by_stem(held, _SSV2_EXTENSIONS)
    else:
        files = {entry.name: entry.path for entry in held if entry.is_dir()}
    listed, found, labels = [], [], []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("template"), str):
            raise ValueError(
                f"{source}: entry {number} ({str(entry)[:80]}) lacks an id or a template; the test split has no "
                "labels, use the train or validation file"
            )
        video = str(entry["id"])
        label = entry["template"].replace("[", "").replace("]", "")
        labels.append(class_index(indices, label, place=f"{source}: entry {number} (id {video})"))
        listed.append(os.path.join(root, video + (_SSV2_EXTENSIONS[0] if frame_rate is None else "")))
        found.append(files.get(video))
    manifest = _assemble(listed, found, labels, names, source=source, root=root, missing=missing)
    return replace(manifest, frame_rate=frame_rate)


def _from_rows(
    rows: Sequence[tuple[int, str, str | int]],
    classes: "_Classes",
    *,
    source: str,
    root: PathLike | None,
    missing: Missing,
    frame_rate: float | None = None,
    kind: FileKind = VIDEOS,
) -> Manifest:
    """The manifest of (line number, path, label) rows; labels are numbers, or all are names."""
    names = classes.of(source, [label for _, _, label in rows])
    indices = {name: index for index, name in enumerate(names)}
    labels = []
    for line, _, label in rows:
        if isinstance(label, str):
            label = class_index(indices, label, place=f"{source}:{line}")
        if label >= len(names):
            raise ValueError(f"{source}:{line}: {_range_message(label, len(names))}")
        labels.append(label)
    listed, found = listed_files(
        [path for _, path, _ in rows],
        source=source,
        root=None if root is None else os.fspath(root),
        folders=frame_rate is not None,
    )
    manifest = _assemble(listed, found, labels, names, source=source, root=root, missing=missing, kind=kind)
    return replace(manifest, frame_rate=frame_rate)


class _Classes(NamedTuple):
    """Where the class names of a list come from; the labels tell if neither is given."""

    file: PathLike | None
    number: int | None

    def of(self, source: str, labels: Sequence[str | int]) -> tuple[str, ...]:
        """The class names of labels that are all numbers or all names; names that nobody listed are sorted."""
        numbers = [label for label in labels if isinstance(label, int)]
        if numbers:
            return self.names(source, max(numbers))
        used = tuple(sorted({str(label) for label in labels}))
        if self.file is None and self.number not in (None, len(used)):
            raise ValueError(
                f"{source}: {len(used)} names of classes, but num_classes={self.number}; leave num_classes out, or "
                "give class_names_file with all names"
            )
        return used if self.file is None else self.names(source, 0)

    def names(self, source: str, largest_label: int) -> tuple[str, ...]:
        """The class names: of the file, else numbers. ValueError where they are too few for the labels."""
        names = None if self.file is None else read_class_names(self.file)
        number = self.number if self.number is not None else len(names or ()) or largest_label + 1
        if not 1 <= number <= _MAX_CLASSES:
            raise ValueError(f"{source}: {number} classes, not 1 to {_MAX_CLASSES}; check num_classes or the labels")
        if names is not None and number != len(names):
            raise ValueError(f"num_classes={number}, but {self.file} names {len(names)} classes; leave one of them out")
        return names or numbered_names(number)


def _range_message(label: int, num_classes: int) -> str:
    return (
        f"label {label} is out of range: with {num_classes} classes, labels run from 0 to {num_classes - 1}; correct "
        "the label, or give more classes (num_classes or the file of class names)"
    )


def _read_kinetics_rows(source: str) -> list[tuple[int, str, str, str]]:
    """(line number, label, YouTube id, name of the cut clip without extension) of every row of an annotation."""
    # Each line by itself, so that a stray quotation mark cannot swallow the lines after it.
    lines = [next(csv.reader([line]), []) for line in read_text(source, "annotation").splitlines()]
    header = [name.strip() for name in lines[0]] if lines else []
    absent = [name for name in _KINETICS_COLUMNS if name not in header]
    if absent:
        needed = ", ".join(_KINETICS_COLUMNS)
        raise ValueError(f"{source}: the header {header} lacks the column {absent[0]!r}; a Kinetics CSV has {needed}")
    columns = [header.index(name) for name in _KINETICS_COLUMNS]
    rows = []
    for number, row in enumerate(lines[1:], start=2):
        if not row:
            continue
        place = f"{source}:{number}"
        label, youtube_id, start, end = (row[column].strip() if column < len(row) else "" for column in columns)
        if not label or not youtube_id:
            raise ValueError(f"{place}: {','.join(row)!r} lacks a label or youtube_id; fill it in or remove the row")
        try:
            stem = f"{youtube_id}_{int(float(start)):06d}_{int(float(end)):06d}"
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{place}: time_start {start!r} or time_end {end!r} is no number; correct it") from error
        rows.append((number, label, youtube_id, stem))
    if not rows:
        raise ValueError(f"{source}: no rows below the header; give an annotation with at least one video")
    return rows


def _fold(name: str) -> str:
    """A label and the folder named after it fold to the same string."""
    return name.replace("_", " ").casefold()


def _kinetics_folders(root: str, labels: Iterable[str]) -> dict[str, dict[str, str]]:
    """Videos by name without extension: of `root` itself under "", of each label's folder under the folded label."""
    wanted = {_fold(label) for label in labels}
    entries = scan(root)
    folders = {"": videos_by_stem(entries, VIDEO_EXTENSIONS)}
    for entry in sorted(entries, key=lambda item: item.name):
        if _fold(entry.name) in wanted and entry.is_dir():
            videos = videos_by_stem(scan(entry.path), VIDEO_EXTENSIONS)
            folders.setdefault(_fold(entry.name), {}).update(videos)
    return folders


def _assemble(
    listed: Sequence[str],
    found: Sequence[str | None],
    labels: Sequence[int],
    class_names: tuple[str, ...],
    *,
    source: str,
    root: PathLike | None,
    missing: Missing,
    kind: FileKind = VIDEOS,
) -> Manifest:
    """The manifest of the files that were found, or an error for those that were not."""
    if missing not in ("error", "skip"):
        raise ValueError(f"missing={missing!r} must be 'error' or 'skip'")
    absent = tuple(name for name, path in zip(listed, found) if path is None)
    if absent and (missing == "error" or len(absent) == len(listed)):
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        base = None if root is None else os.fspath(root)
        place, way_out = absent_text(base, all_of_them=len(absent) == len(listed))
        raise ValueError(
            f"{source}: {len(absent)} of {len(listed)} listed {kind.plural} do not exist under {place}: {shown}; "
            f"{way_out}"
        )
    if absent:
        logger.warning(
            "%s: left out %d of %d %s whose files do not exist", source, len(absent), len(listed), kind.plural
        )
    paths = tuple(path for path in found if path is not None)
    kept_labels = tuple(label for path, label in zip(found, labels) if path is not None)
    manifest = Manifest(paths, kept_labels, class_names, source, absent, kind=kind)
    say_duplicates(manifest)
    return manifest
