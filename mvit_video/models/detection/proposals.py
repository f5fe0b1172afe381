"""Region proposals (arXiv 1506.01497): which anchors hold an object, and where its box is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from mvit_video.models.detection.anchors import RATIOS, anchors_of
from mvit_video.models.detection.boxes import Weights, decode, encode, is_nonempty, match, sample
from mvit_video.models.detection.config import DetectorConfig

Size = tuple[int, int]
"""Height and width of an image in pixels."""

ANCHOR_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)
NMS_THRESHOLD = 0.7
POSITIVE_SHARE = 0.5


class ProposalHead(nn.Module):
    """One or two 3 x 3 convolutions, then objectness and offsets of the anchors of each place; shared by the levels."""

    def __init__(self, channels: int, convs: int) -> None:
        super().__init__()
        made = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs)]
        self.conv: nn.Module = made[0]
        if convs > 1:
            self.conv = nn.Module()
            for index, conv in enumerate(made):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = nn.Conv2d(channels, len(RATIOS), 1)
        self.anchor_deltas = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> logits (B, h*w*3) and offsets (B, h*w*3, 4), as the anchors; float32 or wider."""
        convs = [self.conv] if isinstance(self.conv, nn.Conv2d) else list(self.conv.children())
        for conv in convs:
            level = F.relu(conv(level))
        logits = self.objectness_logits(level).permute(0, 2, 3, 1).flatten(1)
        deltas = self.anchor_deltas(level).permute(0, 2, 3, 1).unflatten(-1, (-1, 4)).flatten(1, 3)
        return (logits, deltas) if logits.dtype.itemsize >= 4 else (logits.float(), deltas.float())


@dataclass
class Scored:
    """Objectness and offsets of all anchors, and the anchors."""

    logits: list[Tensor]
    """Of each level (B, anchors)."""
    deltas: list[Tensor]
    """Of each level (B, anchors, 4)."""
    anchors: Tensor
    """(all anchors, 4), level after level."""


class ProposalGenerator(nn.Module):
    """Proposals of an image, and the losses that train them (detectron2 modeling/proposal_generator)."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.rpn_head = ProposalHead(config.channels, 2 if config.is_cascade else 1)

    def forward(self, levels: Sequence[Tensor]) -> Scored:
        """Score the anchors of p2 to p6."""
        logits, deltas = zip(*(self.rpn_head(level) for level in levels))
        grids = [(level.shape[-2], level.shape[-1]) for level in levels]
        anchors = anchors_of(grids, self.config.anchor_sides, levels[0].device)
        return Scored(list(logits), list(deltas), anchors)

    @torch.no_grad()
    def proposals(self, scored: Scored, sizes: Sequence[Size]) -> list[Tensor]:
        """The best boxes of each image (n, 4), best first.

        Of each level the best by logit are decoded and clipped to the image; empty ones are dropped. Suppression is
        within levels; the best of all levels remain.
        """
        config = self.config
        most = config.proposals_per_level_train if self.training else config.proposals_per_level_test
        counts = [level.shape[1] for level in scored.logits]
        boxes, scores, levels = [], [], []
        for index, anchors in enumerate(scored.anchors.split(counts)):
            logits, deltas = scored.logits[index], scored.deltas[index]
            best, places = logits.topk(min(most, counts[index]), dim=1)
            chosen = deltas.gather(1, places[..., None].expand(-1, -1, 4))
            decoded = decode(chosen.flatten(0, 1), anchors[places].flatten(0, 1), ANCHOR_WEIGHTS)
            boxes.append(decoded.view(*places.shape, 4))
            scores.append(best)
            levels.append(torch.full_like(places[0], index))
        return [
            self._best(own_boxes, own_scores, torch.cat(levels), size)
            for own_boxes, own_scores, size in zip(torch.cat(boxes, 1), torch.cat(scores, 1), sizes, strict=True)
        ]

    def _best(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: Size) -> Tensor:
        finite = boxes.isfinite().all(dim=1) & scores.isfinite()
        boxes = clip_boxes_to_image(boxes, size)
        kept = finite & is_nonempty(boxes)
        boxes, scores, levels = boxes[kept], scores[kept], levels[kept]
        return boxes[batched_nms(boxes, scores.to(boxes.dtype), levels, NMS_THRESHOLD)[: self.config.proposals]]

    def losses(self, scored: Scored, annotated: Sequence[Tensor]) -> dict[str, Tensor]:
        """Cross entropy of the sampled anchors and L1 of the positive ones, both over the number to be sampled.

        Args:
            annotated: boxes of each image (n, 4); crowds are not among them.
        """
        logits, deltas = torch.cat(scored.logits, dim=1), torch.cat(scored.deltas, dim=1)
        classes, boxes = logits.new_zeros(()), logits.new_zeros(())
        for own_logits, own_deltas, own_boxes in zip(logits, deltas, annotated, strict=True):
            own_boxes = own_boxes.to(scored.anchors.dtype)
            matches, labels = match(box_iou(own_boxes, scored.anchors), low=0.3, high=0.7, best_of_each=True)
            positive, negative = sample(labels == 1, labels == 0, self.config.anchors_sampled, POSITIVE_SHARE)
            chosen = torch.cat([positive, negative])
            wanted = torch.zeros_like(chosen, dtype=logits.dtype)
            wanted[: len(positive)] = 1
            classes = classes + F.binary_cross_entropy_with_logits(own_logits[chosen], wanted, reduction="sum")
            if len(positive):
                offsets = encode(scored.anchors[positive], own_boxes[matches[positive]], ANCHOR_WEIGHTS)
                boxes = boxes + F.l1_loss(own_deltas[positive], offsets.to(deltas.dtype), reduction="sum")
            else:  # the offsets stay part of the graph, so that every process has every gradient
                boxes = boxes + own_deltas[:0].sum()
        norm = self.config.anchors_sampled * len(annotated)
        return {"loss_rpn_cls": classes / norm, "loss_rpn_loc": boxes / norm}
