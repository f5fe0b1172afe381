"""From decoded frames and the views drawn for them (plain numbers) to clips, on whichever device the frames are.

A loader worker and the model's device run the same code: convert, resize, RandAugment, cut, resize, flip. From RGB
frames a CPU makes the same bytes in both places; a GPU rounds single values to the next grey level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
from mvit_video.video.yuv import YuvFrames

AugmentDevice = Literal["worker", "model"]
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
