"""A small model that trains slowly as long as a test holds it: faults then meet a training that is not over."""

import time
from pathlib import Path

import torch
from torch import nn

HELD_STEP_S = 0.5


class HeldNet(nn.Module):
    """One convolution and dropout, whose draws a restart has to go on with.

    Args:
        num_classes: logits.
        released: path of a file. Until it exists each training step takes at least half a second, asleep.
    """

    def __init__(self, *, num_classes: int, released: str) -> None:
        super().__init__()
        self.released = Path(released)
        self.layers = nn.Sequential(
            nn.Conv3d(3, 8, 3, stride=2),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, num_classes),
        )

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if self.training and not self.released.exists():
            time.sleep(HELD_STEP_S)
        return self.layers(clips)


def held(released: Path) -> list[str]:
    """Options of this model on small clips."""
    return ["~model", f"+model={{_target_:{__name__}.HeldNet,num_classes:8,released:'{released}'}}"]
