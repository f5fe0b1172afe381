"""Masks of boxes: targets of the mask head, and its answers pasted into the image."""

import math
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

TARGET_SIDE = 28


@runtime_checkable
class InstanceMasks(Protocol):
    """The annotated masks of an image in another form than bitmaps, such as polygons.

    Published detectors were trained on polygons that are shifted and scaled into the box and drawn there.
    """

    def crop(self, boxes: Tensor, instances: Tensor, side: int) -> Tensor:
        """The masks of instances (n) in boxes (n, 4) at side x side: bool (n, side, side), on any device."""


def mask_targets(masks: Tensor | InstanceMasks, boxes: Tensor, instances: Tensor) -> Tensor:
    """What the mask head shall answer in boxes: float32 (n, 28, 28) of zeros and ones.

    Bitmaps are averaged over each cell and cut at one half (detectron2 structures/masks.py, BitMasks).

    Args:
        masks: bitmaps of an image (instances, H, W), or another form of them.
        boxes: (n, 4).
        instances: index of the mask of each box, int64 (n).
    """
    if isinstance(masks, Tensor):
        rois = torch.cat([instances[:, None].to(torch.float32), boxes.to(torch.float32)], dim=1)
        bitmaps = masks.to(torch.float32)[:, None]
        cut: Tensor = roi_align(bitmaps, rois, TARGET_SIDE, spatial_scale=1.0, sampling_ratio=0, aligned=True)
        return (cut[:, 0] >= 0.5).float()
    return masks.crop(boxes, instances, TARGET_SIDE).to(boxes.device, torch.float32)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, m, m) of probabilities, stretched over their boxes (n, 4) in an image: bool (n, H, W).

    Bilinear at the centres of the pixels, zero outside of the box, true from one half on (detectron2
    layers/mask_ops.py). Only the surroundings of a box are computed.
    """
    height, width = size
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    for mask, box, out, (x1, y1, x2, y2) in zip(masks, boxes, pasted, boxes.tolist(), strict=True):
        left, top = max(math.floor(x1) - 1, 0), max(math.floor(y1) - 1, 0)
        right, bottom = min(math.ceil(x2) + 1, width), min(math.ceil(y2) + 1, height)
        if right <= left or bottom <= top:
            continue
        x = torch.arange(left, right, dtype=torch.float32, device=masks.device) + 0.5
        y = torch.arange(top, bottom, dtype=torch.float32, device=masks.device) + 0.5
        x = (x - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (y - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        sampled = F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)
        out[top:bottom, left:right] = sampled[0, 0] >= 0.5
    return pasted
