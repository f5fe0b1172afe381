"""Segments, several labels a video, groups, weights and folders of pictures: prepared, indexed and read back."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_video.data.datasets.class_folders import from_folder
from mvit_video.data.datasets.fingerprint import fingerprint
from mvit_video.data.datasets.index_file import IndexFile
from mvit_video.data.datasets.indexed_manifest import from_index
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segment, Segments
from mvit_video.data.datasets.table import TableSource
from mvit_video.data.sampling import ClipSampler
from mvit_video.preparation.inventory import take_inventory
from mvit_video.preparation.pipeline import PreparePlan, prepare_data_set
from mvit_video.preparation.reencode import Encoding
from mvit_video.preparation.split_packing import ShardOptions
from mvit_video.preparation.video_content import VideoContent
from mvit_video.video.reader import VideoReader
from tests.data.loading.test_dataset import eval_dataset, train_dataset
from tests.preparation.videos import pictures, write_video

SAMPLER = ClipSampler(num_frames=4, sampling_rate=2, target_fps=10)
COLUMNS = ("labels", "class_names", "segments", "groups", "weights", "label_sets", "frame_rate")


def prepare(manifest: Manifest, out: Path, **changes: object) -> dict:
    plan = dataclasses.replace(PreparePlan(out=out, workers=1, encode_folder=str(out / "videos")), **changes)
    report = prepare_data_set({"train": manifest}, plan, content=VideoContent(SAMPLER))
    assert report is not None
    return report


def assert_equal(indexed: Manifest, plain: Manifest) -> None:
    assert [Path(path).resolve() for path in indexed.paths] == [Path(path).resolve() for path in plain.paths]
    for column in COLUMNS:
        assert getattr(indexed, column) == getattr(plain, column), column
    assert fingerprint(indexed) == fingerprint(plain)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of six seconds, at 10 frames/s."""
    root = tmp_path_factory.mktemp("long") / "videos"
    for number in range(2):
        write_video(root / f"{number}.mp4", seed=number, frames=60, options={"g": "20"})
    return root


TABLE = """path,label,start,end,group,weight
0.mp4,pour,0,2.05,kitchen,1
0.mp4,stir,00:00:02.5,00:00:04,kitchen,2
1.mp4,pour,1,,garden,1
0.mp4,pour,4.5,6,kitchen,0.5
"""


@pytest.fixture(scope="module")
def table(videos: Path) -> Manifest:
    file = videos.parent / "table.csv"
    file.write_text(TABLE)
    return TableSource(train=str(file), root=str(videos)).manifest("train")


def test_segments_groups_and_weights_come_back(table: Manifest, tmp_path: Path) -> None:
    report = prepare(table, tmp_path / "out")
    indexed = from_index(tmp_path / "out" / "train.index")
    assert_equal(indexed, table)
    assert indexed.segments is not None and indexed.segment(1) == Segment(2.5, 4.0)
    split = report["splits"]["train"]
    assert (split["usable"], split["files"], split["segments"], split["listed_more_than_once"]) == (4, 2, 4, 0)
    assert split["frames"]["min"] == 15 and split["frames"]["max"] == 50
    assert split["hours"] * 3600 == pytest.approx(2.1 + 1.5 + 5 + 1.5)
    assert report["duplicates"]["groups"] == 0  # several segments of a file are no duplicates
    assert "4 segments of 2 files." in (tmp_path / "out" / "report.md").read_text()


def test_the_segments_of_a_file_share_its_frame_index(table: Manifest, tmp_path: Path) -> None:
    prepare(table, tmp_path / "out")
    index = IndexFile.open(tmp_path / "out" / "train.index")
    first = [int(at) for at in index._columns["frames_at"][:4]]
    assert first[0] == first[1] == first[3] != first[2]
    assert index.info(3) == index.info(0) and index.info(2).num_frames == 60


def test_samples_of_segments_are_equal(table: Manifest, tmp_path: Path) -> None:
    prepare(table, tmp_path / "out")
    indexed = from_index(tmp_path / "out" / "train.index")
    for key in ((0, 0, 1), (3, 1, 2)):
        one, two = train_dataset(table)[key], train_dataset(indexed)[key]
        assert torch.equal(one.clips, two.clips) and one.label == two.label
    assert torch.equal(eval_dataset(table)[3].clips, eval_dataset(indexed)[3].clips)


def test_a_worker_gets_the_same_manifest(table: Manifest, tmp_path: Path) -> None:
    prepare(table, tmp_path / "out")
    indexed = from_index(tmp_path / "out" / "train.index")
    for manifest in (indexed, indexed.subset(np.array([3, 0])), indexed.with_classes(("stir", "pour", "else"))):
        other = pickle.loads(pickle.dumps(manifest))
        assert other.paths == manifest.paths
        for column in COLUMNS:
            assert getattr(other, column) == getattr(manifest, column), column
    assert len(pickle.dumps(indexed)) < 500  # it is mapped there, not sent


def test_segments_are_packed_and_reencoded_by_file(table: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shards = ShardOptions(folder=str(out / "shards"), max_bytes=10**9)
    prepare(table, out, shards=shards, encoding=Encoding(short_side=32, gop=4, preset="ultrafast"))
    indexed = from_index(out / "train.index")
    assert indexed.shard_of is not None and len(list((out / "shards").iterdir())) == 1
    assert indexed.segments == table.segments and indexed.groups == table.groups
    sizes = {indexed.location(row).start: indexed.location(row).size for row in range(4)}
    assert len(sizes) == 2  # a file is packed once, however many rows it has
    for row in range(4):
        start, end = indexed.segment(row)
        with VideoReader(indexed.location(row)) as ours, VideoReader(table.location(row)) as plain:
            assert ours.frames_between(start, end) == plain.frames_between(start, end)


def test_a_segment_without_a_frame_is_left_out_with_the_reason(videos: Path, tmp_path: Path) -> None:
    path = str(videos / "0.mp4")
    manifest = Manifest([path] * 3, [0, 0, 0], ("a",), "t.csv", segments=Segments([(0, 1), (1.01, 1.05), (70, 80)]))
    report = prepare(manifest, tmp_path / "out")
    assert report["splits"]["train"]["statuses"] == {"ok": 1, "empty": 2}
    reasons = [(problem["status"], problem["segment"], problem["reason"]) for problem in report["problems"]]
    assert reasons == [
        ("empty", "1.01 s to 1.05 s", "has no frame from 1.01 s to 1.05 s: the next one is shown at 1.1 s"),
        ("empty", "70 s to 80 s", "has no frame from 70 s to 80 s: its last frame is shown at 5.9 s"),
    ]
    assert len(from_index(tmp_path / "out" / "train.index")) == 1
    assert "1.01 s to 1.05 s" in (tmp_path / "out" / "report.md").read_text()


def test_label_sets_come_back(videos: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("path,label\n0.mp4,pour|stir\n1.mp4,stir\n")
    plain = TableSource(train=str(file), root=str(videos), label_separator="|").manifest("train")
    report = prepare(plain, tmp_path / "out")
    indexed = from_index(tmp_path / "out" / "train.index")
    assert_equal(indexed, plain)
    assert indexed.label_sets == ((0, 1), (1,)) and indexed.counts() == (1, 2)
    assert report["splits"]["train"]["classes"]["counts"] == {"pour": 1, "stir": 2}
    assert "3 labels in all, for videos may have several." in (tmp_path / "out" / "report.md").read_text()


def write_pictures(folder: Path, *, seed: int, count: int = 12) -> None:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures(seed, count), start=1):
        Image.fromarray(picture).save(folder / f"{number:05d}.jpg", quality=95)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    root = tmp_path / "frames"
    for number in range(2):
        write_pictures(root / "wave" / str(number), seed=number)
        write_pictures(root / "swipe" / str(number), seed=10 + number)
    (root / "swipe" / "1" / "00005.jpg").write_bytes(b"no picture")
    (root / "wave" / "1" / "00003.jpg").unlink()
    return root


def test_folders_of_pictures_are_verified_and_indexed_with_their_rate(frames: Path, tmp_path: Path) -> None:
    plain = from_folder(frames, frame_rate=12)
    report = prepare(plain, tmp_path / "out")
    indexed = from_index(tmp_path / "out" / "train.index")
    assert [Path(path).parts[-2:] for path in indexed.paths] == [("swipe", "0"), ("wave", "0")]
    assert indexed.frame_rate == 12 and indexed.location(0).frame_rate == 12
    assert indexed.index.info(0).num_frames == 12 and indexed.index.info(0).fps == 12
    reasons = {Path(problem["path"]).parts[-2:]: problem["reason"] for problem in report["problems"]}
    assert reasons[("wave", "1")] == "frame number 3 is missing, behind 00002.jpg"
    assert reasons[("swipe", "1")].startswith("00005.jpg cannot be decoded: ")
    split = report["splits"]["train"]
    assert split["codecs"] == {"jpg": 2} and split["containers"] == {"pictures": 2} and split["sizes"] == {"64x48": 2}
    assert split["hours"] * 3600 == pytest.approx(2.0)
    assert "Folders of pictures are videos of 12 frames/s." in (tmp_path / "out" / "report.md").read_text()
    kept = plain.subset(np.array([0, 2]))
    assert_equal(indexed, kept)
    assert torch.equal(train_dataset(kept)[0, 0, 1].clips, train_dataset(indexed)[0, 0, 1].clips)


def test_folders_are_read_again_where_they_or_their_rate_changed(frames: Path, tmp_path: Path) -> None:
    assert prepare(from_folder(frames, frame_rate=12), tmp_path / "out")["read"] == 4
    assert prepare(from_folder(frames, frame_rate=12), tmp_path / "out")["read"] == 0
    assert prepare(from_folder(frames, frame_rate=24), tmp_path / "out")["read"] == 2  # the sound ones
    write_pictures(tmp_path / "new", seed=7, count=3)
    (tmp_path / "new" / "00003.jpg").rename(frames / "wave" / "1" / "00003.jpg")
    again = prepare(from_folder(frames, frame_rate=24), tmp_path / "out")
    assert again["read"] == 1 and again["splits"]["train"]["usable"] == 3


def test_what_looks_alike_as_folder_and_as_video(frames: Path) -> None:
    """A folder and a file at once: the rate counts for the folder alone."""
    write_video(frames / "wave" / "v.mp4", seed=3)
    items = take_inventory({"train": from_folder(frames, frame_rate=12)}).items
    assert {item.location.name.rpartition("/")[2]: item.is_folder for item in items[2:]} == {
        "0": True, "1": True, "v.mp4": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shards": ShardOptions(folder="shards", max_bytes=10**9)},
            "shards.enabled=true: 4 videos, the first .*/swipe/0, a",
        ),
        (
            {"encoding": Encoding()},
            "reencode.enabled=true: 4 videos, .* are folders of pictures, and video files alone are",
        ),
    ],
)
def test_what_folders_cannot_become_is_refused(frames: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(from_folder(frames, frame_rate=12), tmp_path / "out", **changes)
