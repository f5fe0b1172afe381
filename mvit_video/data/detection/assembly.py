"""From what a file of annotations states to a manifest: instances checked, sorted by image, counted."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import IntArrayView
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.left_out import describe_left_out
from mvit_video.data.datasets.manifest import say_duplicates
from mvit_video.data.detection.annotations import AnnotationColumns, DetectionManifest, label_columns
from mvit_video.data.detection.findings import OUTSIDE, Findings
from mvit_video.data.detection.ragged import starts_of
from mvit_video.data.detection.shape_columns import ShapeColumns, compact
from mvit_video.runtime.formatting import count_text

logger = logging.getLogger(__name__)

EmptyImages = Literal["leave_out", "keep"]

CUT = "boxes cut at the border of their image"
NO_AREA = "boxes without area"
NO_MASK = "instances without a mask, which training leaves out and scores of masks ignore"
_KEEP_THEM = (
    "a training takes what it leaves out for background. To train on these instances, too: "
    "data.source.boxes_as_masks=true takes their boxes for masks, data.source.masks=false trains boxes alone"
)
EMPTY_IMAGE = "images without instances, or with crowds alone"
_TOLERANCE = 1.0  # pixels: boxes are rounded by those who annotate


@dataclass
class Stated:
    """The instances of a file, in its order.

    Attributes:
        images: row of each one's image, int64 (instances,).
        boxes: x1, y1, x2, y2 in pixels, float64 (instances, 4).
        labels: int32 (instances,).
        crowds: bool (instances,).
        ids: int64 (instances,).
        areas: float64 (instances,); negative where the file states none.
        shapes: masks; None in a set of boxes alone.
        name: what people call an instance, by its place.
    """

    images: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int32]
    crowds: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]
    shapes: ShapeColumns | None
    name: Callable[[int], str]

    def select(self, places: npt.NDArray[np.integer]) -> "Stated":
        """Some of them, in the given order."""
        name = self.name
        return Stated(
            images=self.images[places],
            boxes=self.boxes[places],
            labels=self.labels[places],
            crowds=self.crowds[places],
            ids=self.ids[places],
            areas=self.areas[places],
            shapes=None if self.shapes is None else self.shapes.select(places),
            name=lambda place: name(int(places[place])),
        )


def checked(stated: Stated, sizes: npt.NDArray[np.int32], findings: Findings) -> Stated:
    """The instances that can be used; what is not used, and boxes that a training cuts at the border, are noted.

    Boxes stay as stated, as evaluators of the file score them; `DetectionManifest.instances` cuts them.

    Args:
        stated: all instances.
        sizes: height and width of each image, (images, 2).
        findings: takes the notes.
    """
    limits = sizes[stated.images][:, [1, 0, 1, 0]].astype(np.float64)
    boxes = np.clip(stated.boxes, 0, limits)
    flat = ~((stated.boxes[:, 2:] > stated.boxes[:, :2]).all(axis=1))
    outside = ~flat & ~((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    findings.leave_out(NO_AREA, map(stated.name, np.flatnonzero(flat).tolist()))
    findings.wrong(OUTSIDE, (f"{stated.name(place)}, {_box_text(stated, sizes, place)}" for place in _places(outside)))
    cut = ~flat & ~outside & (np.abs(boxes - stated.boxes) > _TOLERANCE).any(axis=1)
    findings.repair(CUT, map(stated.name, _places(cut)))
    used = np.flatnonzero(~flat & ~outside)
    kept = stated.select(used)
    if kept.shapes is not None:
        findings.repair(NO_MASK, map(kept.name, _places(kept.shapes.absent & ~kept.crowds)))
    return _with_areas(kept, boxes[used])


def _places(which: npt.NDArray[np.bool_] | np.bool_) -> list[int]:
    return np.flatnonzero(which).tolist()


def _box_text(stated: Stated, sizes: npt.NDArray[np.int32], place: int) -> str:
    height, width = sizes[stated.images[place]].tolist()
    x1, y1, x2, y2 = stated.boxes[place].tolist()
    return f"{x1:g}, {y1:g} to {x2:g}, {y2:g} in {width}x{height}"


def _with_areas(stated: Stated, boxes: npt.NDArray[np.float64]) -> Stated:
    """Areas that a file does not state: those of the masks, or of the boxes (instances, 4) inside of the image."""
    areas = stated.areas.copy()
    for place in _places(~(areas >= 0)):
        shape = None if stated.shapes is None else stated.shapes.shape(place)
        areas[place] = np.prod(boxes[place, 2:] - boxes[place, :2]) if not shape else _area(shape)
    return replace(stated, areas=areas)


def _area(shape: Any) -> float:
    """Pixels of run lengths, or what polygons enclose (Gauss's formula)."""
    if not isinstance(shape, tuple):
        return float(shape.bitmap.sum())
    return sum(
        abs(float(ring[:, 0] @ np.roll(ring[:, 1], -1) - ring[:, 1] @ np.roll(ring[:, 0], -1))) / 2 for ring in shape
    )


def with_box_masks(stated: Stated) -> Stated:
    """Every instance without a mask has its box for one."""
    boxes = stated.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    if stated.shapes is None:
        return replace(stated, shapes=_rectangles(boxes))
    rectangles = _rectangles(boxes)
    absent = stated.shapes.absent
    shapes = [(rectangles if alone else stated.shapes).shape(place) for place, alone in enumerate(absent.tolist())]
    return replace(stated, shapes=ShapeColumns.of_shapes(shapes))


def _rectangles(boxes: npt.NDArray[np.float64]) -> ShapeColumns:
    """Masks that are the corners of boxes, (instances, 4, 2)."""
    count = len(boxes)
    return ShapeColumns(
        ring_starts=np.arange(count + 1, dtype=np.int64),
        corner_starts=np.arange(count + 1, dtype=np.int64) * 4,
        corners=compact(boxes.reshape(-1, 2)),
        run_starts=np.zeros(count + 1, np.int64),
        runs=np.zeros(0, np.uint8),
        run_sizes=np.zeros((count, 2), np.int32),
    )


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """The images of a file, in its order.

    Attributes:
        paths: file of each one; None where there is none.
        names: as the file has them.
        ids: int64 (images,).
        sizes: int32 (images, 2), height and width.
    """

    paths: Sequence[str | None]
    names: Sequence[str]
    ids: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]


def manifest_of(
    images: ListedImages,
    stated: Stated,
    *,
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    source: str,
    findings: Findings,
    empty_images: EmptyImages,
    missing: tuple[str, ...],
) -> DetectionManifest:
    """The manifest of the images whose files are there.

    Raises:
        ValueError: contradictions, unless they may be left out; no image is left.
    """
    usable = checked(stated, images.sizes, findings)
    findings.check()
    order = np.argsort(usable.images, kind="stable")
    usable = usable.select(order)
    columns = AnnotationColumns(
        starts=starts_of(np.bincount(usable.images, minlength=len(images.names)).tolist()),
        boxes=usable.boxes,
        labels=usable.labels,
        crowds=usable.crowds,
        ids=usable.ids,
        areas=usable.areas,
        shapes=usable.shapes,
    )
    there = np.array([path is not None for path in images.paths], np.bool_)
    if empty_images == "leave_out":
        objects = np.bincount(usable.images[~usable.crowds], minlength=len(images.names))
        findings.leave_out(EMPTY_IMAGE, (images.names[row] for row in _places(there & (objects == 0))))
        there &= objects > 0
    rows = np.flatnonzero(there)
    if not len(rows):
        raise ValueError(
            f"{source}: no image is left to use ({describe_left_out(findings.left_out) or 'the file lists none'}); "
            "give a file with annotated images, or keep those without instances: data.source.empty_images=keep"
        )
    kept = columns if len(rows) == len(there) else columns.of_images(rows)
    manifest = DetectionManifest(
        paths=[os.fspath(images.paths[row] or "") for row in rows.tolist()],
        class_names=class_names,
        source=source,
        missing=missing,
        left_out=findings.left_out,
        kind=IMAGES,
        sizes=images.sizes[rows],
        image_ids=IntArrayView(images.ids[rows]),
        category_ids=category_ids,
        free_category_id=max(category_ids, default=0) + 1,
        annotations=kept,
        repaired=findings.repaired,
        **label_columns(kept.labels, kept.starts),
    )
    say_instances(manifest)
    say_duplicates(manifest)
    return manifest


def say_instances(manifest: DetectionManifest) -> None:
    """How many instances there are, and what was changed in reading them."""
    columns = manifest.annotations
    crowds = int(columns.crowds.sum())
    masks = "with masks" if manifest.has_masks else "boxes alone"
    logger.info(
        "%s: %s (%s), %s",
        manifest.source,
        count_text(len(columns) - crowds, "instance"),
        masks,
        count_text(crowds, "crowd"),
    )
    if manifest.repaired:
        logger.warning("%s: changed in reading. %s", manifest.source, describe_left_out(manifest.repaired))
    if NO_MASK in manifest.repaired:
        logger.warning("%s: %s", manifest.source, _KEEP_THEM)
