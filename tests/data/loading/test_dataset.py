from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mvit_video.data.augmentation import transforms
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.data.datasets.sources import MotionSource
from mvit_video.data.loading.dataset import DRAW_CLIP, DecodeOptions, EvalDataset, TrainDataset
from mvit_video.data.sampling import ClipSampler
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import FrameTimes, VideoDecodeError, VideoReader, read_frames

SAMPLER = ClipSampler(num_frames=8, sampling_rate=3)


@pytest.fixture
def manifest(motion_root: Path) -> Manifest:
    return MotionSource(root=str(motion_root), train_videos=32, test_videos=16).manifest("train")


def transform(**changes: object) -> transforms.TrainTransform:
    values: dict[str, object] = {
        "crop_size": 48, "crop": "jitter", "jitter": (49, 60), "flip": 0.0, "randaugment": None, "erase_prob": 0.5,
        "scale": (0.08, 1.0), "ratio": (0.75, 1.3333), "inverse_uniform": False, "decode_short_side": None,
    }  # fmt: skip
    return transforms.TrainTransform(**{**values, **changes})  # type: ignore[arg-type]


def train_dataset(manifest: Manifest, *, seed: int = 0, repeats: int = 1) -> TrainDataset:
    return TrainDataset(manifest, sampler=SAMPLER, transform=transform(), repeats=repeats, seed=seed)


def with_broken(manifest: Manifest, path: Path, *indices: int) -> Manifest:
    paths = tuple(str(path) if index in indices else old for index, old in enumerate(manifest.paths))
    return Manifest(paths, manifest.labels, manifest.class_names, manifest.source)


def test_a_sample_depends_on_seed_epoch_and_index_alone(manifest: Manifest) -> None:
    first = train_dataset(manifest)[(3, 0, 5)]
    other_place = train_dataset(manifest)
    other_place[(0, 0, 1)]
    again = other_place[(3, 17, 5)]
    assert torch.equal(first.clips, again.clips)
    assert torch.equal(first.erase, again.erase)
    assert torch.equal(first.noise_seeds, again.noise_seeds)
    for other in (train_dataset(manifest, seed=1)[(3, 0, 5)], train_dataset(manifest)[(4, 0, 5)]):
        assert not torch.equal(first.clips, other.clips)


def test_repeats_augment_one_clip_independently(manifest: Manifest) -> None:
    sample = train_dataset(manifest, repeats=3)[(0, 0, 2)]
    assert sample.clips.shape == (3, 8, 48, 48, 3)
    assert sample.clips.dtype == torch.uint8
    assert sample.views.tolist() == [0, 1, 2]
    assert not torch.equal(sample.clips[0], sample.clips[1])
    assert len(set(sample.noise_seeds.tolist())) == 3
    # The first copy is what a run without repeats gets: the other copies take nothing from its random stream.
    assert torch.equal(sample.clips[0], train_dataset(manifest)[(0, 0, 2)].clips[0])


def test_a_broken_training_video_is_replaced_the_same_way_each_time(manifest: Manifest, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    dataset = train_dataset(with_broken(manifest, broken, 4))
    sample, again = dataset[(0, 0, 4)], dataset[(0, 0, 4)]
    assert sample.video != 4
    assert sample.path == manifest.paths[sample.video]
    assert sample.label == manifest.labels[sample.video]
    assert [path for path, _ in sample.failures] == [str(broken)]
    assert torch.equal(sample.clips, again.clips)
    assert dataset[(1, 0, 4)].video != sample.video or dataset[(2, 0, 4)].video != sample.video


def test_a_video_beyond_its_time_counts_as_broken(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = manifest.paths[4]
    original = VideoReader.__init__

    def init(self: VideoReader, video: VideoLocation, *, time_limit_s: float | None = None, **options: object) -> None:
        if video.url == slow and time_limit_s is not None:
            time_limit_s = 1e-9
        original(self, video, time_limit_s=time_limit_s, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoReader, "__init__", init)
    limited = TrainDataset(
        manifest, sampler=SAMPLER, transform=transform(), repeats=1, seed=0, decoding=DecodeOptions(time_limit_s=60.0)
    )
    sample = limited[(0, 0, 4)]
    assert sample.video != 4
    assert [path for path, _ in sample.failures] == [slow]
    unlimited = train_dataset(manifest)
    assert unlimited.decoding.time_limit_s is None
    assert unlimited[(0, 0, 4)].video == 4


def test_a_set_without_a_readable_video_ends_with_both_names(manifest: Manifest, tmp_path: Path) -> None:
    dataset = train_dataset(with_broken(manifest, tmp_path / "gone.mp4", *range(len(manifest))))
    with pytest.raises(VideoDecodeError, match=r"gone\.mp4: .* replacements failed too, .* Check the folder"):
        dataset[(0, 0, 0)]


def eval_dataset(manifest: Manifest, **changes: object) -> EvalDataset:
    values: dict[str, object] = {"temporal_views": 2, "spatial_views": 3, "short_side": 48, "crop_size": 48}
    return EvalDataset(manifest, **{"sampler": SAMPLER, **values, **changes})  # type: ignore[arg-type]


def test_views_are_the_temporal_clips_in_three_crops(manifest: Manifest) -> None:
    sample = eval_dataset(manifest)[3]
    assert sample.clips.shape == (6, 8, 48, 48, 3)
    total = len(_all_frames(manifest.paths[3]))
    fps = _fps(manifest.paths[3])
    for number in range(6):
        frames = SAMPLER.test(total_frames=total, fps=fps, view=number // 3, num_views=2)
        clip = read_frames(manifest.paths[3], frames)
        expected = transforms.test_view(clip, short_side=48, crop_size=48, spatial_view=number % 3, num_spatial=3)
        assert torch.equal(sample.clips[number], expected)


def test_views_that_are_the_same_frames_are_taken_once(manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    sampler = ClipSampler(num_frames=8, sampling_rate=3, mode="segments")
    dataset = eval_dataset(manifest, sampler=sampler, temporal_views=5)
    assert (dataset.temporal_views, dataset.num_views) == (1, 3)
    assert dataset[0].clips.shape[0] == 3
    assert "temporal_views=5 with sampling by segments would be the same frames 5 times" in caplog.text


def test_frame_orders_hold_the_same_frames(manifest: Manifest) -> None:
    plain, backward, shuffled = (
        eval_dataset(manifest, frame_order=order)[0].clips[0] for order in ("forward", "reversed", "shuffled")
    )
    assert torch.equal(backward, plain.flip(0))
    assert not torch.equal(shuffled, plain)
    key = lambda clip: sorted(clip.flatten(1).long().sum(1).tolist())  # noqa: E731
    assert key(shuffled) == key(plain)
    assert torch.equal(shuffled, eval_dataset(manifest, frame_order="shuffled")[0].clips[0])


def test_a_single_frame_is_the_middle_one_of_the_clip(manifest: Manifest) -> None:
    plain, single = (eval_dataset(manifest, frame_order=order)[0].clips[0] for order in ("forward", "single"))
    assert single.shape == plain.shape
    assert torch.equal(single, plain[len(plain) // 2].expand_as(plain))


def test_a_broken_evaluation_video_is_failed_not_replaced(manifest: Manifest, tmp_path: Path) -> None:
    sample = eval_dataset(with_broken(manifest, tmp_path / "gone.mp4", 1))[1]
    assert sample.failed
    assert sample.video == 1
    assert sample.failures[0][0].endswith("gone.mp4")
    assert int(sample.clips.max()) == 0


def _all_frames(path: str) -> np.ndarray:
    import av

    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _fps(path: str) -> float:
    import av

    with av.open(path) as container:
        return float(container.streams.video[0].average_rate)


def test_segments_of_a_webm_are_cut_by_its_times(tmp_path: Path) -> None:
    """Stamps in milliseconds: at 12 frames/s other frames than the frame rate alone would give."""
    path = tmp_path / "video.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=12)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(50):
            grey = np.full((64, 64, 3), 20 + 4 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        container.mux(stream.encode(None))
    manifest = Manifest((str(path),), (0,), ("a",), "list")
    sampler = ClipSampler(num_frames=16, sampling_rate=1, mode="segments")
    dataset = EvalDataset(manifest, sampler=sampler, temporal_views=1, spatial_views=1, short_side=64, crop_size=64)
    with VideoReader(path) as video:
        assert video.times is not None
        assert video.times.stamps[:4].tolist() == [0, 83, 167, 250]
        expected = sampler.test(50, 12.0, 0, 1, times=video.times)
        assert dataset.frame_numbers(0, video) == [expected]
        assert expected != sampler.test(50, 12.0, 0, 1)
        train = TrainDataset(manifest, sampler=sampler, transform=transform(), repeats=1, seed=0)
        rng = np.random.default_rng([0, 2, 0, DRAW_CLIP])
        assert train.frame_numbers(2, 0, video) == sampler.train(50, 12.0, rng, times=video.times)
        part = replace(manifest, segments=Segments([(1.0, 3.5)]))
        cut = EvalDataset(part, sampler=sampler, temporal_views=1, spatial_views=1, short_side=64, crop_size=64)
        times = FrameTimes(video.times.unit, video.times.stamps[12:42], video.times.durations[12:42])
        assert video.frames_between(1.0, 3.5) == range(12, 42)
        inside = sampler.test(30, 12.0, 0, 1, times=times)
        assert cut.frame_numbers(0, video) == [[12 + frame for frame in inside]]
        assert inside != sampler.test(30, 12.0, 0, 1)
    assert torch.equal(dataset[0].clips[0], read_frames(path, expected))
