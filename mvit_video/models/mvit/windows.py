"""Windows of an image's tokens: cut out of the map by a reshape, and put back."""

import torch.nn.functional as F
from torch import Tensor

from mvit_video.models.config import Triple


def cut_windows(tokens: Tensor, grid: Triple, window: Triple) -> Tensor:
    """The tokens of each window, with windows as further samples.

    The map is padded with zeros at the bottom and right to whole windows. They take part in attention like any token,
    as published (detectron2 modeling/backbone/utils.py, window_partition).

    Args:
        tokens: (B, H*W, heads, c) on the grid (1, H, W).
        window: (1, h, w).

    Returns:
        (B * windows, h*w, heads, c); a sample's windows follow each other row by row.
    """
    (_, height, width), (_, h, w) = grid, window
    maps = tokens.unflatten(1, (height, width))
    below, beside = -height % h, -width % w
    if below or beside:
        maps = F.pad(maps, (0, 0, 0, 0, 0, beside, 0, below))
    cut = maps.unflatten(2, (-1, w)).unflatten(1, (-1, h))  # (B, rows, h, columns, w, heads, c)
    return cut.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join_windows(tokens: Tensor, grid: Triple, window: Triple) -> Tensor:
    """The map (B, H*W, C) of windows (B * windows, h*w, C); the padding of :func:`cut_windows` is dropped."""
    (_, height, width), (_, h, w) = grid, window
    rows, columns = -(-height // h), -(-width // w)
    maps = tokens.unflatten(1, (h, w)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return maps.flatten(3, 4).flatten(1, 2)[:, :height, :width].flatten(1, 2)
