"""A detector as plans measure it: the blocks of its MViT, and pyramid and heads as what comes after them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mvit_video.models.config import MViTConfig, Triple
from mvit_video.models.detection.heads import BoxHead, MaskHead
from mvit_video.models.detection.proposals import ProposalGenerator
from mvit_video.models.detection.pyramid import Backbone
from mvit_video.models.detection.roi_heads import FOREGROUND_SHARE, RoIHeads


class DetectorBlocks:
    """A `BlockModel` of models/mvit/activation_checkpointing.py.

    What depends on the numbers in the images counts at its most: the box heads see all boxes that are sampled, and the
    mask head its share of foreground. Matching and sampling keep next to nothing and are left out.

    Args:
        detector: the whole.
        backbone, proposals, heads: its parts.
    """

    needs_float32_weights = True
    """As the detector's."""

    def __init__(
        self, detector: nn.Module, *, backbone: Backbone, proposals: ProposalGenerator, heads: RoIHeads
    ) -> None:
        self.detector = detector
        self.backbone = backbone
        self.proposals = proposals
        self.heads = heads
        self.body = backbone.bottom_up
        self._grid: Triple = (1, 0, 0)

    @property
    def training(self) -> bool:
        return self.detector.training

    @property
    def config(self) -> MViTConfig:
        """Of the MViT."""
        return self.body.config

    @property
    def blocks(self) -> nn.ModuleList:
        return self.body.blocks

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Of the whole detector."""
        return self.detector.parameters(recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Of the whole detector."""
        return self.detector.buffers(recurse)

    def embed(self, x: Tensor, /) -> tuple[Tensor, Triple]:
        """Tokens of images (B, 3, H, W), both sides multiples of 32."""
        tokens, self._grid = self.body.embed(x)
        return tokens, self._grid

    def is_cls_only(self, index: int, /) -> bool:
        return self.body.is_cls_only(index)

    def forward_head(self, tokens: Tensor, /) -> Tensor:
        """Norms of the stages, pyramid and heads; a scalar that depends on all of them.

        Args:
            tokens: of the last block; the maps of earlier stages are taken to be like them.
        """
        heads, config, images = self.heads, self.heads.config, tokens.shape[0]
        _, height, width = self._grid
        features = {}
        for stage, name in enumerate(self.body.feature_names()):
            rows, columns = height >> stage, width >> stage
            norm = getattr(self.body, f"{name}_norm")
            own = tokens
            if rows * columns != tokens.shape[1]:
                own = tokens.new_empty(images, rows * columns, norm.normalized_shape[0]).requires_grad_()
            features[name] = norm(own).transpose(1, 2).unflatten(2, (rows, columns))
        levels = self.backbone.pyramid(features)
        scored = self.proposals(levels)
        parts = [*scored.logits, *scored.deltas]
        boxes, sides = config.rois_sampled * images, (BoxHead.SIDE, MaskHead.SIDE)
        for stage in range(heads.stages):
            pooled = levels[0].new_empty(boxes, config.channels, sides[0], sides[0]).requires_grad_()
            parts += heads.run_head(pooled, stage)
        found = int(config.rois_sampled * FOREGROUND_SHARE) * images
        parts.append(heads.mask_head(levels[0].new_empty(found, config.channels, sides[1], sides[1]).requires_grad_()))
        return torch.stack([part.float().sum() for part in parts]).sum()
