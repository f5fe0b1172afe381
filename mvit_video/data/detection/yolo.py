"""Labels in YOLO's text form: a file a picture, a line an object, in shares of the picture's width and height.

A line is `class x y width height` (x, y of the box's centre) or `class x y x y x y ...` (corners of a polygon). The
labels of `images/train/a.jpg` are in `labels/train/a.txt`, or beside the image. A picture without a file of labels, or
with an empty one, shows no object (docs.ultralytics.com/datasets/detect and /segment).
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.left_out import examples
from mvit_video.data.datasets.listing import existing
from mvit_video.data.datasets.manifest import Missing, PathLike
from mvit_video.data.detection.annotations import DetectionManifest
from mvit_video.data.detection.assembly import EmptyImages, ListedImages, Stated, manifest_of, with_box_masks
from mvit_video.data.detection.findings import BAD_LINE, NOT_SHARES, UNKNOWN_CLASS, Findings, Mistakes
from mvit_video.data.detection.masks import Shape
from mvit_video.data.detection.shape_columns import ShapeColumns
from mvit_video.data.detection.yolo_files import label_paths, listed_pictures, stray_labels
from mvit_video.images.decoding import Orientation
from mvit_video.images.formats import ImageDecodeError
from mvit_video.images.header import image_size

NO_LABEL_FILE = "images without a file of labels, taken as without objects"
REPEATED = "lines that repeat an earlier one"
STRAY = "files of labels without an image"
UNREADABLE = "images whose header cannot be read"
_TOLERANCE = 0.01  # shares beyond 0 to 1 that are cut, as rounding
_THREADS = 16


def from_yolo(
    path: PathLike | Sequence[str],
    *,
    class_names: Sequence[str],
    orientation: Orientation = "apply",
    empty_images: EmptyImages = "keep",
    missing: Missing = "error",
    mistakes: Mistakes = "error",
    masks: bool = True,
    boxes_as_masks: bool = False,
) -> DetectionManifest:
    """Read pictures and their labels.

    Args:
        path: folder of pictures (with folders in it), a text file that lists pictures, or several of these.
        class_names: in the order of their numbers.
        orientation: "apply": labels are drawn on the picture as EXIF turns it.
        empty_images: what becomes of images without objects; in YOLO's trainings they are used.
        missing: whether listed pictures that do not exist, and pictures without a readable header, are an error, or
            are left out.
        mistakes: whether lines that are no labels are an error, or are left out.
        masks: read polygons as masks, too; else boxes alone.
        boxes_as_masks: objects without a polygon have their box for a mask.

    Raises:
        ValueError: no pictures, no labels at all, or lines that are not as they should be.
    """
    places = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    source = ", ".join(os.fspath(place) for place in places)
    pictures = listed_pictures(places)
    findings = Findings(source, mistakes, noun="line")
    findings.leave_out(STRAY, stray_labels(places, pictures))
    found, absent = _existing(source, pictures, missing)
    sizes, unreadable = _sizes(found, orientation)
    if unreadable and missing == "error":
        shown = examples(f"{name}: {reason}" for name, reason in unreadable.items())
        raise ValueError(
            f"{source}: {len(unreadable)} images have no readable header, and labels are shares of the size that it "
            f"states: {shown}; replace them, or leave them out with data.source.missing=skip"
        )
    findings.leave_out(UNREADABLE, unreadable)
    rows = _read_lines(source, found, len(class_names), findings)
    stated = _stated(rows, sizes, found, masks=masks)
    return manifest_of(
        ListedImages(
            paths=[None if name in unreadable else name for name in found],
            names=found,
            ids=np.arange(1, len(found) + 1),
            sizes=sizes,
        ),
        with_box_masks(stated) if boxes_as_masks else stated,
        class_names=tuple(class_names),
        category_ids=tuple(range(len(class_names))),
        source=source,
        findings=findings,
        empty_images=empty_images,
        missing=absent,
    )


def _existing(source: str, pictures: Sequence[str], missing: Missing) -> tuple[list[str], tuple[str, ...]]:
    """The pictures that are there, and those that are not."""
    if missing not in ("error", "skip"):
        raise ValueError(f"missing={missing!r} must be 'error' or 'skip'")
    found = existing(pictures)
    absent = tuple(name for name, path in zip(pictures, found) if path is None)
    if absent and (missing == "error" or len(absent) == len(pictures)):
        raise ValueError(
            f"{source}: {len(absent)} of {len(pictures)} listed images do not exist: {examples(absent, 5)}; correct "
            "the list, or leave them out with data.source.missing=skip"
        )
    return [path for path in found if path is not None], absent


def _sizes(paths: Sequence[str], orientation: Orientation) -> tuple[npt.NDArray[np.int32], dict[str, str]]:
    """Height and width of each picture (1, 1 where it has no readable header), and what is wrong with those."""

    def size(path: str) -> tuple[int, int] | str:
        try:
            return image_size(path, orientation=orientation)
        except ImageDecodeError as error:
            return error.reason

    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(size, paths, chunksize=64))
    wrong = {path: stated for path, stated in zip(paths, sizes) if isinstance(stated, str)}
    return np.array([(1, 1) if isinstance(stated, str) else stated for stated in sizes], np.int32), wrong


@dataclass
class _Lines:
    """The lines that are labels, one list for each column."""

    images: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    shares: list[npt.NDArray[np.float64]] = field(default_factory=list)


def _read_lines(source: str, paths: Sequence[str], classes: int, findings: Findings) -> _Lines:
    """The labels of all pictures."""
    lines, without = _Lines(), []
    found = existing(label_paths(paths))
    for row, label_path in enumerate(found):
        if label_path is None:
            without.append(paths[row])
            continue
        with open(label_path, encoding="utf-8-sig", errors="replace") as stream:
            _read_file(stream.read(), label_path, row, classes, lines, findings)
    if len(without) == len(paths):
        raise ValueError(
            f"{source}: none of the {len(paths)} images has a file of labels, neither beside it nor in a folder "
            f"`labels` in the place of `images` (looked for {label_paths(paths[:1])[0]}); put the labels there"
        )
    findings.repair(NO_LABEL_FILE, without)
    return lines


def _read_file(text: str, name: str, row: int, classes: int, lines: _Lines, findings: Findings) -> None:
    """The lines of one file; what is wrong with some of them is noted."""
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        fields, place = line.split(), f"{os.path.basename(name)}:{number}"
        if not fields:
            continue
        if line.strip() in seen:
            findings.leave_out(REPEATED, [place])
            continue
        seen.add(line.strip())
        try:
            values = np.array(fields, np.float64)
        except ValueError:
            values = np.full(len(fields), np.nan)
        count = len(values) - 1
        if not np.isfinite(values).all() or not (count == 4 or (count >= 6 and count % 2 == 0)):
            findings.wrong(BAD_LINE, [f"{place}: {line.strip()[:60]!r}"])
        elif not values[0].is_integer() or not 0 <= values[0] < classes:
            findings.wrong(UNKNOWN_CLASS, [f"{place}: class {fields[0]} of {classes} (0 to {classes - 1})"])
        elif values[1:].min() < -_TOLERANCE or values[1:].max() > 1 + _TOLERANCE:
            findings.wrong(NOT_SHARES, [f"{place}: {line.strip()[:60]!r}"])
        else:
            lines.images.append(row)
            lines.places.append(place)
            lines.labels.append(int(values[0]))
            lines.shares.append(values[1:])


def _stated(lines: _Lines, sizes: npt.NDArray[np.int32], paths: Sequence[str], *, masks: bool) -> Stated:
    """The lines as instances in pixels."""
    boxes, shapes = np.zeros((len(lines.labels), 4)), list[Shape]()
    for box, row, shares in zip(boxes, lines.images, lines.shares):
        scale = sizes[row, ::-1].astype(np.float64)
        if len(shares) == 4:
            centre, side = shares[:2] * scale, shares[2:] * scale
            box[:] = *(centre - side / 2), *(centre + side / 2)
            shapes.append(())
        else:
            corners = shares.reshape(-1, 2) * scale
            box[:] = *corners.min(axis=0), *corners.max(axis=0)
            shapes.append((corners,))
    count = len(lines.labels)
    return Stated(
        images=np.array(lines.images, np.int64),
        boxes=boxes,
        labels=np.array(lines.labels, np.int32),
        crowds=np.zeros(count, np.bool_),
        ids=np.arange(1, count + 1),
        areas=np.full(count, -1.0),
        shapes=ShapeColumns.of_shapes(shapes) if masks and any(shapes) else None,
        name=lambda place: f"{lines.places[place]} ({os.path.basename(paths[lines.images[place]])})",
    )
