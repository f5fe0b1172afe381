"""An own model: any nn.Module that gives logits (B, classes) for normalised clips (B, 3, T, H, W)."""

from itertools import pairwise

import torch
from torch import nn


class ConvNet(nn.Module):
    """Four convolutions over space and time.

    Args:
        num_classes: logits.
        width: channels of the first convolution, doubled by each of the others.
    """

    def __init__(self, num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv3d(before, after, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes) of clips (B, 3, T, H, W)."""
        return self.head(self.features(clips))
