"""Resizing images for detection, as published detectors were tested."""

import torch
from torch import Tensor

_BITS = 22
"""Fraction bits of Pillow's weights: 32 less 8 of the pixel and 2 of reserve."""


def resized_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """Height and width with that short side, or with the long side at its limit; halves are rounded up.

    480 x 640 becomes 800 x 1067 (detectron2 data/transforms/augmentation_impl.py, ResizeShortestEdge). A strip keeps a
    pixel where rounding would leave none.
    """
    height, width = size
    scale = short_side / min(height, width)
    high, wide = (short_side, scale * width) if height < width else (scale * height, short_side)
    shrink = min(long_side / max(high, wide), 1.0)
    return max(int(high * shrink + 0.5), 1), max(int(wide * shrink + 0.5), 1)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (3, H, W) of values 0 to 255 at another size, float32, to the bit as Pillow 13's bilinear filter has it.

    Pillow averages over the pixels that a new pixel covers, along rows and then along columns, in fixed-point numbers,
    and rounds to whole values after each. Published detectors see images made so; torch's own antialiased filter is up
    to 2 off. Since version 13 columns come first where rather rows than columns are lost, as in images over twice as
    high as wide that shrink. An image that has the size is left as it is.
    """
    if tuple(image.shape[-2:]) == size:
        return image.to(torch.float32)
    pixels = image if image.dtype == torch.uint8 else image.round().clamp(0, 255)
    pixels = pixels.to(torch.int32)
    lost_rows, lost_columns = pixels.shape[-2] - size[0], pixels.shape[-1] - size[1]
    columns_first = lost_rows > max(0, 2 * lost_columns)
    for axis in (-2, -1) if columns_first else (-1, -2):
        if pixels.shape[axis] != size[axis]:
            pixels = _filtered(pixels.transpose(axis, -1), size[axis]).transpose(axis, -1)
    return pixels.to(torch.float32)


def _filtered(pixels: Tensor, length: int) -> Tensor:
    """Pixels (..., n) of 0 to 255 on the last axis at another length, int32."""
    places, weights = _taps(pixels.shape[-1], length)
    places, weights = places.to(pixels.device), weights.to(pixels.device)
    total = torch.full((*pixels.shape[:-1], length), 1 << (_BITS - 1), dtype=torch.int32, device=pixels.device)
    for place, weight in zip(places, weights):
        total += pixels.index_select(-1, place) * weight
    return total >> _BITS


def _taps(length: int, new_length: int) -> tuple[Tensor, Tensor]:
    """The pixels that each new pixel averages, int64 (taps, new_length), and their weights in units of 2 ** -22, int32.

    A triangle as wide as two new pixels, or two old ones in enlarging, around the new pixel's centre; what reaches over
    the border is left out and the others are scaled up.
    """
    scale = length / new_length
    reach = max(scale, 1.0)
    centres = (torch.arange(new_length, dtype=torch.float64) + 0.5) * scale
    first = (centres - reach + 0.5).long().clamp(min=0)
    end = (centres + reach + 0.5).long().clamp(max=length)
    places = first + torch.arange(int((end - first).max()))[:, None]
    weights = (1 - ((places - centres + 0.5) / reach).abs()).clamp(min=0) * (places < end)
    weights = weights / weights.sum(0)
    return places.clamp(max=length - 1), (weights * (1 << _BITS) + 0.5).to(torch.int32)
