"""Anchors: boxes of three shapes around every place of every level of the pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor

RATIOS = (0.5, 1.0, 2.0)
"""Height / width of the anchors of a place, in this order."""
STRIDES = (4, 8, 16, 32, 64)
"""Pixels between the places of p2 to p6; the places are the multiples, whatever the size of the image."""


def anchors_of(grids: Sequence[tuple[int, int]], sides: Sequence[float], device: torch.device | None = None) -> Tensor:
    """All anchors in the order level, row, column, ratio: float32 (places * 3, 4), neither rounded nor clipped.

    torchvision's AnchorGenerator rounds the shapes and derives the strides from the size of the padded image, which
    moves the anchors of p6 where p5 has an odd side; published weights know detectron2's
    (modeling/anchor_generator.py, offset 0).

    Args:
        grids: (rows, columns) of p2 to p6.
        sides: square root of the anchors' area on each level.
    """
    levels = []
    for (rows, columns), stride, side in zip(grids, STRIDES, sides, strict=True):
        shapes = shapes_of(side).to(device)
        y = torch.arange(rows, dtype=torch.float32, device=device) * stride
        x = torch.arange(columns, dtype=torch.float32, device=device) * stride
        y, x = torch.meshgrid(y, x, indexing="ij")
        places = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
        levels.append((places + shapes).view(-1, 4))
    return torch.cat(levels)


def shapes_of(side: float) -> Tensor:
    """The anchors of the place (0, 0): float32 (3, 4)."""
    widths = [(side * side / ratio) ** 0.5 for ratio in RATIOS]
    shapes = [(-w / 2, -w * ratio / 2, w / 2, w * ratio / 2) for w, ratio in zip(widths, RATIOS)]
    return torch.tensor(shapes, dtype=torch.float32)
