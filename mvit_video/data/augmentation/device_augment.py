"""From decoded frames to the clips of a batch, where one chooses: in the loader's workers or on the model's device.

A worker that only decodes sends the frames as they are, of any size, packed into one buffer, together with the views
drawn for them (plain numbers). The device then does with them exactly what a worker would have done: convert, resize,
RandAugment, cut, resize, flip. From RGB frames a CPU makes the same bytes as a worker; a GPU rounds single values to
the next grey level.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mvit_video.data.augmentation.transforms import (
    Box,
    ViewDraw,
    apply_view,
    resize,
    short_side_size,
    shrinks_like_a_decoder,
    uniform_crop_box,
)
from mvit_video.data.loading import shared_bytes
from mvit_video.video.yuv import YuvFrames

Layout = Literal["rgb", "yuv420"]
Where = Literal["worker", "model"]
Frames = torch.Tensor | YuvFrames  # uint8 (N, H, W, 3), or planes


@dataclass(frozen=True, kw_only=True)
class EvalView:
    """One test view as plain numbers.

    Attributes:
        rows: frames of the clip, as places among the frames of the video that were decoded.
        scaled: (height, width) that the frames are resized to.
        box: (top, left, size, size) cut from them.
        antialias: they are resized with antialiasing.
    """

    rows: tuple[int, ...]
    scaled: tuple[int, int]
    box: Box
    antialias: bool = False


def eval_view(
    rows: Sequence[int],
    height: int,
    width: int,
    *,
    short_side: int,
    crop_size: int,
    spatial_view: int,
    num_spatial: int,
    decode_short_side: int | None = None,
) -> EvalView:
    """A test view of frames of `height` x `width` pixels; see transforms.test_view for the arguments."""
    scaled = short_side_size(height, width, short_side)
    position = 1 if num_spatial == 1 else spatial_view
    return EvalView(
        rows=tuple(rows),
        scaled=scaled,
        box=uniform_crop_box(*scaled, size=crop_size, position=position),
        antialias=shrinks_like_a_decoder(height, width, decode_short_side=decode_short_side),
    )


@dataclass(frozen=True)
class ClipSource:
    """Decoded frames of one video and the views to be made of them.

    Attributes:
        frames: uint8 (N, H, W, 3), or YUV planes.
        views: training views of all N frames, or test views.
    """

    frames: Frames
    views: tuple[ViewDraw | EvalView, ...]

    def clips(self) -> torch.Tensor:
        """uint8 (views, T, S, S, 3) on the device of the frames."""
        frames = self.frames.rgb() if isinstance(self.frames, YuvFrames) else self.frames
        first = self.views[0]
        if isinstance(first, ViewDraw):
            # All views of a video begin alike: once for all of them.
            frames = resize(frames, *first.decoded, antialias=True)
        else:
            frames = resize(frames, *first.scaled, antialias=first.antialias)
        out: torch.Tensor | None = None
        for place, view in enumerate(self.views):
            if isinstance(view, ViewDraw):
                clip = apply_view(frames, view)
            else:
                clip = _cut_rows(frames, view)
            if out is None:
                out = torch.empty((len(self.views), *clip.shape), dtype=torch.uint8, device=clip.device)
            out[place] = clip
        assert out is not None
        return out


def _cut_rows(frames: torch.Tensor, view: EvalView) -> torch.Tensor:
    """(T, size, size, 3) of frames that have the view's scaled size."""
    top, left, height, width = view.box
    box = frames[:, top : top + height, left : left + width]
    if list(view.rows) == list(range(len(frames))):
        return box
    return torch.stack([box[row] for row in view.rows])


@dataclass(frozen=True)
class _Shape:
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
    views: tuple[ViewDraw | EvalView, ...]

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
    shapes: tuple[_Shape, ...]

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
    packed = PackedClips(shared_bytes.empty((length,)), shapes)
    for source, place in zip(sources, packed.sources()):
        for tensor, target in zip(_tensors(source.frames), _tensors(place.frames)):
            target.copy_(tensor)
    return packed


def _shape(source: ClipSource) -> _Shape:
    frames = source.frames
    yuv = (frames.matrix, frames.full_range) if isinstance(frames, YuvFrames) else None
    count, height, width = _tensors(frames)[0].shape[:3]
    return _Shape(count, height, width, yuv, source.views)


def _tensors(frames: Frames) -> tuple[torch.Tensor, ...]:
    return (frames.y, frames.uv) if isinstance(frames, YuvFrames) else (frames,)
