"""Which frames a clip is made of: arithmetic on frame counts and frame rates, no file is opened here.

Two ways of sampling, both as published:

* spans (Kinetics; PySlowFast datasets/decoder.py): a clip of T frames at one frame in `sampling_rate`, measured in
  frames of a video at `target_fps`, covers `span` frames of the actual video. T positions are laid evenly over the
  span, both ends included, so the spacing is (span - 1) / (T - 1), not the sampling rate: 4.2 for 16x4 at 30 frames/s.
* segments (Something-Something v2; PySlowFast datasets/ssv2.py, TSN arXiv 1608.00859): the whole video is cut into T
  equal segments, one frame from each. The published pipeline cuts pictures extracted at `target_fps`, which repeat or
  leave out frames of the video: `extraction` says which frame each picture shows.

Positions are computed in float64 and truncated. PySlowFast uses a float32 torch.linspace; for the published samplings
(16x4, 32x3, 40x3) the two give the same frames in test clips, and where float32 falls just below an integer (8x4 at 25
frames/s) float64 gives the exact one, the same on every machine.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mvit_video.data.extraction import even_times, extracted_frames
from mvit_video.video.index import FrameTimes

SamplingMode = Literal["span", "segments"]


def clip_span(*, num_frames: int, sampling_rate: float, fps: float, target_fps: float = 30.0) -> float:
    """Frames of a video at `fps` that one clip covers; at least 1.

    Raises:
        ValueError: an argument is not positive.
    """
    _check_count("num_frames", num_frames)
    _check_positive("sampling_rate", sampling_rate)
    _check_positive("fps", fps)
    _check_positive("target_fps", target_fps)
    return max(1.0, num_frames * sampling_rate / target_fps * fps)


def train_clip(
    *, total_frames: int, fps: float, num_frames: int, sampling_rate: float, target_fps: float = 30.0, u: float
) -> list[int]:
    """Frame indices of a training clip whose start lies at the fraction `u` of all possible starts.

    A video shorter than the span is read from its first frame on, and its last frame is repeated.

    Args:
        total_frames: frames in the video.
        fps: frames per second of the video.
        num_frames: frames in the clip.
        sampling_rate: one frame in so many, at `target_fps`.
        target_fps: frame rate in which `sampling_rate` is stated.
        u: uniform draw from [0, 1).

    Raises:
        ValueError: `u` outside [0, 1), or another argument not positive.
    """
    _check_count("total_frames", total_frames)
    if not 0.0 <= u < 1.0:
        raise ValueError(f"u={u}: the start of a clip is a fraction in [0, 1); draw it with rng.random()")
    span = clip_span(num_frames=num_frames, sampling_rate=sampling_rate, fps=fps, target_fps=target_fps)
    start = u * max(total_frames - span, 0.0)
    return _spread(start=start, span=span, num_frames=num_frames, total_frames=total_frames)


def test_clip(
    *,
    total_frames: int,
    fps: float,
    num_frames: int,
    sampling_rate: float,
    target_fps: float = 30.0,
    view: int,
    num_views: int,
) -> list[int]:
    """Frame indices of temporal view number `view` of `num_views`, the views laid evenly over the whole video.

    A single view is the middle one; of several, view i starts at i * floor(slack / (num_views - 1)), slack being the
    frames that the span leaves over (PySlowFast with USE_OFFSET_SAMPLING).

    Args:
        total_frames: frames in the video.
        fps: frames per second of the video.
        num_frames: frames in the clip.
        sampling_rate: one frame in so many, at `target_fps`.
        target_fps: frame rate in which `sampling_rate` is stated.
        view: temporal view, 0 .. num_views - 1.
        num_views: temporal views per video.

    Raises:
        ValueError: `view` outside its range, or another argument not positive.
    """
    _check_count("total_frames", total_frames)
    _check_view(view, num_views)
    span = clip_span(num_frames=num_frames, sampling_rate=sampling_rate, fps=fps, target_fps=target_fps)
    slack = max(total_frames - span, 0.0)
    start = math.floor(slack / 2) if num_views == 1 else view * math.floor(slack / (num_views - 1))
    return _spread(start=start, span=span, num_frames=num_frames, total_frames=total_frames)


def train_segments(*, total_frames: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """One random frame from each of `num_frames` equal segments; both ends of a segment can be drawn.

    Raises:
        ValueError: a count is smaller than 1.
    """
    segments = _segments(total_frames=total_frames, num_frames=num_frames)
    return [int(rng.integers(first, last, endpoint=True)) for first, last in segments]


def test_segments(*, total_frames: int, num_frames: int) -> list[int]:
    """The middle frame (rounded down) of each of `num_frames` equal segments.

    Raises:
        ValueError: a count is smaller than 1.
    """
    return [(first + last) // 2 for first, last in _segments(total_frames=total_frames, num_frames=num_frames)]


def view_of(index: int, num_spatial: int) -> tuple[int, int]:
    """(temporal view, spatial view) of view number `index` = temporal * num_spatial + spatial.

    Raises:
        ValueError: a negative index, or fewer than one spatial view.
    """
    _check_count("num_spatial", num_spatial)
    if index < 0:
        raise ValueError(f"view index {index}: views are numbered from 0; pass temporal * num_spatial + spatial")
    return divmod(index, num_spatial)


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """How clips are taken from the videos of one data set.

    Attributes:
        num_frames: frames in a clip (T).
        sampling_rate: one frame in so many, at `target_fps`; has no effect in mode "segments".
        target_fps: frame rate in which `sampling_rate` is stated, and at which mode "segments" extracts pictures.
        mode: "span" (Kinetics) or "segments" (Something-Something v2).

    Raises:
        ValueError: a number is not positive, or the mode is unknown.
    """

    num_frames: int
    sampling_rate: float
    target_fps: float = 30.0
    mode: SamplingMode = "span"

    def __post_init__(self) -> None:
        _check_count("num_frames", self.num_frames)
        _check_positive("sampling_rate", self.sampling_rate)
        _check_positive("target_fps", self.target_fps)
        if self.mode not in ("span", "segments"):
            raise ValueError(f"mode={self.mode!r}: clips are sampled by 'span' or by 'segments'; use one of these")

    def train(
        self, total_frames: int, fps: float, rng: np.random.Generator, *, times: FrameTimes | None = None
    ) -> list[int]:
        """Frame indices of a random clip of a video of `total_frames` frames at `fps` frames per second.

        Mode "segments" reckons with `times`; without them, with frames that follow one another evenly.
        """
        if self.mode == "segments":
            shown = self._pictures(total_frames, fps, times)
            pictures = train_segments(total_frames=len(shown), num_frames=self.num_frames, rng=rng)
            return [shown[picture] for picture in pictures]
        return train_clip(
            total_frames=total_frames,
            fps=fps,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            target_fps=self.target_fps,
            u=float(rng.random()),
        )

    def test(
        self, total_frames: int, fps: float, view: int, num_views: int, *, times: FrameTimes | None = None
    ) -> list[int]:
        """Frame indices of temporal view `view` of `num_views`; in mode "segments" all of them are the same clip.

        Mode "segments" reckons with `times`; without them, with frames that follow one another evenly.
        """
        if self.mode == "segments":
            _check_view(view, num_views)
            shown = self._pictures(total_frames, fps, times)
            return [shown[picture] for picture in test_segments(total_frames=len(shown), num_frames=self.num_frames)]
        return test_clip(
            total_frames=total_frames,
            fps=fps,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            target_fps=self.target_fps,
            view=view,
            num_views=num_views,
        )

    def span(self, fps: float) -> float | None:
        """Frames of a video at `fps` that a clip covers; None in mode "segments", where that is the whole video."""
        if self.mode == "segments":
            return None
        return clip_span(
            num_frames=self.num_frames, sampling_rate=self.sampling_rate, fps=fps, target_fps=self.target_fps
        )

    def _pictures(self, total_frames: int, fps: float, times: FrameTimes | None) -> list[int]:
        """The frame that each picture of the published extraction at `target_fps` shows."""
        _check_count("total_frames", total_frames)
        _check_positive("fps", fps)
        if times is None:
            times = even_times(num_frames=total_frames, fps=fps)
        return extracted_frames(times, fps=fps, rate=self.target_fps)


def _spread(*, start: float, span: float, num_frames: int, total_frames: int) -> list[int]:
    """`num_frames` indices laid evenly from `start` to `start + span - 1`, kept inside the video."""
    steps = max(num_frames - 1, 1)
    positions = (start + (span - 1.0) * i / steps for i in range(num_frames))
    return [min(max(int(position), 0), total_frames - 1) for position in positions]


def _segments(*, total_frames: int, num_frames: int) -> list[tuple[int, int]]:
    """First and last frame of each segment; neighbours share a border frame, as published."""
    _check_count("total_frames", total_frames)
    _check_count("num_frames", num_frames)
    length = (total_frames - 1) / num_frames
    return [(round(length * i), round(length * (i + 1))) for i in range(num_frames)]


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}: must be at least 1; check the video or the data configuration")


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(
            f"{name}={value}: must be a positive number; check the video's header or the data configuration"
        )


def _check_view(view: int, num_views: int) -> None:
    _check_count("num_views", num_views)
    if not 0 <= view < num_views:
        raise ValueError(f"view={view}: temporal views run from 0 to {num_views - 1}; lower view or raise num_views")
