"""Classes, boxes and masks of proposals: Mask R-CNN (arXiv 1703.06870) and its cascade (arXiv 1906.09756)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from mvit_video.models.detection.boxes import Weights, decode, encode, is_nonempty, match, sample
from mvit_video.models.detection.config import DetectorConfig
from mvit_video.models.detection.heads import BoxHead, BoxPredictor, MaskHead
from mvit_video.models.detection.masks import InstanceMasks, mask_targets
from mvit_video.models.detection.pooling import pool_boxes
from mvit_video.models.detection.proposals import Size

STAGE_WEIGHTS: tuple[Weights, ...] = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
"""Weights of the offsets in each stage of a cascade; Mask R-CNN has the first."""
STAGE_IOU = (0.5, 0.6, 0.7)
"""Overlap from which a box is foreground in each stage."""
FOREGROUND_SHARE = 0.25


@dataclass
class Target:
    """What is annotated in an image; crowds are left out before."""

    boxes: Tensor
    """(n, 4)."""
    labels: Tensor
    """int64 (n), from 0."""
    masks: Tensor | InstanceMasks | None
    """None where they are not annotated."""


@dataclass
class Matched:
    """Boxes of an image with the instance that each is to find."""

    boxes: Tensor
    """(m, 4)."""
    labels: Tensor
    """int64 (m); the number of classes is background."""
    instances: Tensor
    """Index of the annotated instance, int64 (m); 0 where there is none."""

    def pick(self, chosen: Tensor) -> "Matched":
        return Matched(self.boxes[chosen], self.labels[chosen], self.instances[chosen])


class ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


class RoIHeads(nn.Module):
    """The heads on the features of boxes, in one stage or in a cascade of three."""

    box_head: nn.Module
    box_predictor: nn.Module

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        cascade = config.is_cascade
        self.stages = len(STAGE_IOU) if cascade else 1
        layers = {"convs": 4, "linears": 1} if cascade else {"convs": 0, "linears": 2}
        heads = [BoxHead(config.channels, config.hidden, **layers) for _ in range(self.stages)]
        predictors = [
            BoxPredictor(config.hidden, config.num_classes, class_agnostic=cascade) for _ in range(self.stages)
        ]
        self.box_head = nn.ModuleList(heads) if cascade else heads[0]
        self.box_predictor = nn.ModuleList(predictors) if cascade else predictors[0]
        self.mask_head = MaskHead(config.channels, config.num_classes, norm=cascade)

    def losses(
        self, levels: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target], sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """Losses of classes and boxes of every stage, and of the masks of the first stage's foreground."""
        sampled = [self._sample(boxes, target) for boxes, target in zip(proposals, targets, strict=True)]
        losses: dict[str, Tensor] = {}
        current = sampled
        for stage in range(self.stages):
            logits, deltas = self._run_stage(levels, [own.boxes for own in current], stage)
            suffix = f"_stage{stage}" if self.stages > 1 else ""
            named = {f"{name}{suffix}": loss for name, loss in _box_losses(logits, deltas, current, targets, stage)}
            losses |= named
            if stage + 1 < self.stages:
                refined = self._refined([own.boxes for own in current], deltas, stage, sizes)
                current = [
                    self._match(boxes[is_nonempty(boxes)], target, STAGE_IOU[stage + 1])
                    for boxes, target in zip(refined, targets, strict=True)
                ]
        losses["loss_mask"] = self._mask_loss(levels, sampled, targets)
        return losses

    def detect(
        self, levels: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size]
    ) -> list[dict[str, Tensor]]:
        """Boxes (n, 4), scores (n), labels (n) and mask probabilities (n, 28, 28) of each image, best first."""
        decoded, scores, _ = self.answers(levels, proposals, sizes)
        counts = [len(own) for own in proposals]
        found = [
            self._best(own_boxes, own_scores, size)
            for own_boxes, own_scores, size in zip(decoded.split(counts), scores.split(counts), sizes, strict=True)
        ]
        masks = self.masks(levels, [own["boxes"] for own in found], torch.cat([own["labels"] for own in found]))
        for own, own_masks in zip(found, masks.split([len(own["boxes"]) for own in found])):
            own["masks"] = own_masks
        return found

    def answers(
        self,
        levels: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[Size],
        *,
        instead: Sequence[Sequence[Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """What the box heads say of the proposals of all images, before any choice.

        Args:
            instead: of a cascade, the boxes that its second and third stage look at in place of the refined ones.

        Returns:
            Boxes (N, 1 or classes, 4), scores (N, classes + 1), and the refined boxes of each image after each stage
            but the last.
        """
        boxes, refined = list(proposals), []
        total: Tensor | None = None
        for stage in range(self.stages):
            logits, deltas = self._run_stage(levels, boxes, stage)
            scores = logits.softmax(dim=-1)
            total = scores if total is None else total + scores
            if stage + 1 < self.stages:
                refined.append(self._refined(boxes, deltas, stage, sizes))
                boxes = refined[-1] if instead is None else list(instead[stage])
        assert total is not None
        return decode(deltas, torch.cat(boxes), STAGE_WEIGHTS[self.stages - 1]), total / self.stages, refined

    def masks(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Probabilities (N, 28, 28) of the masks in the boxes (n, 4) of all images, for their labels (N)."""
        return _of_class(self.mask_head(self._pool(levels, boxes, MaskHead.SIDE)), labels).sigmoid()

    def _pool(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
        return pool_boxes(levels, boxes, side, canonical_side=self.config.canonical_side)

    def _run_stage(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], stage: int) -> tuple[Tensor, Tensor]:
        """Logits and offsets of the boxes of all images."""
        return self.run_head(self._pool(levels, boxes, BoxHead.SIDE), stage)

    def run_head(self, pooled: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Logits and offsets of a stage, of features (N, channels, 7, 7). The gradients of a cascade are averaged."""
        head, predictor = self.box_head, self.box_predictor
        if isinstance(head, nn.ModuleList) and isinstance(predictor, nn.ModuleList):
            head, predictor = head[stage], predictor[stage]
            pooled = ScaleGradient.apply(pooled, 1.0 / self.stages)
        logits, deltas = predictor(head(pooled))
        return logits, deltas

    def _refined(self, boxes: Sequence[Tensor], deltas: Tensor, stage: int, sizes: Sequence[Size]) -> list[Tensor]:
        """The boxes that a stage of a cascade answers, clipped, without gradient."""
        decoded = decode(deltas.detach(), torch.cat(list(boxes)), STAGE_WEIGHTS[stage])[:, 0]
        counts = [len(own) for own in boxes]
        return [clip_boxes_to_image(own, size) for own, size in zip(decoded.split(counts), sizes, strict=True)]

    def _match(self, boxes: Tensor, target: Target, iou: float) -> Matched:
        """Label boxes by the annotated box that they overlap most, from that overlap on."""
        overlaps = box_iou(target.boxes.to(boxes.dtype), boxes)
        instances, found = match(overlaps, low=iou, high=iou, best_of_each=False)
        labels = torch.full_like(instances, self.config.num_classes)
        if len(target.labels):
            labels = torch.where(found == 1, target.labels[instances], labels)
        return Matched(boxes, labels, instances)

    @torch.no_grad()
    def _sample(self, proposals: Tensor, target: Target) -> Matched:
        """Some of the proposals and annotated boxes: at most a quarter foreground, the rest background."""
        boxes = torch.cat([proposals, target.boxes.to(proposals.dtype)])
        matched = self._match(boxes, target, STAGE_IOU[0])
        foreground = matched.labels < self.config.num_classes
        chosen = sample(foreground, ~foreground, self.config.rois_sampled, FOREGROUND_SHARE)
        return matched.pick(torch.cat(chosen))

    def _mask_loss(self, levels: Sequence[Tensor], sampled: Sequence[Matched], targets: Sequence[Target]) -> Tensor:
        """Binary cross entropy of the masks of the foreground boxes, each for its own class."""
        foreground = [
            own.pick((own.labels < self.config.num_classes) & (target.masks is not None))
            for own, target in zip(sampled, targets, strict=True)
        ]
        logits = self.mask_head(self._pool(levels, [own.boxes for own in foreground], MaskHead.SIDE))
        if not len(logits):
            return logits.sum()
        wanted = torch.cat(
            [
                mask_targets(target.masks, own.boxes, own.instances)
                for own, target in zip(foreground, targets, strict=True)
                if target.masks is not None and len(own.boxes)
            ]
        )
        chosen = _of_class(logits, torch.cat([own.labels for own in foreground]))
        return F.binary_cross_entropy_with_logits(chosen, wanted.to(chosen.dtype))

    def _best(self, boxes: Tensor, scores: Tensor, size: Size) -> dict[str, Tensor]:
        """Suppression within each class of the boxes (n, k, 4) whose score (n, classes + 1) exceeds the threshold."""
        config = self.config
        finite = boxes.isfinite().flatten(1).all(dim=1) & scores.isfinite().all(dim=1)
        boxes, scores = clip_boxes_to_image(boxes[finite], size), scores[finite, :-1]
        rows, labels = (scores > config.score_threshold).nonzero(as_tuple=True)
        chosen = boxes[rows, 0] if boxes.shape[1] == 1 else boxes[rows, labels]
        scores = scores[rows, labels]
        kept = batched_nms(chosen, scores, labels, config.nms_threshold)[: config.detections_per_image]
        return {"boxes": chosen[kept], "scores": scores[kept], "labels": labels[kept]}


def _of_class(masks: Tensor, labels: Tensor) -> Tensor:
    """The mask of its class for each box: (N, classes, m, m) -> (N, m, m)."""
    return masks[torch.arange(len(labels), device=labels.device), labels]


def _box_losses(
    logits: Tensor, deltas: Tensor, matched: Sequence[Matched], targets: Sequence[Target], stage: int
) -> list[tuple[str, Tensor]]:
    """Cross entropy over all boxes, and L1 of the offsets of foreground boxes over the number of all boxes."""
    labels = torch.cat([own.labels for own in matched])
    if not len(labels):
        return [("loss_cls", logits.sum()), ("loss_box_reg", deltas.sum())]
    classes = F.cross_entropy(logits, labels)
    boxes = torch.cat([own.boxes for own in matched])
    wanted = torch.cat(
        [
            target.boxes.to(boxes.dtype)[own.instances] if len(target.boxes) else torch.zeros_like(own.boxes)
            for own, target in zip(matched, targets, strict=True)
        ]
    )
    background = logits.shape[1] - 1
    rows = (labels < background).nonzero().flatten()
    each = deltas.unflatten(1, (-1, 4))
    found = each[rows, 0] if each.shape[1] == 1 else each[rows, labels[rows]]
    offsets = encode(boxes[rows], wanted[rows], STAGE_WEIGHTS[stage]).to(found.dtype)
    return [("loss_cls", classes), ("loss_box_reg", F.l1_loss(found, offsets, reduction="sum") / len(labels))]
