"""Features of boxes, pooled from the level of the pyramid that suits their size."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

_STRIDES = (4, 8, 16, 32)


def levels_of(boxes: Tensor, canonical_side: int = 224) -> Tensor:
    """Index of the level (0 for p2 to 3 for p5) that boxes (N, 4) are pooled from: int64 (N).

    floor(4 + log2(sqrt(area) / canonical_side + 1e-8)), limited to 2 to 5 (detectron2 modeling/poolers.py).
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    levels = torch.floor(4 + torch.log2(area.sqrt() / canonical_side + 1e-8))
    return levels.clamp(2, 5).long() - 2


def pool_boxes(levels: Sequence[Tensor], boxes: Sequence[Tensor], side: int, *, canonical_side: int = 224) -> Tensor:
    """Features (all boxes, C, side, side), image after image.

    torchvision's MultiScaleRoIAlign reads half a pixel off what published weights were trained with; this is its
    roi_align with aligned=True and as many samples in each cell as it has pixels.

    Args:
        levels: p2 to p5 (p6 may follow), (B, C, h, w).
        boxes: of each image (n, 4), in pixels of the padded batch.
    """
    flat = torch.cat(list(boxes))
    images = torch.cat([torch.full_like(own[:, :1], index) for index, own in enumerate(boxes)])
    rois = torch.cat([images, flat], dim=1)
    chosen = levels_of(flat, canonical_side)
    pooled, order = [], []
    for index, stride in enumerate(_STRIDES):
        places = (chosen == index).nonzero().flatten()
        maps = levels[index]
        wide = maps if maps.dtype in (torch.float32, torch.float64) else maps.float()
        features: Tensor = roi_align(
            wide, rois[places].to(wide.dtype), side, spatial_scale=1 / stride, sampling_ratio=0, aligned=True
        )
        pooled.append(features.to(maps.dtype))
        order.append(places)
    back = torch.empty_like(chosen)
    back[torch.cat(order)] = torch.arange(len(flat), device=flat.device)
    return torch.cat(pooled)[back]
