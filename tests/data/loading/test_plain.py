"""Clips in a plain DataLoader, from a folder of class folders, without options or trainer."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from mvit_video.data import Batch, TrainTransform, collate, evaluation_clips, from_folder, normalize, training_clips
from mvit_video.data.datasets.manifest import Manifest

SIZES = {"num_frames": 4, "sampling_rate": 2, "crop_size": 32}


@pytest.fixture(scope="module")
def folder(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos in two class folders."""
    root = tmp_path_factory.mktemp("birds")
    for number, line in enumerate((motion_root / "train.csv").read_text().splitlines()[:6]):
        place = root / ("robin" if number % 2 else "wren") / f"{number}.mp4"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(motion_root / line.rsplit(maxsplit=1)[0], place)
    return root


def clips_of(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.clips for batch in batches])


def test_a_plain_loop_trains_and_evaluates(folder: Path) -> None:
    train_set = training_clips(from_folder(folder), **SIZES)
    assert len(train_set) == 6
    loader = DataLoader(train_set, batch_size=2, shuffle=True, num_workers=2, collate_fn=collate)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(2), torch.nn.Flatten(), torch.nn.Linear(24, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for batch in loader:
        clips = normalize(batch)
        assert clips.shape == (2, 3, 4, 32, 32) and clips.dtype == torch.float32
        cross_entropy(model(clips), batch.labels).backward()
        optimizer.step()
        seen += batch.videos.tolist()
    assert sorted(seen) == [*range(6)]
    views = evaluation_clips(
        from_folder(folder, class_names=train_set.manifest.class_names), **SIZES, short_side=40, temporal_views=2
    )
    scores = torch.zeros(len(views), 2)
    for batch in DataLoader(views, batch_size=3, collate_fn=collate):
        assert batch.clips.shape == (6, 4, 32, 32, 3)
        scores.index_add_(0, batch.videos, model(normalize(batch)).softmax(1).detach())
    assert torch.allclose(scores.sum(1), torch.tensor(2.0))


def test_epochs_differ_and_come_again_also_in_workers_that_stay(folder: Path) -> None:
    made = {}
    for workers in (0, 1):
        clips = training_clips(from_folder(folder), **SIZES, seed=3)
        loader = DataLoader(
            clips, batch_size=6, num_workers=workers, persistent_workers=workers > 0, collate_fn=collate
        )
        for epoch in (0, 1, 0):
            clips.set_epoch(epoch)
            made.setdefault((workers, epoch), []).append(clips_of(list(loader)))
    for (_, epoch), pair in made.items():
        assert all(torch.equal(pair[0], other) for other in pair)
        assert torch.equal(pair[0], made[0, epoch][0])
    assert not torch.equal(made[0, 0][0], made[0, 1][0])
    another = training_clips(from_folder(folder), **SIZES, seed=4)
    assert not torch.equal(another[0].clips, made[0, 0][0][:1])


def test_a_copy_tells_workers_that_stay_its_epoch(folder: Path) -> None:
    clips = copy.deepcopy(training_clips(from_folder(folder), **SIZES))
    loader = DataLoader(clips, batch_size=6, num_workers=1, persistent_workers=True, collate_fn=collate)
    epochs = []
    for epoch in (0, 1):
        clips.set_epoch(epoch)
        epochs.append(clips_of(list(loader)))
    assert not torch.equal(*epochs)


def test_a_loop_over_the_set_itself_ends(folder: Path) -> None:
    views = evaluation_clips(from_folder(folder), **SIZES, short_side=40)
    assert [sample.video for sample, _ in zip(views, range(10))] == [*range(6)]
    for number in (-1, 6):
        with pytest.raises(IndexError, match=f"file {number} of 6"):
            views[number]


def test_a_broken_video_is_replaced_and_named(folder: Path, tmp_path: Path) -> None:
    good = from_folder(folder)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    clips = training_clips(Manifest([str(broken), *good.paths], [0, *good.labels], good.class_names, "here"), **SIZES)
    sample = clips[0]
    assert sample.failures[0][0] == str(broken) and sample.video != 0


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    manifest = from_folder(folder)
    with pytest.raises(ValueError, match=r"crop_size=32 with a transform of 64"):
        training_clips(manifest, **SIZES, transform=TrainTransform(crop_size=64))
    for views in ({"short_side": 31}, {"short_side": 40, "spatial_views": 2}, {"short_side": 40, "temporal_views": 0}):
        with pytest.raises(ValueError, match=r"at most the short side|1 crop \(the centre\) or 3"):
            evaluation_clips(manifest, **SIZES, **views)
    with pytest.raises(IndexError, match="video 6 of 6"):
        training_clips(manifest, **SIZES)[6]
    with pytest.raises(AttributeError, match="no attribute 'clips'"):
        import mvit_video.data as data

        _ = data.clips  # type: ignore[attr-defined]
