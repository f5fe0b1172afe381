"""From decoded frames and the views drawn for them (plain numbers) to clips, on whichever device the frames are.

A loader worker and the model's device run the same code: convert, resize, RandAugment, cut, resize, flip. From RGB
frames a CPU makes the same bytes in both places; a GPU rounds single values to the next grey level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from mvit_video.data.augmentation.transforms import (
    Box,
    resize,
    short_side_size,
    shrinks_like_a_decoder,
    uniform_crop_box,
)
from mvit_video.video.yuv import YuvFrames

AugmentDevice = Literal["worker", "model"]
Frames = torch.Tensor | YuvFrames  # uint8 (N, H, W, 3), or planes


class View(Protocol):
    """What is to be made of the decoded frames of a video or of an image, as plain numbers."""

    def begin(self, frames: torch.Tensor) -> torch.Tensor:
        """What all views of a source have in common, done once for all of them."""
        ...

    def finish(self, frames: torch.Tensor) -> torch.Tensor:
        """The view, uint8 (T, S, S, 3), of frames that `begin` gave."""
        ...


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

    def begin(self, frames: torch.Tensor) -> torch.Tensor:
        """The frames, scaled."""
        return resize(frames, *self.scaled, antialias=self.antialias)

    def finish(self, frames: torch.Tensor) -> torch.Tensor:
        """(T, size, size, 3) of scaled frames."""
        top, left, height, width = self.box
        box = frames[:, top : top + height, left : left + width]
        if list(self.rows) == list(range(len(frames))):
            return box
        return torch.stack([box[row] for row in self.rows])


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
    """Decoded frames of one video, or the pixels of one image as one frame, and the views to be made of them.

    Attributes:
        frames: uint8 (N, H, W, 3), or YUV planes.
        views: training views of all N frames, or test views; all of a kind.
        note: what is worth knowing of the file; empty if nothing is.
    """

    frames: Frames
    views: Sequence[View]
    note: str = ""

    def clips(self) -> torch.Tensor:
        """uint8 (views, T, S, S, 3) on the device of the frames."""
        frames = self.frames.rgb() if isinstance(self.frames, YuvFrames) else self.frames
        frames = self.views[0].begin(frames)
        if len(self.views) == 1:
            return self.views[0].finish(frames).contiguous()[None]
        out: torch.Tensor | None = None
        for place, view in enumerate(self.views):
            clip = view.finish(frames)
            if out is None:
                out = torch.empty((len(self.views), *clip.shape), dtype=torch.uint8, device=clip.device)
            out[place] = clip
        assert out is not None
        return out
