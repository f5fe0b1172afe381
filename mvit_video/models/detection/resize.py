"""Resizing images for detection, as published detectors were tested."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resized_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """Height and width with that short side, or with the long side at its limit; halves are rounded up.

    480 x 640 becomes 800 x 1067 (detectron2 data/transforms/augmentation_impl.py, ResizeShortestEdge).
    """
    height, width = size
    scale = short_side / min(height, width)
    new = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(new) > long_side:
        shrink = long_side / max(new)
        new = (new[0] * shrink, new[1] * shrink)
    return int(new[0] + 0.5), int(new[1] + 0.5)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (3, H, W) with values 0 to 255 at another size, as Pillow's bilinear filter makes it: float32.

    Pillow averages over the pixels that a new pixel covers, along rows and then along columns, and rounds to whole
    values after each. Values stay where the size is the same.
    """
    image = image.to(torch.float32)
    if tuple(image.shape[-2:]) == size:
        return image
    for target in ((image.shape[-2], size[1]), size):
        if tuple(image.shape[-2:]) != target:
            wide = F.interpolate(image[None], size=target, mode="bilinear", align_corners=False, antialias=True)[0]
            image = torch.floor(wide + 0.5).clamp(0, 255)
    return image
