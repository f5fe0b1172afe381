"""What the heads of a detector answer before anything is chosen: two detectors can be compared number by number.

What is found at last is a choice: of two boxes with nearly the same score either may stay. A difference in the last
digit can swap them, so that answers of the same model in another precision are compared before the choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from mvit_video.models.detection.proposals import ProposalGenerator, Size
from mvit_video.models.detection.roi_heads import RoIHeads

PROPOSALS = 50  # the best of an image; later ones are seldom objects


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Answers for an image, in pixels of the image as the detector resized it.

    Attributes:
        objectness: (anchors), rising to 1.
        offsets: (anchors, 4): of the boxes that anchors become, as shares of the anchor, and logarithms of them.
        proposals: (n, 4), the best ones.
        refined: of a cascade, what its first and second stage make of them, (n, 4) each.
        labels: int64 (n): the best class of each proposal, without background.
        scores: (n, classes + 1), the last of the background.
        boxes: (n, 4): what the box head makes of the proposals for these labels.
        masks: (n, 28, 28) in these boxes, rising to 1.
    """

    objectness: Tensor
    offsets: Tensor
    proposals: Tensor
    refined: tuple[Tensor, ...]
    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor


def examine(
    generator: ProposalGenerator, heads: RoIHeads, levels: Sequence[Tensor], size: Size, like: Examination | None
) -> Examination:
    """The answers of the heads of a detector, in eval mode.

    Args:
        generator, heads: of the detector.
        levels: features of one image.
        size: of the image, without padding.
        like: whose boxes and labels are asked about, at every stage; None: the detector's own.
    """
    scored = generator(levels)
    proposals = generator.proposals(scored, [size])[0][:PROPOSALS] if like is None else like.proposals
    instead = None if like is None else [[boxes] for boxes in like.refined]
    decoded, scores, refined = heads.answers(levels, [proposals], [size], instead=instead)
    labels = scores[:, :-1].argmax(dim=1) if like is None else like.labels
    each = decoded[:, 0] if decoded.shape[1] == 1 else decoded[torch.arange(len(labels)), labels]
    boxes = clip_boxes_to_image(each, size)
    return Examination(
        objectness=torch.cat(scored.logits, dim=1)[0].sigmoid(),
        offsets=torch.cat(scored.deltas, dim=1)[0],
        proposals=proposals,
        refined=tuple(own for (own,) in refined),
        labels=labels,
        scores=scores,
        boxes=boxes,
        masks=heads.masks(levels, [boxes if like is None else like.boxes], labels),
    )
