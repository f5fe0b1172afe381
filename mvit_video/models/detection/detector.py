"""Mask R-CNN and Cascade Mask R-CNN on MViTv2, from pixels to boxes and masks."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from mvit_video.models.detection.batch_norm import Total, synchronise
from mvit_video.models.detection.block_model import DetectorBlocks
from mvit_video.models.detection.boxes import is_nonempty
from mvit_video.models.detection.config import DetectorConfig, get_detector_config
from mvit_video.models.detection.examination import Examination, examine
from mvit_video.models.detection.masks import InstanceMasks, paste_masks
from mvit_video.models.detection.proposals import ProposalGenerator
from mvit_video.models.detection.pyramid import COARSEST_STRIDE, Backbone
from mvit_video.models.detection.resize import resize_image, resized_size
from mvit_video.models.detection.roi_heads import RoIHeads, Target
from mvit_video.models.detection.weights import load_into
from mvit_video.models.weights.conversion import LoadReport, Rules
from mvit_video.models.weights.files import WeightsFile

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class Detections(TypedDict):
    """What is found in an image, best first."""

    boxes: Tensor
    """(n, 4): x1, y1, x2, y2 in pixels of the image."""
    scores: Tensor
    """(n), rising to 1."""
    labels: Tensor
    """int64 (n): classes from 0."""
    masks: Tensor
    """bool (n, H, W)."""


class Detector(nn.Module):
    """Finds boxes, classes and masks of objects. Parameters have detectron2's names and shapes.

    In detection everything runs in float32, whatever autocast is in force, and images of different sizes do not share a
    batch: a detector sees the zeros around an image, so what it finds would depend on its neighbours.
    """

    mean: Tensor
    std: Tensor
    needs_float32_weights = True
    """Sharded ranks must gather them as they are, and not in bf16: detection has no autocast that would cast inputs."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, config.channels)
        self.proposal_generator = ProposalGenerator(config)
        self.roi_heads = RoIHeads(config)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Detections] | dict[str, Tensor]:
        """Detections of images, or, with targets, the losses of a training step.

        Args:
            images: RGB, (3, H, W) each, values 0 to 255, of any dtype and size. For detection they are resized here;
                in training they come at the size that the augmentation gave them.
            targets: of each image `boxes` (n, 4) as x1, y1, x2, y2 in its pixels, `labels` int64 (n) from 0, and
                `masks`: bool (n, H, W), or an :class:`InstanceMasks`. An image without `masks` has no part in their
                loss. Crowds are left out before.

        Returns:
            Without targets :class:`Detections` of each image, in its own pixels. With targets the losses by
            detectron2's names, whose sum is minimised.

        Raises:
            ValueError: an image or target has another form, detection is asked of a model in training mode, or what it
                computes of an image is no number.
        """
        self._check_images(images)
        if targets is None:
            return self.detect(images)
        if len(targets) != len(images):
            raise ValueError(f"{len(images)} images with {len(targets)} targets: each image needs its own.")
        annotated = [self._target(target, image) for target, image in zip(targets, images)]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        levels = self.backbone.pyramid(self.backbone(self.batch(images)))
        scored = self.proposal_generator(levels)
        losses = self.proposal_generator.losses(scored, [target.boxes for target in annotated])
        proposals = self.proposal_generator.proposals(scored, sizes)
        losses |= self.roi_heads.losses(levels, proposals, annotated, sizes)
        return losses

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """:meth:`forward` without targets."""
        if self.training:
            raise ValueError("the detector is in training mode: call detector.eval() to detect, or pass targets.")
        with torch.autocast(self.mean.device.type, enabled=False):
            resized = [self._resized(image) for image in images]
            found: dict[int, Detections] = {}
            for indices in _same_padding(resized):
                for index, own in zip(indices, self._detect_batch([resized[i] for i in indices])):
                    found[index] = _to_pixels(own, resized[index], images[index])
        return [found[index] for index in range(len(images))]

    @torch.no_grad()
    def examine(self, image: Tensor, like: Examination | None = None) -> Examination:
        """What the heads answer for an image before anything is chosen: see :class:`Examination`.

        Args:
            image: as in :meth:`forward`.
            like: of another detector for the same image, whose proposals and labels are taken.

        Raises:
            ValueError: the detector is in training mode.
        """
        self._check_images([image])
        if self.training:
            raise ValueError("the detector is in training mode: call detector.eval() to examine it.")
        with torch.autocast(self.mean.device.type, enabled=False):
            resized = self._resized(image)
            levels = self.backbone.pyramid(self.backbone(self.batch([resized])))
            size = (resized.shape[-2], resized.shape[-1])
            return examine(self.proposal_generator, self.roi_heads, levels, size, like)

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """(B, 3, H, W): images normalised, and padded with zeros at the bottom and right to a multiple of 32."""
        height = max(image.shape[-2] for image in images)
        width = max(image.shape[-1] for image in images)
        height, width = (n + -n % COARSEST_STRIDE for n in (height, width))
        padded = []
        for image in images:
            normal = (image.to(self.mean) - self.mean) / self.std
            padded.append(F.pad(normal, (0, width - image.shape[-1], 0, height - image.shape[-2])))
        return torch.stack(padded)

    def take_weights(self, file: WeightsFile, rules: Rules) -> LoadReport:
        """Put a file's weights into this detector; :func:`mvit_video.models.load_weights` calls it.

        Raises:
            ValueError: names or shapes do not fit; the message lists them.
        """
        return load_into(self, self.backbone.bottom_up, file, rules)

    @property
    def knows_masks(self) -> bool:
        """Whether masks were ever learned: the last bias begins at zeros, and leaves them with the first mask."""
        bias = self.roi_heads.mask_head.predictor.bias
        return bias is not None and bool(bias.any())

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of its MViT, which sharded ranks divide one by one."""
        return self.backbone.bottom_up.blocks

    def block_model(self) -> DetectorBlocks:
        """What plans measure."""
        return DetectorBlocks(self, backbone=self.backbone, proposals=self.proposal_generator, heads=self.roi_heads)

    def synchronise(self, total: Total) -> None:
        """Let batch norms use the boxes of all processes; see :func:`mvit_video.models.detection.synchronise`.

        Args:
            total: sums a tensor over the processes, differentiably.
        """
        synchronise(self, total)

    def layer_ids(self) -> dict[str, int]:
        """Depth of every parameter, for layer-wise learning rates: the backbone's, all others one above."""
        inside = self.backbone.bottom_up.layer_ids()
        top = self.config.backbone.depth + 1
        prefix = "backbone.bottom_up."
        return {name: inside.get(name.removeprefix(prefix), top) for name, _ in self.named_parameters()}

    def _resized(self, image: Tensor) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        new = resized_size(size, self.config.short_side, self.config.long_side)
        return resize_image(image.to(self.mean.device), new)

    def _detect_batch(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        levels = self.backbone.pyramid(self.backbone(self.batch(images)))
        _check_finite(levels[-1])
        proposals = self.proposal_generator.proposals(self.proposal_generator(levels), sizes)
        return self.roi_heads.detect(levels, proposals, sizes)

    def _check_images(self, images: Sequence[Tensor]) -> None:
        if isinstance(images, Tensor) or not images:
            raise ValueError("a detector takes a list of images (3, H, W), at least one.")
        for image in images:
            if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
                raise ValueError(f"an image of shape {tuple(image.shape)}: a detector takes (3, H, W), RGB, 0 to 255.")

    def _target(self, target: Mapping[str, Any], image: Tensor) -> Target:
        missing = [name for name in ("boxes", "labels") if name not in target]
        if missing:
            raise ValueError(f"a target without {', '.join(missing)}: it needs boxes and labels.")
        device = self.mean.device
        boxes, labels, masks = target["boxes"].to(device).view(-1, 4), target["labels"].to(device), target.get("masks")
        if len(boxes) != len(labels) or (isinstance(masks, Tensor) and len(masks) != len(boxes)):
            raise ValueError(
                f"a target of {len(boxes)} boxes and {len(labels)} labels: every instance needs all of it."
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.config.num_classes:
            raise ValueError(
                f"labels from {int(labels.min())} to {int(labels.max())} for a detector of {self.config.num_classes} "
                "classes: they count from 0, without background."
            )
        if isinstance(masks, Tensor):
            if masks.shape[-2:] != image.shape[-2:] and len(masks):
                raise ValueError(f"masks of {tuple(masks.shape[-2:])} in an image of {tuple(image.shape[-2:])}.")
            masks = masks.to(device)
        elif masks is not None and not isinstance(masks, InstanceMasks):
            raise ValueError(f"masks of type {type(masks).__name__}: bitmaps (n, H, W), or an object with crop().")
        return Target(boxes, labels, masks)


def _check_finite(features: Tensor) -> None:
    """Refuse features (B, C, H, W) of an image that are no numbers throughout.

    Boxes and scores that are not finite are passed over, as published; without this, broken weights would find nothing
    in any image.
    """
    broken = ~features.isfinite().flatten(1).any(dim=1)
    if broken.any():
        raise ValueError(
            f"the detector's features of {int(broken.sum())} of {len(features)} images are not finite: its weights are "
            "broken, of a training that diverged, say; take an earlier checkpoint"
        )


def _same_padding(images: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the images that are padded to the same size, so that none sees another's padding."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        height, width = (n + -n % COARSEST_STRIDE for n in image.shape[-2:])
        groups.setdefault((height, width), []).append(index)
    return list(groups.values())


def _to_pixels(found: dict[str, Tensor], resized: Tensor, image: Tensor) -> Detections:
    """Detections in the resized image, in pixels of the image itself; boxes that become empty are dropped."""
    height, width = image.shape[-2:]
    scale_x, scale_y = width / resized.shape[-1], height / resized.shape[-2]
    boxes = found["boxes"].float() * found["boxes"].new_tensor([scale_x, scale_y, scale_x, scale_y]).float()
    boxes = clip_boxes_to_image(boxes, (height, width))
    kept = is_nonempty(boxes)
    return Detections(
        boxes=boxes[kept],
        scores=found["scores"][kept],
        labels=found["labels"][kept],
        masks=paste_masks(found["masks"][kept], boxes[kept], (height, width)),
    )


def create_detector(name: str, *, backbone: Mapping[str, object] | None = None, **overrides: object) -> Detector:
    """A freshly initialised detector; see :func:`mvit_video.models.detection.config.get_detector_config`.

    Raises:
        ValueError: no such detector, no such field, or an impossible value.
    """
    return Detector(get_detector_config(name, backbone=backbone, **overrides))
