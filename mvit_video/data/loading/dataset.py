"""From a manifest to samples of videos: decode once, take the clips, cut them or say how a device is to."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mvit_video.data.augmentation.clip_views import AugmentDevice, ClipSource, Frames, eval_view
from mvit_video.data.augmentation.transforms import TrainTransform
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segment
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.data.loading.samples import DRAW_CLIP, DRAW_FRAME_ORDER, EvalSamples, TrainSamples
from mvit_video.data.sampling import ClipSampler, view_of
from mvit_video.video.reader import Backend, FrameTimes, Layout, VideoReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How frames come out of the files, and what a worker does with them.

    Attributes:
        backend: decoder.
        layout: "rgb" frames, or "yuv420" planes, half the bytes, of which a worker or the model's device makes RGB.
        device: where clips are cut and augmented: "worker" (the loader's processes) or "model" (the model's device).
        time_limit_s: seconds after which a video counts as broken; None for no limit. For "pyav" only.
    """

    backend: Backend = "pyav"
    layout: Layout = "rgb"
    device: AugmentDevice = "worker"
    time_limit_s: float | None = None

    def open(self, manifest: Manifest, index: int) -> VideoReader:
        """A reader of one video."""
        limit = self.time_limit_s if self.backend == "pyav" else None
        return VideoReader(manifest.location(index), backend=self.backend, time_limit_s=limit)

    def frames(self, video: VideoReader, segment: Segment) -> range:
        """The frames of the video that an entry of a manifest is: all of them, or those of its segment.

        Raises:
            VideoDecodeError: the segment holds no frame.
        """
        if segment.whole:
            return range(video.info.num_frames)
        return video.frames_between(segment.start, segment.end)

    def read(self, video: VideoReader, indices: Sequence[int]) -> Frames:
        """The frames in the layout."""
        return video.read_yuv(indices) if self.layout == "yuv420" else video.read(indices)


class TrainDataset(TrainSamples):
    """Augmented clips of the training videos; what it raises is a VideoDecodeError.

    Args:
        manifest: videos and labels.
        sampler: how a clip is taken from a video.
        transform: spatial augmentation, (T, H, W, 3) -> (T, S, S, 3).
        repeats: augmented copies of each decoded clip (repeated augmentation).
        seed: with the epoch and the index, the key of every random draw.
        decoding: how the files are read.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        sampler: ClipSampler,
        transform: TrainTransform,
        repeats: int,
        seed: int,
        decoding: DecodeOptions = DecodeOptions(),
    ) -> None:
        super().__init__(manifest, transform=transform, repeats=repeats, seed=seed, device=decoding.device)
        self.sampler = sampler
        self.decoding = decoding

    @property
    def backend(self) -> Backend:
        """The decoder."""
        return self.decoding.backend

    def frame_numbers(self, epoch: int, draw: int, video: VideoReader) -> list[int]:
        """The frames of `video` that the clip of a draw of an epoch is made of; see `__getitem__`."""
        rng = np.random.default_rng([self.seed, epoch, draw, DRAW_CLIP])
        frames = self.decoding.frames(video, self.manifest.segment(draw % len(self.manifest)))
        clip = self.sampler.train(len(frames), video.info.fps, rng, times=_times(video, self.sampler, frames))
        return [frames[place] for place in clip]

    def _read(self, epoch: int, draw: int) -> Frames:
        with self.decoding.open(self.manifest, draw % len(self.manifest)) as video:
            return self.decoding.read(video, self.frame_numbers(epoch, draw, video))


class EvalDataset(EvalSamples):
    """All views of each video: `temporal_views` clips along it, `spatial_views` crops of each, one decode.

    Args:
        manifest: videos and labels.
        sampler: how the clip of a temporal view is taken.
        temporal_views: clips per video; 1 is taken, with a warning, where the sampler's views are all the same clip.
        spatial_views: 1 (centre) or 3 (left, centre, right, or top, middle, bottom).
        short_side: pixels the short side is resized to before the crop.
        decode_short_side: that of the training's transform: frames with a larger short side are resized with
            antialiasing, as they are for training.
        crop_size: side of the square crop, pixels.
        frame_order: "reversed" or "shuffled" feed the same frames in another order, "single" the middle one of them
            again and again, to see what a model makes of time.
        seed: key of the shuffles.
        decoding: how the files are read.

    Raises:
        ValueError: there are no such views, or the crop is larger than the short side.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        sampler: ClipSampler,
        temporal_views: int,
        spatial_views: int,
        short_side: int,
        crop_size: int,
        decode_short_side: int | None = None,
        frame_order: FrameOrder = "forward",
        seed: int = 0,
        decoding: DecodeOptions = DecodeOptions(),
    ) -> None:
        if temporal_views < 1 or spatial_views not in (1, 3):
            raise ValueError(
                f"temporal_views={temporal_views}, spatial_views={spatial_views}: give at least one view along the "
                "video, and 1 crop (the centre) or 3 of each"
            )
        if crop_size < 1 or short_side < crop_size:
            raise ValueError(
                f"crop_size={crop_size}, short_side={short_side}: the crop is at least 1 pixel and at most the short "
                "side, out of which it is cut"
            )
        self.temporal_views = _distinct_views(temporal_views, sampler)
        super().__init__(
            manifest,
            crop_size=crop_size,
            num_views=self.temporal_views * spatial_views,
            view_frames=sampler.num_frames,
            device=decoding.device,
        )
        self.sampler = sampler
        self.spatial_views = spatial_views
        self.short_side = short_side
        self.decode_short_side = decode_short_side
        self.frame_order: FrameOrder = frame_order
        self.seed = seed
        self.decoding = decoding

    @property
    def backend(self) -> Backend:
        """The decoder."""
        return self.decoding.backend

    def frame_numbers(self, index: int, video: VideoReader) -> list[list[int]]:
        """The frames of `video`, number `index` of the set, that the clip of each temporal view is made of."""
        frames = self.decoding.frames(video, self.manifest.segment(index))
        fps, views, times = video.info.fps, self.temporal_views, _times(video, self.sampler, frames)
        clips = [self.sampler.test(len(frames), fps, view, views, times=times) for view in range(views)]
        return [[frames[place] for place in clip] for clip in clips]

    def _views(self, key: int) -> ClipSource:
        """The views of a video: every frame that any of them needs is decoded once."""
        index = key % len(self)
        with self.decoding.open(self.manifest, index) as video:
            info = video.info
            wanted = self.frame_numbers(key, video)
            note = self._note(index, video)
            distinct = sorted({frame for clip in wanted for frame in clip})
            frames = self.decoding.read(video, distinct)
        row = {frame: place for place, frame in enumerate(distinct)}
        made = []
        for number in range(len(wanted) * self.spatial_views):
            temporal, spatial = view_of(number, self.spatial_views)
            made.append(
                eval_view(
                    [row[frame] for frame in self._ordered(wanted[temporal], index, temporal)],
                    info.height,
                    info.width,
                    short_side=self.short_side,
                    crop_size=self.crop_size,
                    spatial_view=spatial,
                    num_spatial=self.spatial_views,
                    decode_short_side=self.decode_short_side,
                )
            )
        return ClipSource(frames, tuple(made), note=note)

    def _note(self, index: int, video: VideoReader) -> str:
        """What is worth knowing of a video: that it is shorter than a clip."""
        frames, fps = len(self.decoding.frames(video, self.manifest.segment(index))), video.info.fps
        span = self.sampler.span(fps)
        if span is None or frames >= span:
            return ""
        return (
            f"lasts {frames / fps:.2f} s, and a clip of the model {span / fps:.2f} s: its last frame is repeated, "
            "which the model may not know from its training"
        )

    def _ordered(self, frames: list[int], index: int, view: int) -> list[int]:
        if self.frame_order == "reversed":
            return frames[::-1]
        if self.frame_order == "shuffled":
            rng = np.random.default_rng([self.seed, index, view, DRAW_FRAME_ORDER])
            return [frames[place] for place in rng.permutation(len(frames))]
        if self.frame_order == "single":
            return [frames[len(frames) // 2]] * len(frames)
        return frames


def _distinct_views(temporal_views: int, sampler: ClipSampler) -> int:
    """As many temporal views as differ."""
    if sampler.mode == "segments" and temporal_views > 1:
        logger.warning(
            "temporal_views=%d with sampling by segments would be the same frames %d times: one view is taken "
            "(data.test_temporal_views=1 says so, data.sampling=span makes views that differ)",
            temporal_views,
            temporal_views,
        )
        return 1
    return temporal_views


def _times(video: VideoReader, sampler: ClipSampler, frames: range) -> FrameTimes | None:
    """The times of `frames` where the sampler reckons with them: looking them up may cost a pass over the packets."""
    times = video.times if sampler.mode == "segments" else None
    if times is None or len(frames) == video.info.num_frames:
        return times
    part = slice(frames.start, frames.stop)
    return FrameTimes(times.unit, times.stamps[part], times.durations[part])
