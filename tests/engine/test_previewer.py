"""The preview shows the tensors that a training step and an evaluation hand to the model, and says whose they are."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_video import build
from mvit_video.build import training
from mvit_video.build.clips import build_eval_dataset, build_train_loader
from mvit_video.build.common import build_source
from mvit_video.build.samples import build_mixing, build_normalization, read_manifest
from mvit_video.config import Train
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.loader import LoaderOptions, TrainLoader
from mvit_video.distributed.process_group import World
from mvit_video.engine.contact_sheet import denormalize_clips
from mvit_video.engine.preview import Item, Look, Section, make_sheet, paginate, write_preview
from mvit_video.tasks.classification import Normalization
from mvit_video.tasks.clip_preview import class_text, evaluation_views, target_text, training_clips
from mvit_video.video.reader import VideoReader, read_frames
from tests.conftest import motion_overrides, options
from tests.paths import SHARED_CLIPS

WORLD = World(rank=0, size=1, device=torch.device("cpu"))
MIXED = ("augment.mixup_alpha=0.8", "augment.cutmix_alpha=1", "augment.smoothing=0.1", "augment.erase_prob=1")


def loader_of(config: Train, world: World = WORLD) -> TrainLoader:
    source = build_source(config.data, WORLD)
    return build_train_loader(config, read_manifest(config, source, "train"), world)


def shown(config: Train, loader: TrainLoader, *, step: int = 0, count: int = 8) -> list[Item]:
    clips, failures = training_clips(
        loader,
        normalization=build_normalization(config.data),
        mixing=build_mixing(config),
        seed=config.seed,
        step=step,
        count=count,
    )
    assert not failures
    return clips


class Recorder(torch.nn.Module):
    """A model that keeps what it is given."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, classes)
        self.seen: list[torch.Tensor] = []

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.seen.append(clips.detach().clone())
        return self.head(clips.mean(dim=(2, 3, 4)))


def trained_on(config: Train, steps: int, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Every tensor that a run of `steps` steps gave its model, (clips, 3, T, H, W)."""
    recorder = Recorder(8)
    monkeypatch.setattr(training, "build_model", lambda config: recorder)
    monkeypatch.setattr(training, "build_validate", lambda *arguments: None)
    config.trainer.max_steps = steps
    build.train(config)
    return torch.cat(recorder.seen)


@pytest.mark.parametrize(("step", "more"), [(0, ()), (5, ("data.layout=yuv420", "augment.device=model"))])
def test_what_is_shown_is_what_the_model_is_trained_on(motion_root, tmp_path, monkeypatch, step, more) -> None:
    """Steps 0 and 5 of a real run of 32 videos, 4 a batch, 2 batches a step: step 5 is in the second epoch."""
    overrides = motion_overrides(motion_root, tmp_path, "trainer.accumulate=2", "augment.repeats=2", *MIXED, *more)
    config = options(*overrides, "optim.no_decay=[]")
    config.trainer.batch_size = 4
    clips = shown(config, loader_of(config), step=step, count=16)
    seen = trained_on(config, step + 1, monkeypatch)[step * 16 :]
    expected = denormalize_clips(seen, mean=config.data.mean, std=config.data.std)
    assert len(seen) == 16
    np.testing.assert_array_equal(np.stack([clip.pictures for clip in clips]), expected)
    assert {clip.position.split(", place")[0] for clip in clips} == {f"step {step}, epoch {step // 4}"}


def test_mixing_is_shown_and_named(motion_root, tmp_path) -> None:
    base = motion_overrides(motion_root, tmp_path, "augment.mix_prob=1", "augment.smoothing=0.1")
    plain = options(*base)
    apart = shown(plain, loader_of(plain))
    config = options(*base, "augment.mixup_alpha=5")
    mixed = shown(config, loader_of(config))
    for row, (clip, own, partner) in enumerate(zip(mixed, apart, apart[::-1])):
        share = float(clip.title.split()[1])
        other = f"{1 - share:.2f}"
        assert clip.title == f"mixup  {share:.2f} {own.title}  +  {other} {partner.title}"
        assert (clip.path, clip.mixed_with) == (own.path, partner.path)
        expected = share * own.pictures.astype(float) + (1 - share) * partner.pictures.astype(float)
        assert np.abs(clip.pictures - expected).max() < 2.5, row  # the title rounds the share to 1/100
        assert own.mixed_with == "" and own.title in own.target
    assert mixed[0].target.count(" + ") == 1 and mixed[0].target.endswith("0.0125 each of the others")


def test_cutmix_is_shown(motion_root, tmp_path) -> None:
    base = motion_overrides(motion_root, tmp_path)
    plain = options(*base)
    apart = shown(plain, loader_of(plain))
    config = options(*base, "augment.cutmix_alpha=1")
    mixed = shown(config, loader_of(config))
    inside = (mixed[0].pictures != apart[0].pictures).any(axis=(0, 3))
    share = float(mixed[0].title.split()[1])
    assert mixed[0].title.startswith("cutmix ") and 0 < inside.mean() <= 1 - share + 0.01
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    np.testing.assert_array_equal(mixed[0].pictures[box], apart[7].pictures[box])


def test_erasing_is_shown(motion_root, tmp_path) -> None:
    base = motion_overrides(motion_root, tmp_path)
    plain, config = options(*base), options(*base, "augment.erase_prob=1")
    changed = [
        (erased.pictures != whole.pictures).any(axis=(0, 3)).mean()
        for erased, whole in zip(shown(config, loader_of(config)), shown(plain, loader_of(plain)))
    ]
    assert min(changed) > 0.015 and max(changed) < 0.36


def test_frame_numbers_are_those_of_the_pictures(motion_root, tmp_path) -> None:
    """With crops of the full height a picture is a part of the frame whose number stands below it."""
    config = options(*motion_overrides(motion_root, tmp_path, "augment.jitter=[80,80]", "data.test_short_side=80"))
    config.data.crop_size = 80
    for clip in shown(config, loader_of(config), step=1, count=4):
        frames = read_frames(clip.path, clip.frames).numpy()
        assert frames.shape[1] == 80
        places = range(frames.shape[2] - 80 + 1)
        assert any(np.array_equal(clip.pictures, frames[:, :, left : left + 80]) for left in places)
        assert clip.extent.startswith(f"frames {clip.frames[0]} to {clip.frames[-1]} of {clip.total}, ")


def test_frame_numbers_of_a_segment_count_in_its_file(motion_root, tmp_path) -> None:
    config = options(*motion_overrides(motion_root, tmp_path))
    manifest = read_manifest(config, build_source(config.data, WORLD), "test")
    part = replace(manifest, segments=Segments([(0.5, 1.0)] * len(manifest)))
    dataset = build_eval_dataset(config, part, temporal_views=1, spatial_views=1)
    clips, _ = evaluation_views(dataset, normalization=build_normalization(config.data), count=1)
    loader = build_train_loader(config, part, WORLD)
    for item in [*clips, *shown(config, loader, count=4)]:
        with VideoReader(item.path) as video:
            inside = video.frames_between(0.5, 1.0)
        assert set(item.frames) <= set(inside) and min(inside) > 0


def test_batches_of_another_rank(motion_root, tmp_path) -> None:
    config = options(*motion_overrides(motion_root, tmp_path, "trainer.batch_size=4"))
    alone = shown(config, loader_of(config), count=8)
    second = shown(config, loader_of(config, World(rank=1, size=2, device=WORLD.device)), count=4)
    assert [clip.path for clip in second] == [clip.path for clip in alone[4:]]
    assert second[0].position == "step 0, epoch 0, place 4 in its order"


def views_of(config: Train, count: int) -> tuple[list[Item], list[tuple[str, str]]]:
    source = build_source(config.data, WORLD)
    manifest = read_manifest(config, source, "test")
    data = config.data
    dataset = build_eval_dataset(
        config, manifest, temporal_views=data.test_temporal_views, spatial_views=data.test_spatial_views
    )
    return evaluation_views(dataset, normalization=build_normalization(data), count=count)


def test_views_are_those_of_an_evaluation(motion_root, tmp_path) -> None:
    config = options(*motion_overrides(motion_root, tmp_path, "data.test_spatial_views=3"))
    clips, failures = views_of(config, count=3)
    source = build_source(config.data, WORLD)
    manifest = read_manifest(config, source, "test")
    dataset = build_eval_dataset(config, manifest, temporal_views=3, spatial_views=3)
    assert not failures and len(clips) == 27
    assert [clip.path for clip in clips[::9]] == [manifest.paths[video] for video in (0, 8, 15)]
    given = build_normalization(config.data)(collate([dataset[8]]).to(WORLD.device))
    expected = denormalize_clips(given, mean=config.data.mean, std=config.data.std)
    np.testing.assert_array_equal(np.stack([clip.pictures for clip in clips[9:18]]), expected)
    name = manifest.class_names[manifest.labels[8]]
    assert clips[11].title == f"{name} ({manifest.labels[8]})  ·  view 3 of 9: clip 1, right crop"
    for clip in clips[9:18]:
        assert len(clip.frames) == 8 and list(clip.frames) == sorted(clip.frames)
    assert clips[9].frames == clips[10].frames != clips[12].frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two real clips each, one of them no video, in train/ and val/."""
    if not SHARED_CLIPS.is_dir():
        pytest.skip("no real clips on this machine")
    videos = sorted(path for path in SHARED_CLIPS.iterdir() if path.suffix in (".mp4", ".avi", ".mkv"))
    for split in ("train", "val"):
        for name, video in zip(("größer | breiter", "打篮球"), videos):
            place = tmp_path / "videos" / split / name
            place.mkdir(parents=True)
            shutil.copy(video, place / "good.mp4")
        (tmp_path / "videos" / split / "größer | breiter" / "broken.mp4").write_text("no video")
    return tmp_path / "videos"


def folder_options(folder: Path, *more: str) -> Train:
    return options(
        "+experiment=finetune_folder", "weights=x",
        f"data.source.train={folder}/train", f"data.source.val={folder}/val",
        "data.num_frames=4", "data.crop_size=32", "data.test_short_side=36", "augment.decode_short_side=40",
        "data.test_temporal_views=2", "trainer.batch_size=3", "trainer.num_workers=0", *more,
    )  # fmt: skip


def test_a_broken_training_video_is_replaced_and_listed(folder, tmp_path) -> None:
    config = folder_options(folder)
    clips, failures = training_clips(
        loader_of(config),
        normalization=build_normalization(config.data),
        mixing=build_mixing(config),
        seed=0,
        step=0,
        count=3,
    )
    assert [(Path(path).name, reason.split(":")[0]) for path, reason in failures] == [
        ("broken.mp4", "cannot be opened")
    ]
    assert all("good.mp4" in clip.path for clip in clips)
    section = Section("train", "train", (), clips, failures)
    write_preview(tmp_path / "out", [section], title="t", options="", look=Look())
    assert "Could not be read:" in (tmp_path / "out" / "index.md").read_text(encoding="utf-8")
    sheet = make_sheet(clips, heading="", about=(), notes=("x", "y"), look=Look())
    assert Image.open(tmp_path / "out" / "train_01.png").size[1] == sheet.layout().page_height


def test_a_broken_test_video_has_a_row_that_says_so(folder, tmp_path) -> None:
    config = folder_options(folder)
    clips, failures = views_of(config, count=9)
    broken = [clip for clip in clips if clip.pictures is None]
    assert len(clips) == 5 and len(broken) == len(failures) == 1
    assert broken[0].problem.startswith("cannot be opened") and broken[0].path.endswith("broken.mp4")
    written = write_preview(
        tmp_path / "out",
        [Section("test", "views", (), clips, failures)],
        title="a_b",
        options="x: 1\n",
        look=Look(animate=True),
    )
    names = [f"test_clip_{number:02d}.webp" for number in (2, 3, 4, 5)]
    assert {path.name for path in written} == {"test_01.png", "index.md", *names}
    index = (tmp_path / "out" / "index.md").read_text(encoding="utf-8")
    assert "**could not be read**" in index and "打篮球 (1)" in index and r"größer \| breiter (0)" in index
    assert "```yaml\nx: 1\n```" in index and "[2](test_clip_02.webp)" in index
    table = [line for line in index.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in table} == {7}


def a_clip(path: str, side: int = 16, problem: str = "", frames: int = 2) -> Item:
    pictures = None if problem else np.zeros((frames, side, side, 3), np.uint8)
    return Item("class (0)", "class (0)", path, "somewhere", pictures, problem=problem)


def test_views_of_a_video_stay_on_one_sheet() -> None:
    clips = [a_clip("a")] * 5 + [a_clip("b")] * 5 + [a_clip("c", problem="bad")] + [a_clip("d")] * 9
    pages = paginate(clips, 8)
    assert [[clip.path for clip in page] for page in pages] == [["a"] * 5, ["b"] * 5 + ["c"], ["d"] * 8, ["d"]]


def test_images_have_no_column_of_frames(tmp_path) -> None:
    item = Item("a", "a", "a.jpg", "image 0", np.zeros((1, 8, 8, 3), np.uint8))
    for items, columns in (([item], 5), ([item, replace(item, frames=(3,))], 6)):
        write_preview(tmp_path, [Section("test", "h", (), items)], title="t", options="", look=Look())
        table = [line for line in (tmp_path / "index.md").read_text().splitlines() if line.startswith("|")]
        assert [line.count("|") - 1 for line in table] == [columns] * (2 + len(items))
        assert ("| frames |" in table[0]) == (columns == 6)


def test_pictures_per_row_and_their_size() -> None:
    look = Look()

    def sheet(clip: Item, look: Look):
        return make_sheet([clip], heading="", about=(), notes=(), look=look)

    small = sheet(a_clip("a", side=48, frames=20), look)
    assert (small.enlarge, small.columns) == (3, 12)
    large = sheet(a_clip("a", side=224, frames=16), look)
    assert (large.enlarge, large.columns) == (1, 8)
    chosen = sheet(a_clip("a", side=48, frames=20), Look(frames=4, scale=2))
    assert (chosen.enlarge, chosen.columns) == (2, 4)
    assert sheet(a_clip("a", frames=3), Look(frames=9)).columns == 3


def test_the_columns_are_spread_over_the_clip() -> None:
    pictures = np.arange(9, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    clip = Item("t", "t", "p", "here", pictures, frames=tuple(range(10, 100, 10)), fps=25, total=100)
    look = Look(frames=3)
    row = make_sheet([clip], heading="", about=(), notes=(), look=look).rows[0]
    assert row.pictures is not None
    assert row.pictures[:, 0, 0, 0].tolist() == [0, 4, 8] and list(row.marks) == ["10", "50", "90"]
    assert row.caption == ("t", "p", "frames 10 to 90 of 100, 25 frames/s  ·  here")


def test_names_of_classes_and_targets() -> None:
    names = ["run", "walk", "x" * 60]
    assert class_text(names, 1) == "walk (1)"
    assert class_text(names, 2) == f"{'x' * 24}…{'x' * 23} (2)"
    assert target_text(names, torch.tensor([0.0, 1.0, 0.0])) == "1 walk (1)"
    assert target_text(names[:2] + ["z"], torch.tensor([0.25, 0.7, 0.05])) == (
        "0.7 walk (1) + 0.25 run (0), 0.05 each of the others"
    )
    assert target_text(names[:2], torch.tensor([0.5, 0.5])) == "0.5 run (0), 0.5 each of the others"
    assert target_text(["only"], torch.tensor([1.0])) == "1 only (0)"


def test_files_of_an_earlier_preview_do_not_stay(tmp_path) -> None:
    look = Look()
    many = Section("train", "train", (), [a_clip(str(number)) for number in range(17)])
    write_preview(tmp_path, [many], title="t", options="", look=look)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "index.md", "train_01.png", "train_02.png", "train_03.png"
    ]  # fmt: skip
    (tmp_path / "train_09.png").write_text("somebody's own")
    few = Section("train", "train", (), [a_clip("0")])
    write_preview(tmp_path, [few], title="t", options="", look=look)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.md", "train_01.png", "train_09.png"]
    (tmp_path / "index.md").write_text("# My notes\n![](train_01.png)\n")
    write_preview(tmp_path, [Section("test", "test", (), [a_clip("0")])], title="t", options="", look=look)
    assert (tmp_path / "train_01.png").exists()  # that index was not ours


def test_unreadable_everything_is_an_error(tmp_path) -> None:
    from mvit_video.data.augmentation.mixing import Mixing
    from mvit_video.data.augmentation.transforms import TrainTransform
    from mvit_video.data.loading.dataset import TrainDataset
    from mvit_video.data.sampling import ClipSampler
    from mvit_video.video.reader import VideoDecodeError

    (tmp_path / "a.mp4").write_text("no video")
    dataset = TrainDataset(
        Manifest((str(tmp_path / "a.mp4"),), (0,), ("a",), "list"),
        sampler=ClipSampler(num_frames=2, sampling_rate=1),
        transform=TrainTransform(crop_size=8),
        repeats=1,
        seed=0,
    )
    loader = TrainLoader(
        dataset, batch_size=1, accumulate=1, rank=0, world_size=1, seed=0, loading=LoaderOptions(num_workers=0)
    )
    with pytest.raises(VideoDecodeError, match="replacements failed too"):
        training_clips(
            loader,
            normalization=Normalization(mean=[0.5] * 3, std=[0.5] * 3),
            mixing=Mixing(num_classes=1),
            seed=0,
            step=0,
            count=1,
        )
