"""The same samples from a list of files, from an index of them, and from shards, on every path a run takes."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import fsspec
import pytest
import torch

from mvit_video.build import train
from mvit_video.data.datasets.index_file import IndexedVideo, write_index
from mvit_video.data.datasets.indexed_manifest import from_index
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.shards import ShardWriter, shard_order
from mvit_video.data.datasets.sources import MotionSource
from mvit_video.video.reader import VideoReader, read_frames
from tests.conftest import motion_overrides, options
from tests.data.loading.test_dataset import eval_dataset, train_dataset
from tests.data.loading.test_loader import loader, same


@pytest.fixture(scope="module")
def plain(motion_root: Path) -> Manifest:
    return MotionSource(root=str(motion_root), train_videos=32, test_videos=16).manifest("train")


def indexed(manifest: Manifest, place: Path, *, shard_folder: str | None = None) -> Manifest:
    """An index over the videos of a manifest, which it packs into shards of five if there is a folder for them."""
    writer = None if shard_folder is None else ShardWriter(shard_folder, max_videos=5)
    videos = []
    for path, label in zip(manifest.paths, manifest.labels, strict=True):
        with VideoReader(path) as video:
            frames = video.frame_index
        file_stat, digest = Path(path).stat(), hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
        if writer is None:
            videos.append(IndexedVideo(path, label, file_stat.st_size, file_stat.st_mtime_ns, frames, digest))
        else:
            shard, start, size = writer.add(Path(path).name, path)
            videos.append(IndexedVideo(Path(path).name, label, size, None, frames, digest, shard, start))
    shards = []
    if writer is not None:
        writer.close()
        shards = [f"{shard_folder}/{shard}" for shard in writer.shards]
    root = str(Path(manifest.source).parent)
    write_index(place, videos, class_names=manifest.class_names, root=root, shards=shards)
    return from_index(place)


@pytest.fixture(scope="module", params=["files", "shards", "remote shards"])
def other(
    request: pytest.FixtureRequest, plain: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Manifest]:
    folder = tmp_path_factory.mktemp("prepared")
    places = {"files": None, "shards": str(folder / "shards"), "remote shards": "memory://k400/shards"}
    yield indexed(plain, folder / "train.index", shard_folder=places[request.param])
    fsspec.filesystem("memory").store.clear()


def test_frames_are_equal(plain: Manifest, other: Manifest) -> None:
    for number in (0, 7, 31):
        location = other.location(number)
        with VideoReader(location) as video:
            assert video.frame_index is location.index  # not indexed again
            frames = video.read([5, 0, 11])
        assert torch.equal(frames, read_frames(plain.paths[number], [5, 0, 11]))


def test_training_samples_are_equal(plain: Manifest, other: Manifest) -> None:
    assert other.labels == plain.labels
    for key in ((0, 0, 3), (0, 1, 30), (5, 2, 17)):
        one, two = train_dataset(plain, repeats=2)[key], train_dataset(other, repeats=2)[key]
        for name in ("clips", "erase", "noise_seeds", "views"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert (one.label, one.video, one.failures) == (two.label, two.video, two.failures)
        assert two.path == other.paths[two.video]


def test_evaluation_samples_are_equal(plain: Manifest, other: Manifest) -> None:
    one, two = eval_dataset(plain)[9], eval_dataset(other)[9]
    assert torch.equal(one.clips, two.clips)
    assert one.label == two.label


def test_an_index_of_files_names_the_files(plain: Manifest, tmp_path: Path) -> None:
    manifest = indexed(plain, tmp_path / "train.index")
    assert manifest.paths == plain.paths
    assert manifest.shard_of is None


def test_a_video_that_changed_is_read_as_it_is_now(plain: Manifest, tmp_path: Path) -> None:
    copy = tmp_path / "a.mp4"
    copy.write_bytes(Path(plain.paths[0]).read_bytes())
    manifest = indexed(Manifest((str(copy),), (0,), ("x",), str(tmp_path / "list.csv")), tmp_path / "train.index")
    copy.write_bytes(Path(plain.paths[5]).read_bytes())
    with VideoReader(manifest.location(0)) as video:
        assert torch.equal(video.read([3]), read_frames(plain.paths[5], [3]))


def test_shards_are_numbered_in_the_manifest(plain: Manifest, tmp_path: Path) -> None:
    manifest = indexed(plain, tmp_path / "train.index", shard_folder=str(tmp_path / "shards"))
    assert manifest.shard_of is not None
    assert manifest.shard_of.tolist() == [number // 5 for number in range(32)]
    assert manifest.paths[6] == f"{tmp_path}/shards/videos-000001.tar/{Path(plain.paths[6]).name}"


def test_a_loader_reads_few_shards_at_a_time_in_an_order_of_its_own(plain: Manifest, tmp_path: Path) -> None:
    manifest = indexed(plain, tmp_path / "train.index", shard_folder=str(tmp_path / "shards"))
    assert manifest.shard_of is not None
    one = list(islice(loader(manifest, shard_window=2).batches(0), 10))
    order = shard_order(manifest.shard_of, seed=7, epoch=0, window=2)
    assert torch.cat([batch.videos for batch in one]).tolist()[::2] == order[:30].tolist()
    workers = list(islice(loader(manifest, shard_window=2, num_workers=2).batches(0), 10))
    assert all(same(*pair) for pair in zip(one, workers, strict=True))
    ranks = [islice(loader(manifest, shard_window=2, rank=rank, world_size=2).batches(0), 5) for rank in (0, 1)]
    woven = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    assert all(same(*pair) for pair in zip(one, woven, strict=True))
    samples = train_dataset(plain, seed=7, repeats=2)
    assert torch.equal(one[0].clips[:2], samples[(0, 0, int(order[0]))].clips)


def test_a_run_trains_and_validates_from_indexes(plain: Manifest, motion_root: Path, tmp_path: Path) -> None:
    test = MotionSource(root=str(motion_root), train_videos=32, test_videos=16).manifest("test")
    indexed(plain, tmp_path / "train.index", shard_folder=str(tmp_path / "shards"))
    indexed(test, tmp_path / "val.index")
    places = [f"data.source.{split}={tmp_path}/{split}.index" for split in ("train", "val")]
    plain_only = ("data.source.root", "data.source.train_videos", "data.source.test_videos")
    overrides = [each for each in motion_overrides(motion_root, tmp_path / "runs") if not each.startswith(plain_only)]
    metrics = train(options(*overrides, "data/source=index", *places, "trainer.max_steps=1"))
    assert metrics["num_videos"] == 16
    assert metrics["num_failed"] == 0
