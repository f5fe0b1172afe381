"""A view of an image and its instances as plain steps: each moves pixels, corners of polygons and bitmaps alike.

Corners lie between pixels: an image is W x H, its first pixel reaches from 0 to 1 (detectron2 data/transforms).
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from mvit_video.data.augmentation.image_views import Resampling
from mvit_video.data.detection.annotations import Instances
from mvit_video.data.detection.masks import Masks, RunLengths, Shape
from mvit_video.data.detection.visible import visible_box

SMALLEST_SIDE = 1e-5  # of a box that is kept, pixels (detectron2 structures/boxes.py, as the mapper calls it)

_BILINEAR = Resampling(interpolation="bilinear", exact=True)

Corners = npt.NDArray[np.float64]
Bitmap = npt.NDArray[np.bool_]


class Step(Protocol):
    """Something that is done to an image."""

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        """The image afterwards, uint8 (H, W, 3)."""
        ...

    def corners(self, corners: Corners) -> Corners:
        """Where points (..., 2) of x, y are afterwards."""
        ...

    def bitmap(self, bitmap: Bitmap) -> Bitmap:
        """A mask (H, W) afterwards."""
        ...


@dataclass(frozen=True)
class Flip:
    """Left and right are swapped.

    Attributes:
        width: of the image.
    """

    width: int

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        """See Step."""
        return image.flip(1)

    def corners(self, corners: Corners) -> Corners:
        """See Step."""
        return np.stack([self.width - corners[..., 0], corners[..., 1]], axis=-1)

    def bitmap(self, bitmap: Bitmap) -> Bitmap:
        """See Step."""
        return bitmap[:, ::-1]


@dataclass(frozen=True)
class Resize:
    """Another size: pixels by Pillow's antialiased bilinear filter, bitmaps by the nearest pixel.

    Attributes:
        before, after: (height, width).
        left, columns: only these columns of the result are made; a Crop that follows takes no others. None for all.
    """

    before: tuple[int, int]
    after: tuple[int, int]
    left: int = 0
    columns: int | None = None

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        """See Step."""
        columns = self.after[1] if self.columns is None else self.columns
        return _BILINEAR.resize_columns(image[None], *self.after, left=self.left, columns=columns)[0]

    def corners(self, corners: Corners) -> Corners:
        """See Step."""
        scale = np.array([self.after[1] / self.before[1], self.after[0] / self.before[0]])
        return corners * scale - (self.left, 0)

    def bitmap(self, bitmap: Bitmap) -> Bitmap:
        """See Step."""
        image = Image.fromarray(np.ascontiguousarray(bitmap).astype(np.uint8))
        whole = np.asarray(image.resize(self.after[::-1], Image.Resampling.NEAREST)).astype(np.bool_)
        return whole if self.columns is None else whole[:, self.left : self.left + self.columns]


@dataclass(frozen=True)
class Crop:
    """A part of the image.

    Attributes:
        top, left: its first row and column.
        height, width: its size.
    """

    top: int
    left: int
    height: int
    width: int

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        """See Step."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]

    def corners(self, corners: Corners) -> Corners:
        """See Step."""
        return corners - (self.left, self.top)

    def bitmap(self, bitmap: Bitmap) -> Bitmap:
        """See Step."""
        return bitmap[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Pad:
    """More rows below and columns on the right.

    Attributes:
        height, width: afterwards.
        fill: value of the new pixels.
    """

    height: int
    width: int
    fill: int

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        """See Step."""
        padded = torch.full((self.height, self.width, 3), self.fill, dtype=torch.uint8)
        padded[: image.shape[0], : image.shape[1]] = image
        return padded

    def corners(self, corners: Corners) -> Corners:
        """See Step."""
        return corners

    def bitmap(self, bitmap: Bitmap) -> Bitmap:
        """See Step."""
        return np.pad(bitmap, ((0, self.height - bitmap.shape[0]), (0, self.width - bitmap.shape[1])))


@dataclass(frozen=True, kw_only=True)
class DetectionView:
    """What is done to an image and its instances.

    Attributes:
        steps: in this order.
        size: (height, width) of the result.
        boxes_of_masks: boxes are made anew of what is left of the masks, as published for large-scale jitter; else they
            are only cut at the border of the view.
    """

    steps: tuple[Step, ...]
    size: tuple[int, int]
    boxes_of_masks: bool = False

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        """The view of an image, uint8 (H, W, 3), contiguous."""
        for step in self.steps:
            image = step.pixels(image)
        return image.contiguous()

    def instances(self, instances: Instances) -> Instances:
        """The instances that are left in the view. Those whose box or mask has vanished are not, as published."""
        height, width = self.size
        corners = self._moved(instances.boxes.astype(np.float64).reshape(-1, 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).reshape(-1, 4)
        shapes = None
        if instances.masks is not None:
            shapes = [self._shape(shape) for shape in instances.masks.shapes]
            if self.boxes_of_masks:
                boxes = np.array([_box_of(shape, self.size) for shape in shapes], np.float64).reshape(-1, 4)
        boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
        kept = ((boxes[:, 2:] - boxes[:, :2]) > SMALLEST_SIDE).all(axis=1)
        masks = None
        if shapes is not None:
            kept &= np.array([shape is not None for shape in shapes], np.bool_)
            masks = Masks(tuple(shape if shape is not None else () for shape in shapes), self.size)
        scaled = instances.areas * self._area_scale(instances.size)
        return replace(instances, boxes=boxes, areas=scaled, masks=masks, size=self.size).select(kept)

    def _area_scale(self, before: tuple[int, int]) -> float:
        """Square pixels of the view for one of the image."""
        unit = self._moved(np.array([[0.0, 0.0], [before[1], before[0]]]))
        return float(abs(np.prod(unit[1] - unit[0])) / (before[0] * before[1]))

    def _moved(self, corners: Corners) -> Corners:
        for step in self.steps:
            corners = step.corners(corners)
        return corners

    def _shape(self, shape: Shape) -> Shape | None:
        """A mask in the view; None if nothing of it is left.

        Polygons that reach over the border stay as they are: what lies outside is cut off where they are drawn.
        """
        if isinstance(shape, RunLengths):
            bitmap = shape.bitmap
            for step in self.steps:
                bitmap = step.bitmap(bitmap)
            return RunLengths.of_bitmap(bitmap) if bitmap.any() else None
        rings = tuple(self._moved(ring) for ring in shape)
        return tuple(ring for ring in rings if visible_box(ring, self.size) is not None) or None


def _box_of(shape: Shape | None, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around what is seen of a mask; zeros for nothing."""
    if shape is None:
        return (0.0, 0.0, 0.0, 0.0)
    if isinstance(shape, RunLengths):
        bitmap = shape.bitmap
        rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    seen = [box for box in (visible_box(ring, size) for ring in shape) if box is not None]
    corners = np.array(seen)
    left, top = corners[:, :2].min(axis=0).tolist()
    right, bottom = corners[:, 2:].max(axis=0).tolist()
    return left, top, right, bottom
