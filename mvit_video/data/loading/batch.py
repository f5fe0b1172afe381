"""What travels from a loader worker to the training loop: one decoded sample, and a batch of them."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from mvit_video.data.augmentation.clip_views import ClipSource
from mvit_video.data.loading.packed_clips import PackedClips

FrameOrder = Literal["forward", "reversed", "shuffled", "single"]


@dataclass
class Sample:
    """One or more clips of one video, as a worker made them.

    Attributes:
        clips: uint8 (S, T, H, W, 3), S = augmentations (training) or views (evaluation) of the video; empty if they are
            still to be made of `source`.
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
        source: frames and views that the clips are made of on the model's device; None if a worker made the clips.
        notes: (path, text) of what is worth knowing of files that could be read (evaluation only).
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
    source: ClipSource | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Batch:
    """Clips of several videos; the clips of one video lie next to each other.

    Attributes:
        clips: uint8 (B, T, H, W, 3); empty while they are `packed`.
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
        packed: what the clips are made of on the model's device, if no worker made them; `to` does it.
        notes: (path, text) of what is worth knowing of files that could be read (evaluation only).
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
    packed: PackedClips | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        """Clips in the batch."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """The batch with clips and labels on `device` (asynchronously from pinned memory), the clips made there.

        Erase boxes and seeds stay: they are read by the host, which would wait for the device.
        """
        clips = self.clips.to(device, non_blocking=True) if self.packed is None else self.packed.to(device).clips()
        return replace(self, clips=clips, labels=self.labels.to(device, non_blocking=True), packed=None)

    def pin_memory(self) -> "Batch":
        """The batch with what travels to a device in page-locked memory."""
        if self.packed is None:
            return replace(self, clips=self.clips.pin_memory(), labels=self.labels.pin_memory())
        return replace(self, packed=self.packed.pin_memory(), labels=self.labels.pin_memory())

    def __getstate__(self) -> dict[str, Any]:
        """Tensors as arrays: those can be sent without a copy, and small ones cost no more than their bytes."""
        state = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in self.__dict__.items()}
        if self.packed is not None:
            state["packed"] = (self.packed.pixels.numpy(), self.packed.shapes)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)
        if state["packed"] is not None:
            pixels, shapes = state["packed"]
            self.packed = PackedClips(torch.from_numpy(pixels), shapes)
