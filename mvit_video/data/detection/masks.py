"""Masks of the instances of an image, as polygons or run lengths, and how they are drawn: as COCO's own code does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.data.detection.coco_masks import coco_masks

SMALLEST_SIDE = 0.1  # of a box that polygons are drawn in, pixels (detectron2 structures/masks.py)

Polygons = tuple[npt.NDArray[np.float64], ...]
"""Rings of corners, each float64 (corners, 2): x, y in pixels. An object in parts has several."""


@dataclass(frozen=True)
class RunLengths:
    """A bitmap as COCO packs it.

    Attributes:
        size: (height, width) of the bitmap.
        counts: the runs, column after column, in COCO's compressed text.
    """

    size: tuple[int, int]
    counts: bytes

    @classmethod
    def of_bitmap(cls, bitmap: npt.NDArray[Any]) -> "RunLengths":
        """Those of a bitmap (H, W)."""
        packed = coco_masks().encode(np.asfortranarray(bitmap, dtype=np.uint8))
        return cls((int(bitmap.shape[0]), int(bitmap.shape[1])), packed["counts"])

    @property
    def bitmap(self) -> npt.NDArray[np.bool_]:
        """bool (H, W), unpacked at each call: kept, it would travel with the samples."""
        return np.asarray(coco_masks().decode({"size": list(self.size), "counts": self.counts})).astype(np.bool_)


Shape = Polygons | RunLengths


def rasterize(polygons: Polygons, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The union of polygons as COCO's code draws them: bool (height, width). What lies outside is cut off."""
    if not polygons:
        return np.zeros((height, width), np.bool_)
    masks = coco_masks()
    drawn = masks.frPyObjects([ring.ravel() for ring in polygons], height, width)
    return np.asarray(masks.decode(masks.merge(drawn))).astype(np.bool_)


@dataclass(frozen=True)
class Masks:
    """The masks of the instances of an image; what `InstanceMasks` of models/detection asks for.

    Attributes:
        shapes: of each instance.
        size: (height, width) of the image.
    """

    shapes: tuple[Shape, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.shapes)

    def select(self, places: npt.NDArray[np.integer] | Sequence[int]) -> "Masks":
        """Those of some instances, in the given order."""
        return Masks(tuple(self.shapes[int(place)] for place in places), self.size)

    def bitmaps(self) -> npt.NDArray[np.bool_]:
        """bool (n, H, W)."""
        out = np.zeros((len(self), *self.size), np.bool_)
        for row, shape in zip(out, self.shapes):
            row[:] = shape.bitmap if isinstance(shape, RunLengths) else rasterize(shape, *self.size)
        return out

    def encode(self) -> list[dict[str, Any]]:
        """Each as COCO's run lengths, {"size": [height, width], "counts": text}."""
        return [
            encode_bitmap(shape.bitmap if isinstance(shape, RunLengths) else rasterize(shape, *self.size))
            for shape in self.shapes
        ]

    def coco(self, place: int) -> list[list[float]] | dict[str, Any]:
        """A mask as COCO's `segmentation`: polygons as lists of x, y, x, y, ..., or run lengths."""
        shape = self.shapes[place]
        if isinstance(shape, RunLengths):
            return {"size": list(shape.size), "counts": shape.counts.decode("ascii")}
        return [ring.ravel().tolist() for ring in shape]

    def crop(self, boxes: torch.Tensor, instances: torch.Tensor, side: int) -> torch.Tensor:
        """The masks of instances (n) in boxes (n, 4) at side x side: bool (n, side, side), on the CPU.

        Polygons are shifted and scaled into the box and drawn there; bitmaps are averaged over each cell and cut at one
        half (detectron2 structures/masks.py, PolygonMasks and BitMasks).
        """
        corners = boxes.detach().to("cpu", torch.float32)
        out = torch.zeros(len(corners), side, side, dtype=torch.bool)
        for place in instances.unique().tolist():
            shape, rows = self.shapes[place], torch.nonzero(instances.cpu() == place)[:, 0]
            if isinstance(shape, RunLengths):
                out[rows] = _averaged(shape, corners[rows], side)
            else:
                for row in rows.tolist():
                    out[row] = torch.from_numpy(_in_box(shape, corners[row].numpy(), side))
        return out


def encode_bitmap(bitmap: npt.NDArray[Any]) -> dict[str, Any]:
    """A bitmap (H, W) as COCO's run lengths in JSON: {"size": [height, width], "counts": text}."""
    packed = RunLengths.of_bitmap(bitmap)
    return {"size": list(packed.size), "counts": packed.counts.decode("ascii")}


def _averaged(runs: RunLengths, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """A bitmap, averaged over the cells of boxes (n, 4) and cut at one half: bool (n, side, side)."""
    from torchvision.ops import roi_align  # takes a second, and commands that open no image read this file

    bitmap = torch.from_numpy(runs.bitmap)[None, None].float()
    cut: torch.Tensor = roi_align(bitmap, [boxes], side, spatial_scale=1.0, sampling_ratio=0, aligned=True)
    return cut[:, 0] >= 0.5


def _in_box(polygons: Polygons, box: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.bool_]:
    """Polygons drawn in a box (4,): bool (side, side)."""
    smallest = np.float32(SMALLEST_SIDE)
    scale = side / np.maximum(box[2:] - box[:2], smallest).astype(np.float64)
    return rasterize(tuple((ring - box[:2]) * scale for ring in polygons), side, side)
