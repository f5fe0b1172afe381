"""What is annotated: the instances of an image, and a data set of images with theirs, in flat memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.data.datasets.array_views import IntArrayView
from mvit_video.data.datasets.class_names import identity, label_table
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.left_out import LeftOut
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.detection.masks import Masks
from mvit_video.data.detection.ragged import chosen, starts_of
from mvit_video.data.detection.shape_columns import ShapeColumns


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The annotated objects of one image.

    Attributes:
        boxes: float32 (n, 4): x1, y1, x2, y2 in pixels.
        labels: int64 (n), from 0, places in the class names.
        crowds: bool (n): a region of many objects of a class, for training to leave out and evaluation to ignore.
        ids: int64 (n): the annotation's id in its file.
        areas: float64 (n): square pixels as the file states them (in COCO of the mask, not of the box).
        masks: of every instance; None in a set of boxes alone.
        size: (height, width) of the image.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowds: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]
    masks: Masks | None
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.integer]) -> "Instances":
        """Some of the instances: a mask (n), or places in the wanted order."""
        places = np.arange(len(self))[chosen]
        return replace(
            self,
            boxes=self.boxes[places],
            labels=self.labels[places],
            crowds=self.crowds[places],
            ids=self.ids[places],
            areas=self.areas[places],
            masks=None if self.masks is None else self.masks.select(places),
        )

    def without_crowds(self) -> "Instances":
        """What a detector is trained on."""
        return self.select(~self.crowds) if self.crowds.any() else self

    def target(self) -> dict[str, Any]:
        """`boxes` float32 (n, 4) and `labels` int64 (n) as tensors, and `masks` if there are any; without crowds."""
        kept = self.without_crowds()
        target: dict[str, Any] = {"boxes": torch.from_numpy(kept.boxes), "labels": torch.from_numpy(kept.labels)}
        return target if kept.masks is None else {**target, "masks": kept.masks}


@dataclass(frozen=True, kw_only=True)
class AnnotationColumns:
    """The instances of all images, those of an image behind one another, as the file orders them.

    Attributes:
        starts: int64 (images + 1): where each image's instances begin.
        boxes: float64 (instances, 4): x1, y1, x2, y2 in pixels, as stated: some reach over the border of the image.
        labels: int32 (instances).
        crowds: bool (instances).
        ids: int64 (instances).
        areas: float64 (instances).
        shapes: masks of all instances; None in a set of boxes alone.
    """

    starts: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int32]
    crowds: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]
    shapes: ShapeColumns | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """Row of the image of each instance, (instances,)."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def of_images(self, rows: npt.NDArray[np.integer]) -> "AnnotationColumns":
        """The columns of some images, in the given order."""
        starts, places = chosen(self.starts, rows)
        return AnnotationColumns(
            starts=starts,
            boxes=self.boxes[places],
            labels=self.labels[places],
            crowds=self.crowds[places],
            ids=self.ids[places],
            areas=self.areas[places],
            shapes=None if self.shapes is None else self.shapes.select(places),
        )


@dataclass(frozen=True)
class DetectionManifest(Manifest):
    """Images with instances. `labels` holds the first class of each image (0 where there is none), `label_sets` all.

    Attributes:
        sizes: int32 (images, 2): height and width of each image, as a person sees it.
        image_ids: the file's own, or running numbers from 1 where it has none.
        category_ids: number of each class in its file; COCO's have gaps, those of YOLO run from 0; -1: not listed.
        free_category_id: above the numbers of all classes of the file, also of those that `with_classes` has dropped.
        annotations: all instances.
        repaired: what was changed in reading, by reason: boxes cut at the border of their image and so on.
    """

    sizes: npt.NDArray[np.int32] = field(kw_only=True, repr=False, compare=False)
    image_ids: IntArrayView = field(kw_only=True, repr=False)
    category_ids: tuple[int, ...] = field(kw_only=True, repr=False)
    free_category_id: int = field(kw_only=True, repr=False)
    annotations: AnnotationColumns = field(kw_only=True, repr=False, compare=False)
    repaired: LeftOut = field(default_factory=dict, kw_only=True, repr=False)

    def further_content(self) -> Iterator[tuple[str, bytes]]:
        """See Manifest: boxes, classes, crowds, areas and masks; ids do not count."""
        columns = self.annotations
        for name in ("starts", "boxes", "labels", "crowds", "areas"):
            yield name, getattr(columns, name).tobytes()
        if columns.shapes is not None:
            for name in ("ring_starts", "corner_starts", "corners", "run_starts", "runs"):
                yield name, getattr(columns.shapes, name).tobytes()

    @property
    def left_out_noun(self) -> str:
        """See Manifest."""
        return "item"

    @property
    def has_masks(self) -> bool:
        """Whether instances have masks, and not boxes alone."""
        return self.annotations.shapes is not None

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image."""
        return int(self.sizes[index, 0]), int(self.sizes[index, 1])

    def instances(self, index: int) -> Instances:
        """What is annotated in an image, crowds too; boxes are cut at its border."""
        columns, (height, width) = self.annotations, self.size(index)
        begin, end = int(columns.starts[index]), int(columns.starts[index + 1])
        size = height, width
        return Instances(
            boxes=np.clip(columns.boxes[begin:end], 0, (width, height, width, height)).astype(np.float32),
            labels=columns.labels[begin:end].astype(np.int64),
            crowds=columns.crowds[begin:end],
            ids=columns.ids[begin:end],
            areas=columns.areas[begin:end],
            masks=None if columns.shapes is None else columns.shapes.masks(begin, end, size=size),
            size=size,
        )

    def instance_counts(self) -> tuple[int, ...]:
        """Number of instances of each class, crowds not counted."""
        labels = self.annotations.labels[~self.annotations.crowds]
        return tuple(np.bincount(labels, minlength=self.num_classes).tolist())

    def with_classes(self, names: Sequence[str]) -> "DetectionManifest":
        """See Manifest. Classes that the file does not list have no number in it: -1."""
        if tuple(names) == self.class_names:
            return self
        table = label_table(self.annotations.labels, self.class_names, names, source=self.source)
        numbers = dict(zip(map(identity, self.class_names), self.category_ids))
        labels = table[self.annotations.labels].astype(np.int32)
        return replace(
            self,
            class_names=tuple(names),
            category_ids=tuple(numbers.get(identity(name), -1) for name in names),
            annotations=replace(self.annotations, labels=labels),
            **label_columns(labels, self.annotations.starts),
        )

    def _chosen(self, rows: npt.NDArray[np.integer]) -> dict[str, Any]:
        return {
            **super()._chosen(rows),
            "sizes": self.sizes[rows],
            "image_ids": IntArrayView(np.asarray(self.image_ids)[rows]),
            "annotations": self.annotations.of_images(rows),
        }


def label_columns(labels: npt.NDArray[np.int32], starts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """`labels` and `label_sets` of a manifest: the first class of each image (0 for none), and all of them."""
    images = len(starts) - 1
    classes = int(labels.max(initial=0)) + 1
    pairs = np.unique(np.repeat(np.arange(images), np.diff(starts)) * classes + labels)
    ends = starts_of(np.bincount(pairs // classes, minlength=images).tolist())
    sets = LabelSetArrayView.of_arrays(pairs % classes, ends)
    first = np.zeros(images, np.int64)
    some = np.diff(ends) > 0
    first[some] = sets.values[ends[:-1][some]]
    return {"labels": IntArrayView(first), "label_sets": sets}
