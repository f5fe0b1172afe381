"""Clips made on the model's device are the clips a worker would have made, from the same draws."""

import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mvit_video.data.augmentation import image_ops, randaugment, transforms
from mvit_video.data.augmentation.clip_views import ClipSource, EvalView, eval_view
from mvit_video.data.augmentation.randaugment import INCREASING_OPS, OPS, OpDraw, apply_ops, op_argument
from mvit_video.data.augmentation.transforms import TrainTransform, ViewDraw, apply_view
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import MotionSource
from mvit_video.data.loading.batch import Batch
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.dataset import DecodeOptions, EvalDataset, TrainDataset
from mvit_video.data.loading.loader import LoaderOptions, TrainLoader, eval_loader
from mvit_video.data.loading.packed_clips import pack
from mvit_video.data.sampling import ClipSampler
from mvit_video.video.reader import VideoReader
from mvit_video.video.yuv import YuvFrames

SAMPLER = ClipSampler(num_frames=8, sampling_rate=3)
CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
KINETICS = TrainTransform(
    crop_size=40, randaugment="rand-m7-n4-mstd0.5-inc1", erase_prob=0.5, decode_short_side=44, scale=(0.2, 1.0)
)
SSV2 = TrainTransform(
    crop_size=40, crop="jitter", jitter=(41, 60), inverse_uniform=True, flip=0.5, randaugment="rand-m7-n4-mstd0.5-inc1"
)


@pytest.fixture
def manifest(motion_root: Path) -> Manifest:
    return MotionSource(root=str(motion_root), train_videos=32, test_videos=16).manifest("train")


def train_set(manifest: Manifest, transform: TrainTransform, decoding: DecodeOptions) -> TrainDataset:
    return TrainDataset(manifest, sampler=SAMPLER, transform=transform, repeats=2, seed=5, decoding=decoding)


def eval_set(manifest: Manifest, decoding: DecodeOptions) -> EvalDataset:
    return EvalDataset(
        manifest, sampler=SAMPLER, temporal_views=2, spatial_views=3, short_side=50, crop_size=40, decoding=decoding
    )


def same_but_for_clips(one: Batch, other: Batch) -> bool:
    tensors = ("labels", "videos", "views", "erase", "noise_seeds", "failed")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors) and one.paths == other.paths


def off_by(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean absolute difference in grey levels."""
    return float((one.cpu().double() - other.cpu().double()).abs().mean())


def natural(height: int = 60, width: int = 81, frames: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(frames, 3, 7, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1) * 200 + 30
    return smooth.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("transform", [KINETICS, SSV2])
def test_the_device_makes_the_workers_bytes(manifest: Manifest, transform: TrainTransform) -> None:
    keys = [(0, place, video) for place, video in enumerate((3, 9, 20))]
    worker, device = (
        collate([dataset[key] for key in keys])
        for dataset in (train_set(manifest, transform, DecodeOptions(device=where)) for where in ("worker", "model"))
    )
    assert worker.packed is None
    assert device.packed is not None
    assert device.clips.numel() == 0
    assert len(device.labels) == device.packed.num_clips == 6
    made = device.to(CPU)
    assert made.packed is None
    assert torch.equal(made.clips, worker.clips)
    assert same_but_for_clips(made, worker)


def test_yuv_planes_take_half_the_bytes_and_give_the_same_pictures(manifest: Manifest) -> None:
    keys = [(0, place, video) for place, video in enumerate((3, 9))]
    batches = {
        (layout, where): collate(
            [train_set(manifest, KINETICS, DecodeOptions(layout=layout, device=where))[key] for key in keys]
        )
        for layout in ("rgb", "yuv420")
        for where in ("worker", "model")
    }
    packed = [batches[layout, "model"].packed for layout in ("rgb", "yuv420")]
    assert packed[0] is not None
    assert packed[1] is not None
    assert packed[1].pixels.numel() * 2 == packed[0].pixels.numel()
    in_worker = batches["yuv420", "worker"]
    assert torch.equal(batches["yuv420", "model"].to(CPU).clips, in_worker.clips)
    assert same_but_for_clips(in_worker, batches["rgb", "worker"])
    # RandAugment's histograms and thresholds make more of a grey level; without it they stay as close as the frames.
    plain = replace(KINETICS, randaugment=None)
    one, other = (train_set(manifest, plain, DecodeOptions(layout=name))[keys[0]].clips for name in ("rgb", "yuv420"))
    assert off_by(one, other) < 0.5


@pytest.mark.parametrize("layout", ["rgb", "yuv420"])
def test_test_views_on_the_device(manifest: Manifest, layout: str, tmp_path: Path) -> None:
    paths = (*manifest.paths[:3], str(tmp_path / "gone.mp4"))
    some = Manifest(paths, manifest.labels[:4], manifest.class_names, "list")
    worker, device = (
        collate([eval_set(some, DecodeOptions(layout=layout, device=where))[video] for video in range(4)])  # type: ignore[arg-type]
        for where in ("worker", "model")
    )
    made = device.to(CPU)
    assert torch.equal(made.clips, worker.clips)
    assert same_but_for_clips(made, worker)
    assert made.clips.shape == (24, 8, 40, 40, 3)
    assert made.failed.tolist() == [False] * 18 + [True] * 6
    assert int(made.clips[18:].max()) == 0
    rgb = collate([eval_set(some, DecodeOptions())[video] for video in range(4)])
    assert off_by(made.clips, rgb.clips) < 0.5


@pytest.mark.parametrize("where", ["worker", "model"])
def test_loader_processes_change_nothing(manifest: Manifest, where: str) -> None:
    dataset = train_set(manifest, KINETICS, DecodeOptions(device=where))  # type: ignore[arg-type]
    loaders = [
        TrainLoader(
            dataset,
            batch_size=3,
            accumulate=1,
            rank=0,
            world_size=1,
            seed=5,
            loading=LoaderOptions(num_workers=workers),
        )
        for workers in (0, 2)
    ]
    for one, other in zip(*(islice(loader.batches(4), 4) for loader in loaders), strict=True):
        assert torch.equal(one.to(CPU).clips, other.to(CPU).clips)
        assert same_but_for_clips(one, other)
        assert (one.epoch, one.position) == (other.epoch, other.position)
    views = [
        list(
            eval_loader(
                eval_set(manifest, DecodeOptions(device=where)),  # type: ignore[arg-type]
                clips_per_batch=12, rank=1, world_size=2, loading=LoaderOptions(num_workers=workers),
            )
        )
        for workers in (0, 2)
    ]  # fmt: skip
    assert [len(batches) for batches in views] == [8, 8]
    for one, other in zip(*views, strict=True):
        assert torch.equal(one.to(CPU).clips, other.to(CPU).clips)


def test_a_video_is_opened_once_and_each_frame_decoded_once(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated augmentation and many views cost no more decoding than one."""
    opened: list[str] = []
    decoded: list[int] = []
    original = VideoReader.__init__, VideoReader._fill

    def init(self: VideoReader, video: object, **options: object) -> None:
        opened.append(str(video))
        original[0](self, video, **options)  # type: ignore[arg-type]

    def fill(self: VideoReader, rows: dict[int, int], *rest: object) -> None:
        decoded.extend(rows)
        original[1](self, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoReader, "__init__", init)
    monkeypatch.setattr(VideoReader, "_fill", fill)
    for layout in ("rgb", "yuv420"):
        decoding = DecodeOptions(layout=layout)
        sample = replace_repeats(train_set(manifest, KINETICS, decoding), 4)[(0, 0, 2)]
        assert len(sample.clips) == 4
        assert len(opened) == 1
        assert len(decoded) == len(set(decoded)) == 8
        opened.clear()
        decoded.clear()
        sample = eval_set(manifest, decoding)[2]
        assert len(sample.clips) == 6
        assert len(opened) == 1
        assert len(decoded) == len(set(decoded)) <= 16
        opened.clear()
        decoded.clear()


def replace_repeats(dataset: TrainDataset, repeats: int) -> TrainDataset:
    dataset.repeats = repeats
    return dataset


def test_a_batch_survives_pickling(manifest: Manifest) -> None:
    for where in ("worker", "model"):
        batch = collate([train_set(manifest, SSV2, DecodeOptions(device=where))[(0, 0, 1)]])
        again = pickle.loads(pickle.dumps(batch))
        assert same_but_for_clips(batch, again)
        assert torch.equal(batch.to(CPU).clips, again.to(CPU).clips)
        assert again.to(CPU).clips.dtype == torch.uint8


def test_packing_keeps_sizes_layouts_and_order() -> None:
    view = EvalView(rows=(0, 1, 0), scaled=(20, 30), box=(2, 3, 16, 16))
    y, uv = torch.full((2, 21, 33), 90, dtype=torch.uint8), torch.full((2, 2, 11, 17), 128, dtype=torch.uint8)
    sources = [
        ClipSource(natural(40, 60, 2), (view, view)),
        ClipSource(YuvFrames(y, uv, "bt709", True), (view,)),
        ClipSource(natural(20, 30, 2), (view,)),
    ]
    packed = pack(sources)
    assert packed.pixels.shape == (2 * 40 * 60 * 3 + 2 * (21 * 33 + 2 * 11 * 17) + 2 * 20 * 30 * 3,)
    clips = packed.clips()
    assert clips.shape == (4, 3, 16, 16, 3)
    expected = torch.cat([source.clips() for source in sources])
    assert torch.equal(clips, expected)
    assert (clips[2] == 90).all()
    assert torch.equal(clips[3][2], natural(20, 30, 2)[0, 2:18, 3:19])


def test_eval_view_is_the_test_view() -> None:
    frames = natural(60, 81)
    for spatial in range(3):
        options = {"short_side": 50, "crop_size": 40, "spatial_view": spatial, "num_spatial": 3}
        source = ClipSource(frames, (eval_view([3, 0], 60, 81, **options),))
        assert torch.equal(source.clips()[0], transforms.test_view(frames[[3, 0]], **options))


def test_larger_frames_are_tested_as_they_are_trained_on() -> None:
    """Test views are antialiased above the decoder's short side; up to it they are what they are without the option."""
    options = {"short_side": 50, "crop_size": 40, "spatial_view": 1, "num_spatial": 3}
    for height, width in ((48, 81), (50, 81)):
        frames = natural(height, width)
        view = eval_view([3, 0], height, width, **options, decode_short_side=50)
        assert view == eval_view([3, 0], height, width, **options)
        expected = transforms.test_view(frames[[3, 0]], **options)
        assert torch.equal(ClipSource(frames, (view,)).clips()[0], expected)
        assert torch.equal(transforms.test_view(frames[[3, 0]], **options, decode_short_side=50), expected)
    frames = natural(150, 210)
    view = eval_view([3, 0], 150, 210, **options, decode_short_side=50)
    assert view.antialias
    tested = ClipSource(frames, (view,)).clips()[0]
    assert torch.equal(tested, transforms.test_view(frames[[3, 0]], **options, decode_short_side=50))
    as_trained = transforms.resize(
        frames[[3, 0]], *TrainTransform(crop_size=40, decode_short_side=50).decoded_size(150, 210), antialias=True
    )
    assert torch.equal(tested, as_trained[:, 5:45, 15:55])


@pytest.fixture(scope="module")
def noisy_720p(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with detail that only a filter keeps out of a small picture."""
    path = tmp_path_factory.mktemp("large") / "noise.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "10"}
        for _ in range(2):
            noise = rng.integers(20, 236, (720, 1280, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("where", ["worker", "model"])
@pytest.mark.parametrize("layout", ["rgb", "yuv420"])
def test_a_720p_file_is_scaled_for_tests_as_for_training(noisy_720p: Path, layout: str, where: str) -> None:
    manifest = Manifest((str(noisy_720p),), (0,), ("noise",), "list")
    sampler = ClipSampler(num_frames=2, sampling_rate=1)
    decoding = DecodeOptions(layout=layout, device=where)  # type: ignore[arg-type]
    options = {"sampler": sampler, "temporal_views": 1, "spatial_views": 1, "short_side": 256, "crop_size": 256}
    batches = [
        collate([EvalDataset(manifest, **options, decode_short_side=side, decoding=decoding)[0]])  # type: ignore[arg-type]
        for side in (256, None)
    ]
    tested, plain = (batch.to(CPU).clips[0] for batch in batches)
    whole = TrainTransform(crop_size=256, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, decode_short_side=256)
    with VideoReader(noisy_720p) as video:
        draw = whole.draw(720, 1280, np.random.default_rng(0))
        trained = apply_view(
            video.read([0, 1]), replace(draw, box=transforms.uniform_crop_box(256, 455, size=256, position=1))
        )
    assert off_by(tested, trained) < 1
    assert (tested.short() - trained.short()).abs().max() <= (0 if layout == "rgb" else 2)
    assert off_by(plain, trained) > 5


def draws_of(name: str) -> list[OpDraw]:
    return [
        OpDraw(name=name, magnitude=m, argument=op_argument(name, magnitude=m, sign=sign, height=60, width=81))
        for m in (0.0, 3.3, 7.0, 10.0)
        for sign in (1, -1)
    ]


@pytest.mark.parametrize("name", sorted({*OPS, *INCREASING_OPS}))
def test_part_of_an_operations_result_is_cut_from_the_whole(name: str) -> None:
    frames = natural(frames=2)
    others = [OpDraw(name="SharpnessIncreasing", magnitude=7.0, argument=1.63), draws_of("Rotate")[4]]
    for draw in draws_of(name):
        for draws in ([draw], [others[0], draw], [draw, others[0], draw], [draw, others[1], others[0]]):
            whole = apply_ops(frames, draws)
            for box in ((0, 0, 60, 81), (10, 20, 30, 17), (0, 31, 1, 50), (59, 80, 1, 1)):
                top, left, height, width = box
                cut = whole[:, top : top + height, left : left + width]
                assert torch.equal(apply_ops(frames, draws, box=box), cut), (box, draws)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted({*OPS, *INCREASING_OPS}))
def test_operations_as_a_gpu_does_them(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = natural()
    for draw in draws_of(name):
        expected = apply_ops(frames, [draw], box=(5, 6, 40, 50))
        with monkeypatch.context() as patch:
            for module in (image_ops, randaugment, transforms):
                patch.setattr(module, "on_gpu", lambda tensor: True)
            got = apply_ops(frames.to(device), [draw], box=(5, 6, 40, 50)).cpu()
        assert (got.int() - expected.int()).abs().max() <= 1, draw
        assert off_by(got, expected) < 0.01, draw


@pytest.mark.parametrize("device", DEVICES)
def test_views_as_a_gpu_makes_them(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = natural()
    differences = []
    for seed in range(30):
        transform = (KINETICS, SSV2)[seed % 2]
        draw = transform.draw(60, 81, np.random.default_rng(seed))
        expected = apply_view(frames, draw)
        with monkeypatch.context() as patch:
            for module in (image_ops, randaugment, transforms):
                patch.setattr(module, "on_gpu", lambda tensor: True)
            got = apply_view(frames.to(device), draw).cpu()
        assert got.shape == expected.shape
        assert got.is_contiguous()
        differences.append(off_by(got, expected))
    assert max(differences) < 1.0
    assert np.mean(differences) < 0.3


def test_a_gpu_is_never_waited_for() -> None:
    """Meta tensors have no values: whatever looks at one, and would wait for a GPU, raises."""
    frames = torch.empty((4, 60, 81, 3), dtype=torch.uint8, device="meta")
    for seed in range(4):
        draw = (KINETICS, SSV2)[seed % 2].draw(60, 81, np.random.default_rng(seed))
        assert apply_view(frames, draw).shape == (4, 40, 40, 3)
    for name in sorted({*OPS, *INCREASING_OPS}):
        assert apply_ops(frames, draws_of(name)[2:4]).shape == (4, 60, 81, 3)
    planes = (torch.empty((4, 60, 81), dtype=torch.uint8, device="meta"), torch.empty((4, 2, 30, 41), device="meta"))
    view = KINETICS.draw(44, 59, np.random.default_rng(0))
    assert isinstance(view, ViewDraw)
    assert ClipSource(YuvFrames(planes[0], planes[1], "bt601", False), (view, view)).clips().shape == (2, 4, 40, 40, 3)
