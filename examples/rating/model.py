"""An own model: any nn.Module that takes normalised clips (B, 3, T, H, W)."""

import torch
from torch import nn


class SmallNet(nn.Module):
    """Three convolutions over space and time.

    Args:
        width: channels of the first convolution. An own option: `model.width=16` on the command line.
    """

    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, width, 3, stride=(1, 2, 2), padding=1),
            nn.ReLU(),
            nn.Conv3d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 1),
        )

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Ratings (B,) of clips (B, 3, T, H, W)."""
        return self.layers(clips)[:, 0]
