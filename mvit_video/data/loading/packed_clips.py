"""The decoded frames of a batch in one buffer, for clips that the model's device makes.

A worker that only decodes sends the frames as they are, of any size, together with the views drawn for them. The device
makes the clips of them (augmentation/clip_views.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from mvit_video.data.augmentation.clip_views import ClipSource, Frames, View
from mvit_video.data.loading import shared_memory
from mvit_video.video.yuv import YuvFrames


@dataclass(frozen=True)
class PackedVideo:
    """What one video takes of a packed buffer.

    Attributes:
        frames, height, width: of the decoded frames.
        yuv: (matrix, full_range) of YUV planes; None for RGB.
        views: of the video.
    """

    frames: int
    height: int
    width: int
    yuv: tuple[str, bool] | None
    views: tuple[View, ...]

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the tensors, in the order they lie in the buffer."""
        if self.yuv is None:
            return ((self.frames, self.height, self.width, 3),)
        half = ((self.height + 1) // 2, (self.width + 1) // 2)
        return (self.frames, self.height, self.width), (self.frames, 2, *half)


@dataclass(frozen=True)
class PackedClips:
    """The frames of several videos in one flat buffer, and the views to be made of them.

    Attributes:
        pixels: uint8 (bytes,).
        shapes: of each video.
    """

    pixels: torch.Tensor
    shapes: tuple[PackedVideo, ...]

    @property
    def num_clips(self) -> int:
        """Clips that `clips` gives."""
        return sum(len(shape.views) for shape in self.shapes)

    def to(self, device: torch.device) -> "PackedClips":
        """The buffer on another device, asynchronously from pinned memory."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))

    def pin_memory(self) -> "PackedClips":
        """The buffer in page-locked memory."""
        return replace(self, pixels=self.pixels.pin_memory())

    def sources(self) -> Iterator[ClipSource]:
        """The videos, their frames views of the buffer."""
        start = 0
        for shape in self.shapes:
            tensors = []
            for size in shape.sizes:
                length = torch.Size(size).numel()
                tensors.append(self.pixels[start : start + length].view(size))
                start += length
            frames: Frames = tensors[0] if shape.yuv is None else YuvFrames(tensors[0], tensors[1], *shape.yuv)
            yield ClipSource(frames, shape.views)

    def clips(self) -> torch.Tensor:
        """uint8 (B, T, S, S, 3), the views of all videos in order, made where the buffer is."""
        return torch.cat([source.clips() for source in self.sources()])


def pack(sources: Sequence[ClipSource]) -> PackedClips:
    """Copy the frames of several videos into one buffer, shared if the process sends its results."""
    shapes = tuple(_shape(source) for source in sources)
    length = sum(torch.Size(size).numel() for shape in shapes for size in shape.sizes)
    packed = PackedClips(shared_memory.empty((length,)), shapes)
    for source, copy in zip(sources, packed.sources()):
        for tensor, target in zip(_tensors(source.frames), _tensors(copy.frames)):
            target.copy_(tensor)
    return packed


def _shape(source: ClipSource) -> PackedVideo:
    frames = source.frames
    yuv = (frames.matrix, frames.full_range) if isinstance(frames, YuvFrames) else None
    count, height, width = _tensors(frames)[0].shape[:3]
    return PackedVideo(count, height, width, yuv, tuple(source.views))


def _tensors(frames: Frames) -> tuple[torch.Tensor, ...]:
    return (frames.y, frames.uv) if isinstance(frames, YuvFrames) else (frames,)
