"""The backbone of a detector: an MViT and the feature pyramid (arXiv 1612.03144) on its four stages."""

import torch.nn.functional as F
from torch import Tensor, nn

from mvit_video.models.config import MViTConfig
from mvit_video.models.mvit.network import MViT

COARSEST_STRIDE = 32
"""Images are padded to multiples of it, so that every map of the pyramid is twice as large as the next."""
_STAGES = (2, 3, 4, 5)


class Backbone(nn.Module):
    """MViT (`bottom_up`) and the convolutions of the feature pyramid, under detectron2's names.

    It computes what torchvision.ops.FeaturePyramidNetwork with LastLevelMaxPool does; that has other names.
    """

    def __init__(self, config: MViTConfig, channels: int) -> None:
        super().__init__()
        self.bottom_up = MViT(config)
        for stage in _STAGES:
            lateral = nn.Conv2d(config.embed_dim * 2 ** (stage - 2), channels, 1)
            output = nn.Conv2d(channels, channels, 3, padding=1)
            setattr(self, f"fpn_lateral{stage}", lateral)
            setattr(self, f"fpn_output{stage}", output)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the pyramid's weights anew: uniform by their fan-in, biases zero."""
        for stage in _STAGES:
            for name in ("lateral", "output"):
                conv = getattr(self, f"fpn_{name}{stage}")
                nn.init.kaiming_uniform_(conv.weight, a=1)
                nn.init.zeros_(conv.bias)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """The normed maps of the stages at strides 4, 8, 16, 32: {"scale2": (B, C, H/4, W/4), ..., "scale5": ...}.

        Args:
            batch: (B, 3, H, W), normalised (:meth:`mvit_video.models.detection.detector.Detector.batch`).
        """
        maps = self.bottom_up.forward_features(batch)
        return {name: stage.squeeze(2) for name, stage in zip(self.bottom_up.feature_names(), maps, strict=True)}

    def pyramid(self, features: dict[str, Tensor]) -> list[Tensor]:
        """p2 to p6, (B, channels, h, w), finest first, of the maps of :meth:`forward`."""
        levels: list[Tensor] = []
        coarser: Tensor | None = None
        for stage in reversed(_STAGES):
            lateral = getattr(self, f"fpn_lateral{stage}")(features[f"scale{stage}"])
            if coarser is not None:
                lateral = lateral + F.interpolate(coarser, size=lateral.shape[-2:], mode="nearest")
            coarser = lateral
            levels.insert(0, getattr(self, f"fpn_output{stage}")(lateral))
        levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels
