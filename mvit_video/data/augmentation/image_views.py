"""From a decoded image to what the model sees: the ImageNet pipeline, as published.

Training follows facebookresearch/mvit (mvit/datasets/transform.py) and timm (data/transforms_factory.py): random
resized crop, flip, RandAugment on what was cut, colour jitter, erasing. The operations, draws and boxes are those of
clips; what differs is the order, the filter (Pillow's, antialiased), and the colour that fills corners. Testing
resizes the short side and cuts the centre.

An image is a clip of one frame on its way: uint8 (1, H, W, 3).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mvit_video.data.augmentation.image_ops import (
    EXACT_BY_PILLOW,
    PILLOW_FILTERS,
    QUICK_BY_PILLOW,
    Colour,
    Interpolation,
    on_gpu,
)
from mvit_video.data.augmentation.randaugment import OpDraw, RandAugment, apply_ops, parse_spec
from mvit_video.data.augmentation.transforms import Box, erase_box, random_resized_crop_box, short_side_size

ERASE_TRIES = 10
_JITTERED = ("Brightness", "Contrast", "Color")


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How pixels are made of pixels.

    Attributes:
        interpolation: filter.
        exact: to the last bit as Pillow, on a CPU; else resizing takes a ninth of the time, and some values are
            off by a grey level or two. On a GPU nothing is exact.
        fill: colour of the corners that a geometric operation leaves empty.
    """

    interpolation: Interpolation = "bicubic"
    exact: bool = True
    fill: Colour = (124, 116, 104)

    @property
    def by_pillow(self) -> frozenset[str]:
        """Operations that are left to Pillow."""
        return EXACT_BY_PILLOW if self.exact else QUICK_BY_PILLOW

    def __post_init__(self) -> None:
        if self.interpolation not in PILLOW_FILTERS:
            raise ValueError(f"interpolation={self.interpolation!r}: must be one of {', '.join(PILLOW_FILTERS)}")

    def resize(self, frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Antialiased resize of uint8 (T, H, W, 3) frames; `frames` itself if the size is already right."""
        if frames.shape[1:3] == (height, width):
            return frames
        if self.exact and not on_gpu(frames):
            return _by_pillow(frames, lambda image: image.resize((width, height), PILLOW_FILTERS[self.interpolation]))
        planes = frames.permute(0, 3, 1, 2)
        if on_gpu(frames):
            planes = planes.float()
        made = F.interpolate(planes, (height, width), mode=self.interpolation, align_corners=False, antialias=True)
        if made.dtype != torch.uint8:
            made = made.round_().clamp_(0, 255).to(torch.uint8)
        return made.permute(0, 2, 3, 1)

    def resize_columns(self, frames: torch.Tensor, height: int, width: int, *, left: int, columns: int) -> torch.Tensor:
        """What `resize` gives, cut to columns left .. left + columns - 1."""
        rows_first = _resizes_rows_first((frames.shape[1], frames.shape[2]), (height, width))
        if self.exact and not on_gpu(frames) and rows_first and 0 <= left < left + columns < width:

            def resized(image: Image.Image) -> Image.Image:
                # Pillow rounds after the rows; what is cut away then need not be resized down the columns.
                rows = image.resize((width, image.height), PILLOW_FILTERS[self.interpolation])
                kept = rows.crop((left, 0, left + columns, image.height))
                return kept.resize((columns, height), PILLOW_FILTERS[self.interpolation])

            return _by_pillow(frames, resized)
        return self.resize(frames, height, width)[:, :, left : left + columns]


def _resizes_rows_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether Pillow resizes along rows before columns, whatever its version, from one (height, width) to another.

    Until 12 it always does; 13 takes columns first where that leaves less to do, as in images over twice as high as
    wide that shrink. In between it rounds, so that the order is seen in the result.
    """
    lost_rows, lost_columns = before[0] - after[0], before[1] - after[1]
    return lost_rows <= max(0, 2 * lost_columns)


def _by_pillow(frames: torch.Tensor, change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    """uint8 (T, H, W, 3) frames, each changed as an image of Pillow."""
    images = (change(Image.fromarray(np.ascontiguousarray(frame))) for frame in frames.numpy())
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


def fill_colour(mean: Sequence[float]) -> Colour:
    """The rounded mean, which fills corners as in timm: (124, 116, 104) for ImageNet's."""
    red, green, blue = (min(255, round(255 * value)) for value in mean)
    return red, green, blue


@dataclass(frozen=True, kw_only=True)
class ImageViewDraw:
    """One training view of an image as plain numbers: what to do with it, in this order.

    Attributes:
        box: (top, left, height, width) that is cut out.
        crop_size: side of the square that it is resized to.
        flip: left and right are swapped.
        ops: RandAugment and colour jitter on that.
        erase: (top, left, height, width) of the box in the finished view that is filled with noise; zeros for none.
        resampling: how.
    """

    box: Box
    crop_size: int
    flip: bool
    ops: tuple[OpDraw, ...]
    erase: Box
    resampling: Resampling

    def begin(self, frames: torch.Tensor) -> torch.Tensor:
        """The image as it is: views have nothing in common."""
        return frames

    def finish(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (1, crop_size, crop_size, 3), but for the erasing."""
        how = self.resampling
        top, left, height, width = self.box
        view = how.resize(frames[:, top : top + height, left : left + width], self.crop_size, self.crop_size)
        if self.flip:
            view = view.flip(2)
        if self.ops:
            view = apply_ops(view, self.ops, fill=how.fill, interpolation=how.interpolation, by_pillow=how.by_pillow)
        return view.contiguous()


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """Random view of a training image.

    Attributes:
        crop_size: side of the square view in pixels.
        scale: range of the area of the crop, as a share of the image.
        ratio: range of its aspect ratio, width / height.
        flip: chance of a horizontal flip.
        randaugment: configuration string such as "rand-m9-n6-mstd0.5-inc1"; None for none.
        color_jitter: brightness, contrast and saturation are multiplied by U(max(0, 1 - j), 1 + j), in random order.
        erase_prob: chance of an erasing box.
        resampling: how pixels are made of pixels.

    Raises:
        ValueError: a value outside its range.
    """

    crop_size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    randaugment: str | None = None
    color_jitter: float = 0.0
    erase_prob: float = 0.0
    resampling: Resampling = Resampling()

    def __post_init__(self) -> None:
        if self.crop_size < 1:
            raise ValueError(f"crop_size={self.crop_size}: must be at least 1 pixel; 224 is the published crop")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}=({low}, {high}): a range needs 0 < low <= high; swap or correct its ends")
        if self.scale[1] > 1:
            raise ValueError(f"scale={tuple(self.scale)}: a crop is at most the whole image; lower the upper end to 1")
        for name in ("flip", "erase_prob"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: a probability lies in [0, 1]; set it to 0 to switch this off")
        if not 0 <= self.color_jitter < math.inf:
            raise ValueError(f"color_jitter={self.color_jitter}: must not be negative; 0 switches it off")
        if self.randaugment is not None:
            parse_spec(self.randaugment)

    def decoded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that views are drawn for: those of the image."""
        return height, width

    def draw(self, height: int, width: int, rng: np.random.Generator) -> ImageViewDraw:
        """A random view of an image of `height` x `width` pixels."""
        size = self.crop_size
        box = random_resized_crop_box(height, width, scale=self.scale, ratio=self.ratio, rng=rng)
        flip = bool(rng.random() < self.flip)
        ops = [] if self.randaugment is None else RandAugment(self.randaugment).draw(rng, size, size)
        return ImageViewDraw(
            box=box,
            crop_size=size,
            flip=flip,
            ops=(*ops, *self._draw_jitter(rng)),
            erase=erase_box(size, size, prob=self.erase_prob, rng=rng, tries=ERASE_TRIES),
            resampling=self.resampling,
        )

    def _draw_jitter(self, rng: np.random.Generator) -> list[OpDraw]:
        """Colour jitter as operations (torchvision's ColorJitter without hue)."""
        if not self.color_jitter:
            return []
        low, high = max(0.0, 1 - self.color_jitter), 1 + self.color_jitter
        factors = {name: float(rng.uniform(low, high)) for name in _JITTERED}
        order = [_JITTERED[place] for place in rng.permutation(len(_JITTERED))]
        return [OpDraw(name=name, magnitude=0.0, argument=factors[name]) for name in order]


@dataclass(frozen=True, kw_only=True)
class ImageEvalView:
    """The test view of an image as plain numbers.

    Attributes:
        scaled: (height, width) that the image is resized to.
        box: (top, left, size, size) cut from that.
        resampling: how.
    """

    scaled: tuple[int, int]
    box: Box
    resampling: Resampling

    def begin(self, frames: torch.Tensor) -> torch.Tensor:
        """The image's columns of the box, scaled."""
        return self.resampling.resize_columns(frames, *self.scaled, left=self.box[1], columns=self.box[3])

    def finish(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (1, size, size, 3) of what `begin` gave."""
        return frames[:, self.box[0] : self.box[0] + self.box[2]]


def image_eval_view(
    height: int, width: int, *, crop_size: int, crop_ratio: float, resampling: Resampling = Resampling()
) -> ImageEvalView:
    """The test view of an image of `height` x `width` pixels.

    Args:
        height, width: of the image.
        crop_size: side of the view.
        crop_ratio: the short side becomes crop_size / crop_ratio pixels, rounded down, and the centre is cut (0.875:
            256 pixels for 224). 0: the image is squashed to the square, and nothing is cut.
        resampling: how.
    """
    if crop_ratio == 0:
        return ImageEvalView(scaled=(crop_size, crop_size), box=(0, 0, crop_size, crop_size), resampling=resampling)
    scaled = short_side_size(height, width, math.floor(crop_size / crop_ratio))
    # As torchvision's CenterCrop: halves to the even number.
    top, left = round((scaled[0] - crop_size) / 2), round((scaled[1] - crop_size) / 2)
    return ImageEvalView(scaled=scaled, box=(top, left, crop_size, crop_size), resampling=resampling)
