"""Samples of images: pure functions of their keys, the same in worker and on the device, broken files replaced."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_video.data.augmentation.image_views import ImageTransform
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.image_dataset import ImageEvalDataset, ImageReading, ImageTrainDataset
from mvit_video.data.loading.loader import LoaderOptions, TrainLoader, eval_loader
from mvit_video.images import ImageDecodeError
from tests.images.files import encoded, png_header, scene, with_orientation

TRANSFORM = ImageTransform(crop_size=32, randaugment="rand-m9-n6-mstd0.5-inc1", erase_prob=0.5)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Twelve images of three classes."""
    paths = []
    for number in range(12):
        path = tmp_path / f"{number:02d}.jpg"
        picture = Image.fromarray(np.roll(np.asarray(scene(40 + number, 60)), 7 * number, axis=1))
        path.write_bytes(encoded(picture, "JPEG", quality=90))
        paths.append(str(path))
    return Manifest(paths, [number % 3 for number in range(12)], ("a", "b", "c"), str(tmp_path), kind=IMAGES)


def dataset(manifest: Manifest, **changes: Any) -> ImageTrainDataset:
    return ImageTrainDataset(manifest, **{"transform": TRANSFORM, "repeats": 1, "seed": 0, **changes})


def test_a_sample_depends_on_seed_epoch_and_index_alone(manifest: Manifest) -> None:
    one = dataset(manifest)[(3, 0, 5)]
    again = dataset(manifest)[(3, 9, 5)]
    assert one.clips.shape == (1, 1, 32, 32, 3)
    assert torch.equal(one.clips, again.clips)
    assert torch.equal(one.erase, again.erase)
    assert (one.label, one.path) == (2, manifest.paths[5])
    for other in (dataset(manifest, seed=1)[(3, 0, 5)], dataset(manifest)[(4, 0, 5)], dataset(manifest)[(3, 0, 17)]):
        assert other.video == 5
        assert not torch.equal(one.clips, other.clips)


def test_repeats_are_augmented_apart_and_stay_together(manifest: Manifest) -> None:
    loader = TrainLoader(
        dataset(manifest, repeats=2),
        batch_size=3,
        accumulate=1,
        rank=0,
        world_size=1,
        seed=0,
        loading=LoaderOptions(num_workers=0),
    )
    batch: Batch = next(loader.batches(0))
    assert batch.clips.shape == (6, 1, 32, 32, 3)
    assert batch.videos.tolist() == [v for v in loader.order(0)[:3].tolist() for _ in range(2)]
    assert batch.views.tolist() == [0, 1] * 3
    assert not torch.equal(batch.clips[0], batch.clips[1])


def test_the_device_makes_what_a_worker_makes(manifest: Manifest) -> None:
    keys = [(0, place, place) for place in range(4)]
    here = collate([dataset(manifest)[key] for key in keys])
    there = collate([dataset(manifest, device="model")[key] for key in keys])
    assert there.packed is not None
    assert torch.equal(here.clips, there.to(torch.device("cpu")).clips)


BROKEN = {
    "empty": b"",
    "text": b"not found",
    "truncated": encoded(scene(), "JPEG")[:700],
    "bomb": png_header(60000, 60000),
    "torn PNG": encoded(scene(), "PNG")[:-200],
}


def test_broken_training_images_of_every_kind_are_replaced_and_named(manifest: Manifest) -> None:
    for place, content in enumerate(BROKEN.values()):
        Path(manifest.paths[place]).write_bytes(content)
    Path(manifest.paths[len(BROKEN)]).unlink()
    bad = set(manifest.paths[: len(BROKEN) + 1])
    for index in range(len(BROKEN) + 1):
        sample = dataset(manifest)[(0, 4, index)]
        assert sample.path not in bad
        assert sample.label == manifest.labels[sample.video]
        assert sample.failures[0][0] == manifest.paths[index]
        assert {path for path, _ in sample.failures} <= bad
        assert sample.position == 4
        again = dataset(manifest)[(0, 4, index)]
        assert torch.equal(sample.clips, again.clips)


def test_nothing_but_broken_images_is_an_error_that_names_them(manifest: Manifest) -> None:
    for path in manifest.paths:
        Path(path).write_bytes(b"x")
    with pytest.raises(ImageDecodeError, match=r"19 replacements failed too.*Check the folder of the files"):
        dataset(manifest)[(0, 0, 0)]


def test_every_test_image_comes_once_on_any_number_of_ranks_and_broken_ones_fail(manifest: Manifest) -> None:
    Path(manifest.paths[4]).write_bytes(BROKEN["truncated"])
    views = ImageEvalDataset(manifest, crop_size=24, crop_ratio=0.875)
    seen = []
    for rank in range(5):
        loading = LoaderOptions(num_workers=0)
        for batch in eval_loader(views, clips_per_batch=2, rank=rank, world_size=5, loading=loading):
            assert batch.clips.shape[1:] == (1, 24, 24, 3)
            assert batch.failed.tolist() == [index == 4 for index in batch.videos.tolist()]
            seen += batch.videos.tolist()
    assert sorted(seen) == list(range(12))


def test_reading_turns_images_or_not(manifest: Manifest) -> None:
    Path(manifest.paths[0]).write_bytes(with_orientation(scene(48, 64), 6))
    assert ImageReading(orientation="apply")(manifest, 0).shape == (1, 64, 48, 3)
    assert ImageReading(orientation="ignore")(manifest, 0).shape == (1, 48, 64, 3)
    with pytest.raises(ImageDecodeError, match="more than max_pixels=100"):
        ImageReading(max_pixels=100)(manifest, 0)
