"""Segments of long videos: exactly the frames whose times lie in [start, end), from one opening of the file."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.data.loading.dataset import DecodeOptions, EvalDataset, TrainDataset
from mvit_video.data.sampling import ClipSampler
from mvit_video.video.reader import VideoDecodeError, VideoReader
from tests.data.loading.test_dataset import transform
from tests.paths import SHARED_CLIPS
from tests.video_library import Library, number_in

INF = float("inf")


@pytest.mark.parametrize("name", ["gop12.mp4", "asp.avi", "clock.mkv", "stream.ts", "late.mp4", "raw.h264", "vp9.webm"])
def test_a_frame_at_the_start_is_in_and_one_at_the_end_is_out(library: Library, name: str) -> None:
    with VideoReader(library.path(name)) as video:
        assert video.frames_between(0.4, 1.2) == range(10, 30)  # 25 frames/s, Matroska rounds to 40 ms exactly
        assert video.frames_between(0.0, INF) == range(60)
        assert video.frames_between(0.41, 1.21) == range(11, 31)
        assert video.frames_between(0.6, 0.64) == range(15, 16)
        assert video.frames_between(2.3, 99.0) == range(58, 60)


def test_times_are_the_frames_own(library: Library) -> None:
    """A frame rate alone would give other frames: these come in bursts."""
    ticks = [n + n // 7 * 3 + (n > 20) * 40 for n in range(60)]
    with VideoReader(library.path("variable.mp4")) as video:
        for start, end in ((0.0, 1.0), (1.0, 2.0), (2.0, 4.2), (0.28, 0.44)):
            frames = video.frames_between(start, end)
            assert list(frames) == [n for n, tick in enumerate(ticks) if round(start * 25) <= tick < round(end * 25)]


def test_segments_of_real_videos_are_what_plain_decoding_gives() -> None:
    if not SHARED_CLIPS.is_dir():
        pytest.skip("the shared clips are not there")
    rng = np.random.default_rng(0)
    videos = [path for path in sorted(SHARED_CLIPS.iterdir()) if path.suffix in (".mp4", ".mkv")]  # AVI has no times
    for path in videos:
        with av.open(str(path)) as container:
            times = [float(frame.time) for frame in container.decode(video=0)]
        shown = np.array(times) - times[0]
        with VideoReader(path) as video:
            assert video.info.num_frames == len(shown)
            for _ in range(20):
                start, end = sorted(
                    rng.choice(np.concatenate([shown, rng.uniform(0, shown[-1], 50)]), 2, replace=False)
                )
                inside = np.flatnonzero((shown >= start - 1e-6) & (shown < end - 1e-6))
                if len(inside):
                    assert list(video.frames_between(start, end)) == inside.tolist()


def test_segments_without_a_frame(library: Library) -> None:
    beyond, between = r"no frame from 2\.4 s to 3 s: its last frame", r"no frame from 0\.41 s to 0\.43 s: the next one"
    with VideoReader(library.path("gop12.mp4")) as video:
        with pytest.raises(VideoDecodeError, match=beyond + r" is shown at 2\.36 s"):
            video.frames_between(2.4, 3.0)
        with pytest.raises(VideoDecodeError, match=between + r" is shown at 0\.44 s"):
            video.frames_between(0.41, 0.43)


def test_segments_need_the_exact_backend(library: Library) -> None:
    pytest.importorskip("decord")
    video = VideoReader(library.path("gop12.mp4"), backend="decord")
    with video, pytest.raises(ValueError, match=r"read by the backend 'pyav' alone; set data\.backend=pyav"):
        video.frames_between(0.0, 1.0)


def long_video(path: Path) -> Manifest:
    """Three rows of one file of 60 frames at 25 frames/s, and the whole of it."""
    segments = Segments([(0.0, 0.4), (0.4, 1.2), (1.2, INF), (0.0, INF)])
    return Manifest([str(path)] * 4, [0, 1, 0, 1], ("x", "y"), "table.csv", segments=segments)


def numbers(clips: torch.Tensor) -> list[int]:
    return [number_in(frame) for frame in clips.flatten(0, 1).numpy()]


SPANS = [range(10), range(10, 30), range(30, 60), range(60)]


@pytest.mark.parametrize("mode", ["span", "segments"])
def test_evaluation_views_stay_inside_the_segment(library: Library, mode: str) -> None:
    sampler = ClipSampler(num_frames=4, sampling_rate=2, target_fps=25, mode=mode)  # type: ignore[arg-type]
    dataset = EvalDataset(
        long_video(library.path("gop12.mp4")),
        sampler=sampler,
        temporal_views=2 if mode == "span" else 1,
        spatial_views=1,
        short_side=64,
        crop_size=64,
        decoding=Whole(),
    )
    for row, span in enumerate(SPANS):
        views = dataset.temporal_views
        expected = [span[i] for view in range(views) for i in sampler.test(len(span), 25.0, view, views)]
        clips = dataset[row].source
        assert clips is not None
        assert [number_in(clips.frames[clips.views[n // 4].rows[n % 4]].numpy()) for n in range(4 * views)] == expected


class Whole(DecodeOptions):
    """Leaves the frames as they were read, for a look at them."""

    def __init__(self) -> None:
        super().__init__(device="model")


def test_training_clips_stay_inside_the_segment(library: Library) -> None:
    sampler = ClipSampler(num_frames=4, sampling_rate=2, target_fps=25)
    dataset = TrainDataset(
        long_video(library.path("gop12.mp4")),
        sampler=sampler,
        transform=transform(crop_size=64, jitter=(64, 64)),
        repeats=1,
        seed=0,
        decoding=Whole(),
    )
    for row, span in enumerate(SPANS):
        starts = set()
        for epoch in range(12):
            source = dataset[(epoch, 0, row)].source
            assert source is not None
            seen = [number_in(frame.numpy()) for frame in source.frames]
            assert set(seen) <= set(span)
            assert np.diff(seen).tolist() == [2, 2, 2] or len(span) < 8 or max(np.diff(seen)) <= 3
            starts.add(seen[0])
        assert len(starts) > 1
    with pytest.raises(VideoDecodeError, match="has no frame from 7 s to 8 s"):
        beyond = Manifest([str(library.path("gop12.mp4"))], [0], ("x",), "t", segments=Segments([(7.0, 8.0)]))
        TrainDataset(beyond, sampler=sampler, transform=transform(), repeats=1, seed=0)[(0, 0, 0)]
