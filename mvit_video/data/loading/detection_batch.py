"""Images of any sizes with what is annotated in them, from a loader worker to the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch

from mvit_video.data.detection.annotations import Instances
from mvit_video.data.loading import shared_memory


@dataclass
class DetectionSample:
    """One image, as a worker made it.

    Attributes:
        pixels: uint8 (H, W, 3).
        instances: annotated in it, in its pixels.
        image: index in the manifest (of the replacement, if a broken image was replaced).
        path: its file.
        failures: (path, reason) of every file that could not be read for this sample.
        failed: True if no image could be read at all; pixels are then zeros (evaluation only).
        epoch: epoch the sample belongs to (training).
        position: its place in the epoch's order (training).
    """

    pixels: torch.Tensor
    instances: Instances
    image: int
    path: str
    failures: list[tuple[str, str]] = field(default_factory=list)
    failed: bool = False
    epoch: int = 0
    position: int = 0


@dataclass
class DetectionBatch:
    """Several images. Their pixels lie behind one another, so that they travel as one piece of shared memory.

    Attributes:
        pixels: uint8 (bytes of all images), each image's as (H, W, 3).
        sizes: (height, width) of each image.
        instances: of each image.
        images: index of each image in the manifest.
        failed: which images could not be read (evaluation only).
        paths: file of each image.
        failures: (path, reason) of every file that could not be read.
        position: place of the batch's first image in its epoch's order: with the epoch the key of batch-wide draws.
        epoch: epoch the batch belongs to.
    """

    pixels: torch.Tensor
    sizes: list[tuple[int, int]]
    instances: list[Instances]
    images: list[int]
    failed: list[bool]
    paths: list[str]
    failures: list[tuple[str, str]]
    position: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        """Images in the batch."""
        return len(self.sizes)

    def pictures(self) -> list[torch.Tensor]:
        """Each image as uint8 (3, H, W), in the memory of `pixels`."""
        lengths = [3 * height * width for height, width in self.sizes]
        return [part.view(*size, 3).permute(2, 0, 1) for part, size in zip(self.pixels.split(lengths), self.sizes)]

    def to(self, device: torch.device) -> "DetectionBatch":
        """The batch with its pixels on `device` (asynchronously from pinned memory)."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))

    def pin_memory(self) -> "DetectionBatch":
        """The batch with its pixels in page-locked memory."""
        return replace(self, pixels=self.pixels.pin_memory())

    def __getstate__(self) -> dict[str, Any]:
        """The pixels as an array, which can be sent without a copy."""
        return {**self.__dict__, "pixels": self.pixels.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, pixels=torch.from_numpy(state["pixels"]))


def collate_detection(samples: Sequence[DetectionSample]) -> DetectionBatch:
    """Samples as one batch."""
    sizes = [(sample.pixels.shape[0], sample.pixels.shape[1]) for sample in samples]
    ends = list(accumulate(sample.pixels.numel() for sample in samples))
    pixels = shared_memory.empty((ends[-1],))
    for sample, begin, end in zip(samples, [0, *ends], ends):
        pixels[begin:end] = sample.pixels.reshape(-1)
    return DetectionBatch(
        pixels=pixels,
        sizes=sizes,
        instances=[sample.instances for sample in samples],
        images=[sample.image for sample in samples],
        failed=[sample.failed for sample in samples],
        paths=[sample.path for sample in samples],
        failures=[failure for sample in samples for failure in sample.failures],
        position=samples[0].position,
        epoch=samples[0].epoch,
    )
