from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.shards import shard_order
from mvit_video.data.datasets.sources import MotionSource
from mvit_video.data.loading.batch import Batch
from mvit_video.data.loading.dataset import EvalDataset
from mvit_video.data.loading.loader import LoaderOptions, TrainLoader, epoch_order, eval_loader
from mvit_video.data.sampling import ClipSampler
from tests.data.loading.test_dataset import train_dataset


@pytest.fixture
def manifest(motion_root: Path) -> Manifest:
    return MotionSource(root=str(motion_root), train_videos=32, test_videos=16).manifest("train")


def loader(manifest: Manifest, **changes: int) -> TrainLoader:
    values = {"batch_size": 3, "accumulate": 1, "rank": 0, "world_size": 1, "seed": 7}
    loading = LoaderOptions(num_workers=changes.pop("num_workers", 0))
    return TrainLoader(train_dataset(manifest, seed=7, repeats=2), loading=loading, **{**values, **changes})


def same(one: Batch, other: Batch) -> bool:
    tensors = ("clips", "labels", "videos", "views", "erase", "noise_seeds")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)


def test_an_epoch_visits_each_video_once_and_repeats_stay_together(manifest: Manifest) -> None:
    subject = loader(manifest)
    assert subject.steps_per_epoch == 10
    batches = list(islice(subject.batches(0), 11))
    videos = torch.cat([batch.videos for batch in batches[:10]]).tolist()
    assert videos[0::2] == videos[1::2] == epoch_order(32, seed=7, epoch=0)[:30].tolist()
    assert [(batch.epoch, batch.position) for batch in batches[:2] + batches[10:]] == [(0, 0), (0, 3), (1, 0)]
    assert batches[10].videos.tolist()[::2] == epoch_order(32, seed=7, epoch=1)[:3].tolist()
    assert batches[0].clips.shape == (6, 8, 48, 48, 3)
    assert len(batches[0].paths) == 6


def test_workers_and_a_later_start_change_nothing(manifest: Manifest) -> None:
    plain = list(islice(loader(manifest).batches(0), 12))
    workers = list(islice(loader(manifest, num_workers=2).batches(0), 12))
    later = list(islice(loader(manifest).batches(9), 3))
    assert all(same(one, other) for one, other in zip(plain, workers, strict=True))
    assert all(same(one, other) for one, other in zip(plain[9:], later, strict=True))


def test_two_ranks_see_what_one_accumulating_rank_sees(manifest: Manifest) -> None:
    one = list(islice(loader(manifest, accumulate=2).batches(4), 4))
    ranks = [list(islice(loader(manifest, rank=rank, world_size=2).batches(4), 2)) for rank in (0, 1)]
    woven = [ranks[0][0], ranks[1][0], ranks[0][1], ranks[1][1]]
    assert all(same(first, second) for first, second in zip(one, woven, strict=True))
    assert [batch.position for batch in one] == [batch.position for batch in woven]


def test_videos_of_shards_are_visited_a_few_shards_at_a_time(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_of = np.repeat(np.arange(8), 4)
    monkeypatch.setattr(Manifest, "shard_of", property(lambda self: shard_of))
    subject = loader(manifest, batch_size=4, shard_window=2)
    orders = [[int(v) for batch in islice(subject.batches(start), 8) for v in batch.videos[::2]] for start in (0, 8)]
    for epoch, order in enumerate(orders):
        assert order == shard_order(shard_of, seed=7, epoch=epoch, window=2).tolist()
        assert sorted(order) == list(range(32))
        assert [len(set(shard_of[order[i : i + 8]])) for i in (0, 8, 16, 24)] == [2, 2, 2, 2]
    assert orders[0] != orders[1]
    whole = epoch_order(32, seed=7, epoch=0, shard_of=None, shard_window=2)
    assert whole.tolist() == np.random.default_rng([7, 0]).permutation(32).tolist()
    # Restarts and ranks read the same order.
    ranks = [
        list(islice(loader(manifest, batch_size=2, rank=r, world_size=2, shard_window=2).batches(3), 2)) for r in (0, 1)
    ]
    assert [int(v) for i in range(2) for r in (0, 1) for v in ranks[r][i].videos[::2]] == orders[0][12:20]


def test_a_step_larger_than_the_set_is_refused(manifest: Manifest) -> None:
    with pytest.raises(
        ValueError, match=r"32 videos, fewer than one step takes: 3 videos x 4 processes .* = 36.* Lower"
    ):
        loader(manifest, world_size=4, accumulate=3)
    with pytest.raises(
        ValueError, match=r"32 videos, .*: 40 videos x 1 process = 40\. Lower trainer\.batch_size$"
    ):  # no word of an accumulation that there is none of
        loader(manifest, batch_size=40)
    with pytest.raises(ValueError, match=r"has 32 images, fewer than one step takes: 40 images x 1 process"):
        loader(replace(manifest, kind=IMAGES), batch_size=40)


@pytest.mark.parametrize("world_size", [1, 3])
def test_every_view_is_evaluated_once_on_any_number_of_ranks(manifest: Manifest, world_size: int) -> None:
    dataset = EvalDataset(
        manifest,
        sampler=ClipSampler(num_frames=8, sampling_rate=3),
        temporal_views=2,
        spatial_views=1,
        short_side=48,
        crop_size=48,
    )
    seen = []
    for rank in range(world_size):
        batches = eval_loader(
            dataset, clips_per_batch=6, rank=rank, world_size=world_size, loading=LoaderOptions(num_workers=0)
        )
        for batch in batches:
            assert len(batch.labels) <= 6
            seen += list(zip(batch.videos.tolist(), batch.views.tolist(), strict=True))
    assert sorted(seen) == [(video, view) for video in range(32) for view in range(2)]
