"""Boxes (x1, y1, x2, y2): offsets between them, matching with what was annotated, and sampling."""

import math

import torch
from torch import Tensor

LARGEST_GROWTH = math.log(1000.0 / 16)
"""Limit of the logarithm by which a width or height may grow in decoding."""

Weights = tuple[float, float, float, float]


def encode(boxes: Tensor, targets: Tensor, weights: Weights) -> Tensor:
    """Offsets (dx, dy, dw, dh), times the weights, from boxes (N, 4) to targets (N, 4)."""
    centres, sides = _centres(boxes), boxes[:, 2:] - boxes[:, :2]
    target_centres, target_sides = _centres(targets), targets[:, 2:] - targets[:, :2]
    offsets = torch.cat([(target_centres - centres) / sides, torch.log(target_sides / sides)], dim=1)
    return offsets * offsets.new_tensor(weights)


def decode(deltas: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
    """Boxes (N, k, 4) that offsets (N, k * 4) make of boxes (N, 4).

    In float32 whatever the dtype of the offsets (float64 stays), and growth limited by LARGEST_GROWTH (detectron2
    modeling/box_regression.py).
    """
    wide = torch.promote_types(deltas.dtype, torch.float32)
    boxes = boxes.to(wide)
    deltas = deltas.to(wide).unflatten(1, (-1, 4)) / deltas.new_tensor(weights, dtype=wide)
    centres, sides = _centres(boxes)[:, None], (boxes[:, 2:] - boxes[:, :2])[:, None]
    centres = deltas[..., :2] * sides + centres
    sides = deltas[..., 2:].clamp(max=LARGEST_GROWTH).exp() * sides
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def _centres(boxes: Tensor) -> Tensor:
    return boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]) / 2


def is_nonempty(boxes: Tensor) -> Tensor:
    """Whether width and height of boxes (N, 4) are above zero: bool (N)."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def match(iou: Tensor, *, low: float, high: float, best_of_each: bool) -> tuple[Tensor, Tensor]:
    """The annotated box of each candidate, and whether the candidate counts as one.

    Args:
        iou: (annotated, candidates).
        low, high: below `low` a candidate is negative, from `high` on positive, between them ignored.
        best_of_each: the candidates that an annotated box overlaps most (all of them at a tie) are positive, too; they
            stay matched to the annotated box that they overlap most themselves. An annotated box that overlaps no
            candidate ties at 0 with all that do not overlap it, as published.

    Returns:
        Index of the annotated box of each candidate (0 without any), and 1, 0 or -1 (ignored): both int64 (candidates).
    """
    if not iou.shape[0]:
        zeros = torch.zeros(iou.shape[1], dtype=torch.int64, device=iou.device)
        return zeros, zeros.clone()
    overlap, matches = iou.max(dim=0)
    labels = (overlap >= high).long() - ((overlap >= low) & (overlap < high)).long()
    if best_of_each:
        labels[(iou == iou.max(dim=1, keepdim=True).values).any(dim=0)] = 1
    return matches, labels


def sample(positive: Tensor, negative: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices of up to `count` candidates drawn at random: positive ones, at most that share, filled with negatives.

    Args:
        positive, negative: bool (candidates).
    """
    positives, negatives = positive.nonzero().flatten(), negative.nonzero().flatten()
    of_positives = min(len(positives), int(count * share))
    of_negatives = min(len(negatives), count - of_positives)
    drawn = [
        indices[torch.randperm(len(indices), device=indices.device)[:number]]
        for indices, number in ((positives, of_positives), (negatives, of_negatives))
    ]
    return drawn[0], drawn[1]
