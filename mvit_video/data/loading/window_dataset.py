"""Long videos window by window: a clip of each, several windows to a sample, so that memory does not grow with time."""

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segment, SlidingWindows
from mvit_video.data.loading.dataset import DecodeOptions, EvalDataset
from mvit_video.data.sampling import ClipSampler
from mvit_video.video.index import VideoDecodeError
from mvit_video.video.reader import VideoReader


class WindowDataset(EvalDataset):
    """The middle clip of each window of each video. A key stands for a group of windows, see EvalSamples.

    Args:
        manifest: the videos.
        windows: which windows a video has.
        group: windows of one sample.
        sampler, spatial_views, short_side, crop_size, decode_short_side, decoding: see EvalDataset.
    """

    has_groups = True

    def __init__(
        self,
        manifest: Manifest,
        *,
        windows: SlidingWindows,
        group: int,
        sampler: ClipSampler,
        spatial_views: int,
        short_side: int,
        crop_size: int,
        decode_short_side: int | None = None,
        decoding: DecodeOptions,
    ) -> None:
        super().__init__(
            manifest,
            sampler=sampler,
            temporal_views=1,
            spatial_views=spatial_views,
            short_side=short_side,
            crop_size=crop_size,
            decode_short_side=decode_short_side,
            decoding=decoding,
        )
        self.windows = windows
        self.temporal_views = group
        self.num_views = group * spatial_views

    def windows_of(self, index: int) -> list[Segment]:
        """The windows of a video, which is opened for it.

        Raises:
            VideoDecodeError: it cannot be read.
        """
        with self.decoding.open(self.manifest, index) as video:
            return self.windows.of(video.info.duration)

    def groups_of(self, index: int) -> int:
        """How many keys a video has: index, index + len(self), and so on. Raises VideoDecodeError."""
        return -(-len(self.windows_of(index)) // self.temporal_views)

    def frame_numbers(self, key: int, video: VideoReader) -> list[list[int]]:
        """The frames that the clips of a group of windows are made of; the last group of a video may have fewer."""
        first = key // len(self) * self.temporal_views
        chosen = self.windows.of(video.info.duration)[first : first + self.temporal_views]
        return [self._clip(video, window) for window in chosen]

    def _clip(self, video: VideoReader, window: Segment) -> list[int]:
        try:
            frames = video.frames_between(*window)
        except VideoDecodeError:  # a picture that stays for longer than a window: it is shown all the time
            shown = video.frames_between(0.0, window.end)
            frames = range(shown.stop - 1, shown.stop)
        return [frames[place] for place in self.sampler.test(len(frames), video.info.fps, 0, 1)]
