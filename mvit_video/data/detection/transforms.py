"""Random views for the training of detectors, as published, and the plain one for evaluation.

Large-scale jitter and the multi-scale recipe are those of detectron2 (projects/MViTv2/configs/common); a view is a pure
function of the image's size and the random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mvit_video.data.detection.views import Crop, DetectionView, Flip, Pad, Resize, Step
from mvit_video.models.detection.resize import resized_size

NO_LIMIT = 10**9  # long side


class DetectionTransform(Protocol):
    """Draws views."""

    def draw(self, height: int, width: int, rng: np.random.Generator) -> DetectionView:
        """A view of an image of `height` x `width` pixels."""
        ...


@dataclass(frozen=True, kw_only=True)
class LargeScaleJitter:
    """Flip, scale, crop and pad to a square (arXiv 2012.07177; detectron2 ResizeScale and FixedSizeCrop).

    Attributes:
        side: of the square, pixels.
        scale: range of the factor s; the image is scaled until it fits in a square of s * side.
        flip: chance of a horizontal flip.
        fill: value of the pixels that are padded, 0 to 255.

    Raises:
        ValueError: a value outside its range.
    """

    side: int = 1024
    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5
    fill: int = 128

    def __post_init__(self) -> None:
        _check_side("side", self.side)
        _check_chance("flip", self.flip)
        if not 0 < self.scale[0] <= self.scale[1] < np.inf:
            raise ValueError(f"scale={tuple(self.scale)}: a range needs 0 < low <= high; published is (0.1, 2.0)")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill={self.fill}: the value of a pixel lies in 0 to 255; published is 128")

    def draw(self, height: int, width: int, rng: np.random.Generator) -> DetectionView:
        """See DetectionTransform. One random number shifts the crop on both axes, as published."""
        side = self.side
        flipped = rng.random() < self.flip
        scale = side * rng.uniform(*self.scale)
        factor = min(scale / height, scale / width)
        after = max(round(height * factor), 1), max(round(width * factor), 1)
        shift = rng.random()
        top, left = round(max(after[0] - side, 0) * shift), round(max(after[1] - side, 0) * shift)
        steps: list[Step] = [Flip(width)] if flipped else []
        steps += _resize_and_crop((height, width), after, top=top, left=left, height=side, width=side)
        if min(after) < side:
            steps.append(Pad(side, side, self.fill))
        return DetectionView(steps=tuple(steps), size=(side, side), boxes_of_masks=True)


@dataclass(frozen=True, kw_only=True)
class MultiScale:
    """Perhaps resize and crop, then resize to one of several short sides, and flip: the recipe of the sizes T, S and B.

    Attributes:
        short_sides: one of these is drawn, pixels.
        long_side: limit of the long side.
        crop: chance of a crop before that.
        crop_short_sides: short side that the image has when it is cropped; one is drawn. No limit of the long side.
        crop_range: height and width of the crop are drawn from this range, as far as the image has so much.
        flip: chance of a horizontal flip.

    Raises:
        ValueError: a value outside its range.
    """

    short_sides: Sequence[int] = tuple(range(480, 801, 32))
    long_side: int = 1333
    crop: float = 0.5
    crop_short_sides: Sequence[int] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name in ("short_sides", "crop_short_sides"):
            if not getattr(self, name):
                raise ValueError(f"{name}=(): give at least one short side in pixels; published are {_PUBLISHED[name]}")
            for side in getattr(self, name):
                _check_side(name, side)
        _check_side("long_side", self.long_side)
        _check_chance("crop", self.crop)
        _check_chance("flip", self.flip)
        if not 1 <= self.crop_range[0] <= self.crop_range[1]:
            raise ValueError(
                f"crop_range={tuple(self.crop_range)}: a range needs 1 <= low <= high; published is (384, 600)"
            )

    def draw(self, height: int, width: int, rng: np.random.Generator) -> DetectionView:
        """See DetectionTransform."""
        size, steps = (height, width), list[Step]()
        if rng.random() < self.crop:
            after = resized_size(size, int(rng.choice(self.crop_short_sides)), NO_LIMIT)
            low, high = self.crop_range
            cut = [int(rng.integers(min(side, low), min(side, high) + 1)) for side in after]
            top, left = (int(rng.integers(side - part + 1)) for side, part in zip(after, cut))
            steps += _resize_and_crop(size, after, top=top, left=left, height=cut[0], width=cut[1])
            size = (cut[0], cut[1])
        after = resized_size(size, int(rng.choice(self.short_sides)), self.long_side)
        steps.append(Resize(size, after))
        if rng.random() < self.flip:
            steps.append(Flip(after[1]))
        return DetectionView(steps=tuple(steps), size=after)


@dataclass(frozen=True, kw_only=True)
class ShortestEdge:
    """Resize to a short side, or to the limit of the long one: the view of the evaluation.

    Attributes:
        short_side: pixels.
        long_side: limit of the long side.

    Raises:
        ValueError: a value outside its range.
    """

    short_side: int = 800
    long_side: int = 1333

    def __post_init__(self) -> None:
        _check_side("short_side", self.short_side)
        _check_side("long_side", self.long_side)

    def draw(self, height: int, width: int, rng: np.random.Generator | None = None) -> DetectionView:
        """See DetectionTransform; nothing is random."""
        after = resized_size((height, width), self.short_side, self.long_side)
        return DetectionView(steps=(Resize((height, width), after),), size=after)


_PUBLISHED = {"short_sides": "480, 512, ..., 800", "crop_short_sides": "400, 500 and 600"}


def _resize_and_crop(
    before: tuple[int, int], after: tuple[int, int], *, top: int, left: int, height: int, width: int
) -> list[Step]:
    """Resize, and cut out what there is of a box; columns that are cut away are not resized down."""
    height, width = min(height, after[0] - top), min(width, after[1] - left)
    if width < after[1]:
        return [Resize(before, after, left=left, columns=width), Crop(top, 0, height, width)]
    return [Resize(before, after), Crop(top, 0, height, width)]


def _check_side(name: str, side: int) -> None:
    if side < 1:
        raise ValueError(f"{name}={side}: must be at least 1 pixel")


def _check_chance(name: str, chance: float) -> None:
    if not 0 <= chance <= 1:
        raise ValueError(f"{name}={chance}: a probability lies in [0, 1]; set it to 0 to switch this off")
