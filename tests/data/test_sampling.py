"""Clip arithmetic against frame lists worked out by hand and against the published float32 formula."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

# The module, not its names: pytest would collect test_clip and test_segments as tests.
from mvit_video.data import sampling
from mvit_video.video.index import FrameTimes


@pytest.mark.parametrize(
    ("num_frames", "sampling_rate", "fps", "span"),
    [(16, 4, 30.0, 64.0), (32, 3, 30.0, 96.0), (40, 3, 30.0, 120.0), (16, 4, 15.0, 32.0), (1, 1, 12.0, 1.0)],
)
def test_span_is_measured_in_frames_of_the_video(num_frames: int, sampling_rate: int, fps: float, span: float) -> None:
    assert sampling.clip_span(num_frames=num_frames, sampling_rate=sampling_rate, fps=fps) == span


def test_span_scales_with_the_target_rate() -> None:
    assert sampling.clip_span(num_frames=16, sampling_rate=4, fps=30.0, target_fps=15.0) == 128.0


def test_train_clip_16x4_has_both_ends_of_the_span() -> None:
    indices = sampling.train_clip(total_frames=300, fps=30.0, num_frames=16, sampling_rate=4, u=0.0)
    assert indices == [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]


def test_train_clip_starts_at_a_fraction_of_the_slack() -> None:
    # Slack 264 - 64 = 200, start 100.
    indices = sampling.train_clip(total_frames=264, fps=30.0, num_frames=16, sampling_rate=4, u=0.5)
    assert indices == [100, 104, 108, 112, 116, 121, 125, 129, 133, 137, 142, 146, 150, 154, 158, 163]


def test_train_clip_start_is_a_fraction_of_a_frame_too() -> None:
    # Slack 10 - 4 = 6, start 4.2: 4.2, 5.2, 6.2, 7.2.
    assert sampling.train_clip(total_frames=10, fps=30.0, num_frames=4, sampling_rate=1, u=0.7) == [4, 5, 6, 7]
    # Spacing 7/3: 0.9, 3.23, 5.57, 7.9.
    assert sampling.train_clip(total_frames=9, fps=30.0, num_frames=4, sampling_rate=2, u=0.9) == [0, 3, 5, 7]


def test_short_video_repeats_its_last_frame() -> None:
    indices = sampling.train_clip(total_frames=10, fps=30.0, num_frames=8, sampling_rate=4, u=0.9)
    assert indices == [0, 4, 8, 9, 9, 9, 9, 9]
    assert sampling.train_clip(total_frames=1, fps=30.0, num_frames=3, sampling_rate=4, u=0.0) == [0, 0, 0]


def test_low_frame_rate_repeats_frames_and_high_rate_spreads_them() -> None:
    slow = sampling.train_clip(total_frames=100, fps=6.0, num_frames=8, sampling_rate=4, u=0.0)
    assert slow == [0, 0, 1, 2, 3, 3, 4, 5]  # span 6.4, spacing 0.771
    fast = sampling.train_clip(total_frames=100, fps=60.0, num_frames=8, sampling_rate=4, u=0.0)
    assert fast == [0, 9, 18, 27, 36, 45, 54, 63]


def test_one_frame_clip() -> None:
    assert sampling.train_clip(total_frames=11, fps=30.0, num_frames=1, sampling_rate=1, u=0.5) == [5]


def test_test_clips_reach_both_ends_of_the_video() -> None:
    starts_and_ends = []
    for view in range(5):
        indices = sampling.test_clip(total_frames=300, fps=30.0, num_frames=16, sampling_rate=4, view=view, num_views=5)
        starts_and_ends.append((indices[0], indices[-1]))
    assert starts_and_ends == [(0, 63), (59, 122), (118, 181), (177, 240), (236, 299)]


def test_single_test_view_is_the_middle_one() -> None:
    indices = sampling.test_clip(total_frames=101, fps=30.0, num_frames=4, sampling_rate=4, view=0, num_views=1)
    assert indices == [42, 47, 52, 57]  # slack 85, start floor(42.5)


def test_float64_equals_the_published_float32_positions() -> None:
    for num_frames, rate in ((16, 4), (32, 3), (40, 3)):
        for fps in (24.0, 25.0, 30000 / 1001, 30.0):
            span = sampling.clip_span(num_frames=num_frames, sampling_rate=rate, fps=fps)
            for total in range(40, 460, 21):
                for view in range(5):
                    got = sampling.test_clip(
                        total_frames=total, fps=fps, num_frames=num_frames, sampling_rate=rate, view=view, num_views=5
                    )
                    start = view * math.floor(max(total - span, 0) / 4)
                    published = torch.linspace(start, start + span - 1, num_frames).clamp(0, total - 1).long()
                    assert got == published.tolist()


def test_an_exact_position_is_not_truncated_below_itself() -> None:
    # 8x4 at 25 frames/s: spacing 11/3, so the seventh frame is exactly 42 + 22; float32 arrives at 63.
    indices = sampling.test_clip(total_frames=411, fps=25.0, num_frames=8, sampling_rate=4, view=1, num_views=10)
    assert indices[0] == 42
    assert indices[6] == 64


def test_segments_in_test_are_the_midpoints() -> None:
    # Length 9/4: borders 0, 2, 4, 7, 9.
    assert sampling.test_segments(total_frames=10, num_frames=4) == [1, 3, 5, 8]
    assert sampling.test_segments(total_frames=49, num_frames=16) == [1, 4, 7, 10, 13, 16, 19, 22] + [
        25, 28, 31, 34, 37, 40, 43, 46,
    ]  # fmt: skip


def test_segments_of_a_video_with_fewer_frames_than_the_clip() -> None:
    assert sampling.test_segments(total_frames=3, num_frames=8) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sampling.test_segments(total_frames=1, num_frames=4) == [0, 0, 0, 0]


def test_segments_in_training_cover_both_ends_of_each_segment() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([sampling.train_segments(total_frames=10, num_frames=4, rng=rng) for _ in range(400)])
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1, 2], [2, 3, 4], [4, 5, 6, 7], [7, 8, 9]]


@pytest.mark.parametrize(
    ("index", "num_spatial", "expected"), [(0, 3, (0, 0)), (2, 3, (0, 2)), (7, 3, (2, 1)), (4, 1, (4, 0))]
)
def test_view_number_is_temporal_times_spatial_views_plus_spatial(
    index: int, num_spatial: int, expected: tuple[int, int]
) -> None:
    assert sampling.view_of(index, num_spatial) == expected


def test_sampler_trains_from_the_generator_alone() -> None:
    sampler = sampling.ClipSampler(num_frames=16, sampling_rate=4)
    first = sampler.train(300, 30.0, np.random.default_rng(3))
    assert first == sampler.train(300, 30.0, np.random.default_rng(3))
    u = float(np.random.default_rng(3).random())
    assert first == sampling.train_clip(total_frames=300, fps=30.0, num_frames=16, sampling_rate=4, u=u)
    assert first != sampler.train(300, 30.0, np.random.default_rng(4))


def test_sampler_takes_spans_or_segments() -> None:
    spans = sampling.ClipSampler(num_frames=4, sampling_rate=2, target_fps=30.0)
    assert spans.test(20, 30.0, 2, 3) == [12, 14, 16, 19]
    segments = sampling.ClipSampler(num_frames=4, sampling_rate=2, mode="segments")
    assert segments.test(10, 30.0, 0, 2) == segments.test(10, 30.0, 1, 2) == [1, 3, 5, 8]
    drawn = segments.train(10, 30.0, np.random.default_rng(0))
    assert drawn == sampling.train_segments(total_frames=10, num_frames=4, rng=np.random.default_rng(0))


def test_bad_values_are_refused_with_the_rule() -> None:
    good = {"total_frames": 10, "fps": 30.0, "num_frames": 4, "sampling_rate": 2}
    with pytest.raises(ValueError, match=r"total_frames=0: must be at least 1"):
        sampling.train_clip(**(good | {"total_frames": 0}), u=0.0)
    with pytest.raises(ValueError, match=r"fps=0\.0: must be a positive number"):
        sampling.train_clip(**(good | {"fps": 0.0}), u=0.0)
    with pytest.raises(ValueError, match=r"fps=nan: must be a positive number"):
        sampling.test_clip(**(good | {"fps": math.nan}), view=0, num_views=1)
    with pytest.raises(ValueError, match=r"u=1\.0: the start of a clip is a fraction in \[0, 1\)"):
        sampling.train_clip(**good, u=1.0)
    with pytest.raises(ValueError, match=r"view=5: temporal views run from 0 to 4"):
        sampling.test_clip(**good, view=5, num_views=5)
    with pytest.raises(ValueError, match=r"num_frames=0: must be at least 1"):
        sampling.test_segments(total_frames=5, num_frames=0)
    with pytest.raises(ValueError, match=r"view index -1: views are numbered from 0"):
        sampling.view_of(-1, 3)
    with pytest.raises(ValueError, match=r"num_spatial=0"):
        sampling.view_of(1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, r"num_frames=0: must be at least 1"),
        ({"sampling_rate": -1}, r"sampling_rate=-1: must be a positive number"),
        ({"target_fps": 0.0}, r"target_fps=0\.0: must be a positive number"),
        ({"mode": "tsn"}, r"mode='tsn': clips are sampled by 'span' or by 'segments'"),
    ],
)
def test_sampler_checks_its_settings(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampling.ClipSampler(**({"num_frames": 16, "sampling_rate": 4} | change))


def test_sampler_refuses_a_view_that_does_not_exist_in_either_mode() -> None:
    for mode in ("span", "segments"):
        with pytest.raises(ValueError, match=r"view=3: temporal views run from 0 to 2"):
            sampling.ClipSampler(num_frames=4, sampling_rate=2, mode=mode).test(20, 30.0, 3, 3)


def test_segments_are_cut_from_pictures_extracted_at_the_target_rate() -> None:
    """Four frames at 12 a second are extracted as ten pictures, 0 0 1 1 1 2 2 3 3 3."""
    sampler = sampling.ClipSampler(num_frames=5, sampling_rate=1, mode="segments")
    # Segments of 1.8 from 0 to 9: middles 1, 3, 4, 6, 8.
    assert sampler.test(total_frames=4, fps=12.0, view=0, num_views=1) == [0, 1, 1, 2, 3]
    # At the target rate itself nothing changes.
    assert sampler.test(total_frames=10, fps=30.0, view=0, num_views=1) == [1, 3, 4, 6, 8]


def test_segments_reckon_with_the_times_of_the_file() -> None:
    """The same frames in WebM, at 0, 83, 167 and 250 ms, are extracted as 0 0 1 1 2 2 2 3 3 3."""
    sampler = sampling.ClipSampler(num_frames=5, sampling_rate=1, mode="segments")
    times = FrameTimes(Fraction(1, 1000), np.array([0, 83, 167, 250]), np.full(4, 83))
    assert sampler.test(4, 12.0, 0, 1, times=times) == [0, 1, 2, 2, 3]
    shown = [0, 0, 1, 1, 2, 2, 2, 3, 3, 3]
    pictures = sampling.train_segments(total_frames=10, num_frames=5, rng=np.random.default_rng(4))
    drawn = sampler.train(4, 12.0, np.random.default_rng(4), times=times)
    assert drawn == [shown[picture] for picture in pictures]
    # Spans are laid by the frame rate alone.
    spans = sampling.ClipSampler(num_frames=2, sampling_rate=1)
    assert spans.test(4, 12.0, 0, 1, times=times) == spans.test(4, 12.0, 0, 1)
