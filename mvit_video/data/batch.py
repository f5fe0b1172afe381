"""What travels from a loader worker to the training loop: one decoded sample, and a batch of them."""

from dataclasses import dataclass, field
from typing import Literal

import torch

FrameOrder = Literal["forward", "reversed", "shuffled"]


@dataclass
class Sample:
    """One or more clips of one video, as a worker made them.

    Attributes:
        clips: uint8 (S, T, H, W, 3), S = augmentations (training) or views (evaluation) of the video.
        label: class index.
        video: index of the video in its manifest (of the replacement, if a broken video was replaced).
        views: int64 (S,), view number of each clip.
        erase: int32 (S, 4), box (top, left, height, width) to be filled with noise; height 0 = none.
        noise_seeds: int64 (S,), seed of each box's noise.
        path: file the clips came from.
        failures: (path, reason) of every file that could not be read for this sample.
        failed: True if no clip could be read at all; clips is then zeros (evaluation only).
        epoch: epoch the sample belongs to (training).
        position: its place in the epoch's order (training).
    """

    clips: torch.Tensor
    label: int
    video: int
    views: torch.Tensor
    erase: torch.Tensor
    noise_seeds: torch.Tensor
    path: str
    failures: list[tuple[str, str]] = field(default_factory=list)
    failed: bool = False
    epoch: int = 0
    position: int = 0


@dataclass
class Batch:
    """Clips of several videos; the clips of one video lie next to each other.

    Attributes:
        clips: uint8 (B, T, H, W, 3).
        labels: int64 (B,).
        videos: int64 (B,), index of each clip's video in its manifest.
        views: int64 (B,), view number of each clip.
        erase: int32 (B, 4), (top, left, height, width) of the box to erase; height 0 = none.
        noise_seeds: int64 (B,).
        failed: bool (B,), clips that could not be read (evaluation only).
        paths: file of each clip.
        failures: (path, reason) of every file that could not be read.
        position: place of the batch's first video in its epoch's order: the key of the batch-wide random draws, the
            same whichever rank or worker made the batch.
        epoch: epoch the batch belongs to.
    """

    clips: torch.Tensor
    labels: torch.Tensor
    videos: torch.Tensor
    views: torch.Tensor
    erase: torch.Tensor
    noise_seeds: torch.Tensor
    failed: torch.Tensor
    paths: list[str]
    failures: list[tuple[str, str]]
    position: int = 0
    epoch: int = 0

    def to(self, device: torch.device) -> "Batch":
        """The batch with clips and labels on `device` (asynchronously from pinned memory).

        Erase boxes and seeds stay: they are read by the host, which would wait for the device.
        """
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("clips", "labels", "erase")}
        return Batch(**{**self.__dict__, **moved})

    def pin_memory(self) -> "Batch":
        """The batch with its tensors in page-locked memory; called by the DataLoader."""
        for name in ("clips", "labels"):
            setattr(self, name, getattr(self, name).pin_memory())
        return self
