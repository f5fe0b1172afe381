import json
import multiprocessing
import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mvit_video.data.datasets import index_file
from mvit_video.data.datasets.index_file import IndexedVideo, IndexFile, write_index
from mvit_video.data.datasets.indexed_manifest import IndexedManifest, from_index
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segment
from mvit_video.data.datasets.sources import IndexSource
from mvit_video.video.index_encoding import encode_frame_index
from tests.video.test_index_encoding import assert_same, frame_index

NAMES = ("archery", "zumba", "never")
PATHS = ("train/a.mp4", "train/日本/b.mp4", "caf\udce9.avi")


def video(number: int, **changes: object) -> IndexedVideo:
    values: dict[str, object] = {
        "path": PATHS[number],
        "label": number % 2,
        "size": 1000 + number,
        "mtime_ns": 1_700_000_000_000_000_000 + number,
        "frames": frame_index(100 + number),
        "digest": bytes([number] * 16),
    }
    return IndexedVideo(**{**values, **changes})  # type: ignore[arg-type]


def written(path: Path, **changes: object) -> Path:
    """An index of three videos."""
    values: dict[str, object] = {"class_names": NAMES, "root": "/videos"}
    videos = changes.pop("videos", [video(0), video(1), video(2)])
    write_index(path, videos, **{**values, **changes})  # type: ignore[arg-type]
    return path


def test_an_index_gives_back_what_was_written(tmp_path: Path) -> None:
    left_out = [("broken.mp4", "the file is empty (0 bytes)"), ("caf\udce9.mp4", "is text")]
    index = IndexFile.open(written(tmp_path / "train.index", left_out=left_out))
    assert len(index) == 3
    assert index.class_names == NAMES
    assert index.labels.tolist() == [0, 1, 0]
    assert index.paths == ("/videos/train/a.mp4", "/videos/train/日本/b.mp4", "/videos/caf\udce9.avi")
    assert index.left_out == tuple(left_out)
    assert index.shard_of is None
    assert index.digests.tolist() == [[number] * 16 for number in range(3)]
    for number in range(3):
        assert_same(index.frames(number), frame_index(100 + number))
        assert index.info(number) == frame_index(100 + number).info
    location = index.location(1)
    assert (location.name, location.url, location.start) == ("/videos/train/日本/b.mp4", "/videos/train/日本/b.mp4", 0)
    assert (location.size, location.mtime_ns) == (1001, 1_700_000_000_000_000_001)
    assert location.index is not None
    assert_same(location.index, frame_index(101))
    assert index.location(-1).name == index.name(-1) == index.paths[2]
    assert index.info(-1) == index.info(2)
    for read in (index.location, index.frames, index.info, index.name):
        with pytest.raises(IndexError):
            read(3)


@pytest.mark.parametrize(
    ("root", "path", "override", "expected"),
    [
        ("/videos", "/videos/a/b.mp4", None, "/videos/a/b.mp4"),
        ("/videos", "/videos/a/b.mp4", "/fast", "/fast/a/b.mp4"),
        ("/videos/", "/videos/a/b.mp4", "/fast/", "/fast/a/b.mp4"),
        ("/videos", "/videos2/b.mp4", "/fast", "/videos2/b.mp4"),
        ("/", "/a/b.mp4", "/fast", "/fast/a/b.mp4"),
        ("/videos", "a/b.mp4", "s3://bucket/k400", "s3://bucket/k400/a/b.mp4"),
        ("s3://bucket/k400", "s3://bucket/k400/a/b.mp4", None, "s3://bucket/k400/a/b.mp4"),
        ("s3://bucket/k400", "s3://bucket/k400/a/b.mp4", "videos", "videos/a/b.mp4"),
        ("videos", "a/b.mp4", None, "FOLDER/videos/a/b.mp4"),
        (None, "a/b.mp4", None, "FOLDER/a/b.mp4"),
        (None, "a/b.mp4", "/fast", "/fast/a/b.mp4"),
        (None, "https://host/b.mp4", "/fast", "https://host/b.mp4"),
    ],
)
def test_videos_may_move_with_their_root(
    tmp_path: Path, root: str | None, path: str, override: str | None, expected: str
) -> None:
    place = written(tmp_path / "train.index", videos=[video(0, path=path)], root=root)
    index = IndexFile.open(place, root=override)
    assert index.paths[0] == expected.replace("FOLDER", str(tmp_path))
    assert index.location(0).url == index.paths[0]


@pytest.mark.parametrize(
    ("shard", "override", "expected"),
    [
        ("shards/x-000000.tar", None, "FOLDER/shards/x-000000.tar"),
        ("shards/x-000000.tar", "s3://bucket/k400/", "s3://bucket/k400/shards/x-000000.tar"),
        ("s3://bucket/x-000000.tar", None, "s3://bucket/x-000000.tar"),
        ("/shards/x-000000.tar", None, "/shards/x-000000.tar"),
    ],
)
def test_videos_in_shards(tmp_path: Path, shard: str, override: str | None, expected: str) -> None:
    expected = expected.replace("FOLDER", str(tmp_path))
    videos = [video(0, shard=1, start=512, mtime_ns=None), video(1, shard=0, start=2048, mtime_ns=None)]
    place = written(tmp_path / "train.index", videos=videos, shards=["y.tar", shard], root="/videos")
    index = IndexFile.open(place, root=override)
    assert index.shard_of is not None
    assert index.shard_of.tolist() == [1, 0]
    assert index.shards[1] == expected
    location = index.location(0)
    assert (location.name, location.url) == (f"{expected}/train/a.mp4", expected)
    assert (location.start, location.size, location.mtime_ns) == (512, 1000, None)
    assert index.paths[0] == location.name
    assert location.remote == ("://" in expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos": []}, r"train\.index: no videos to index; 1 were left out"),
        ({"videos": [video(0, label=3)]}, r"train/a\.mp4: label 3 is out of range: the index has 3 classes"),
        ({"videos": [video(0, label=-1)]}, r"train/a\.mp4: label -1 is out of range: the index has 3 classes"),
        ({"videos": [video(0, shard=0)]}, r"train/a\.mp4: shard 0 is out of range: the index has 0 shards"),
        ({"videos": [video(0, shard=0), video(1)], "shards": ["x.tar"]}, r"b\.mp4: is in no shard; the videos of an i"),
    ],
)
def test_an_index_that_cannot_be_is_not_written(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    written(tmp_path / "train.index")
    before = (tmp_path / "train.index").read_bytes()
    with pytest.raises(ValueError, match=message):
        written(tmp_path / "train.index", left_out=[("x.mp4", "is gone")], **changes)
    assert (tmp_path / "train.index").read_bytes() == before
    assert os.listdir(tmp_path) == ["train.index"]


def test_an_interrupted_writer_leaves_the_old_index(tmp_path: Path) -> None:
    written(tmp_path / "train.index")

    def interrupted() -> Iterator[IndexedVideo]:
        yield video(0)
        assert sorted(os.listdir(tmp_path)) == [".train.index.tmp", "train.index"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "train.index", videos=interrupted())
    assert os.listdir(tmp_path) == ["train.index"]
    assert len(IndexFile.open(tmp_path / "train.index")) == 3


def test_frame_indexes_go_to_the_file_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's memory does not grow with the videos' frames."""
    sizes = []
    monkeypatch.setattr(index_file, "encode_frame_index", lambda frames: bytes(100_000))

    def videos() -> Iterator[IndexedVideo]:
        for number in range(3):
            yield video(number)
            sizes.append((tmp_path / ".train.index.tmp").stat().st_size)

    written(tmp_path / "train.index", videos=videos())
    assert sizes[2] > 200_000


def test_frame_indexes_may_come_encoded(tmp_path: Path) -> None:
    place = written(tmp_path / "train.index", videos=[video(0, frames=encode_frame_index(frame_index(77)))])
    assert_same(IndexFile.open(place).frames(0), frame_index(77))


def test_videos_left_out_may_be_noted_while_the_others_are_written(tmp_path: Path) -> None:
    left_out: list[tuple[str, str]] = []

    def videos() -> Iterator[IndexedVideo]:
        yield video(0)
        left_out.append(("b.mp4", "is text"))

    written(tmp_path / "train.index", videos=videos(), left_out=left_out)
    assert IndexFile.open(tmp_path / "train.index").left_out == (("b.mp4", "is text"),)


# ---- damage


@pytest.mark.parametrize("length", [0, 10, 63, 64, 500, -1])
def test_a_cut_index_is_refused(tmp_path: Path, length: int) -> None:
    place = written(tmp_path / "train.index")
    place.write_bytes(place.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"train\.index: .*(too short|were written).*; prepare the data set again"):
        IndexFile.open(place)


def test_an_index_with_more_bytes_than_were_written_is_refused(tmp_path: Path) -> None:
    place = written(tmp_path / "train.index")
    size = place.stat().st_size
    with place.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=rf"train\.index: has {size + 1} bytes, {size} were written; prepare"):
        IndexFile.open(place)


def test_no_changed_byte_goes_unnoticed(tmp_path: Path) -> None:
    """Each byte is covered: at opening, or when the video it belongs to is asked for. Fill bytes mean nothing."""
    place = written(tmp_path / "train.index", left_out=[("b.mp4", "is text")])
    whole = place.read_bytes()
    unnoticed = []
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x20
        place.write_bytes(damaged)
        try:
            index = IndexFile.open(place)
            assert [index.location(number).size for number in range(3)] == [1000, 1001, 1002]
            assert index.left_out == (("b.mp4", "is text"),)
        except ValueError as error:
            assert str(error).startswith(str(place))
            assert "; " in str(error)
            continue
        unnoticed.append(at)
    assert all(whole[at] == 0 for at in unnoticed)
    assert len(unnoticed) < 64


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.index: there is no such file; give the path of an index that"):
        IndexFile.open(tmp_path / "none.index")
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory; give the path of an index"):
        IndexFile.open(tmp_path)
    (tmp_path / "list.csv").write_text("a.mp4 0\n" * 100)
    with pytest.raises(ValueError, match=r"list\.csv: is no index; give the path of an index that mvit_video\.prepare"):
        IndexFile.open(tmp_path / "list.csv")
    with pytest.raises(ValueError, match=r"s3://b/x\.index: an index is mapped .*; copy it to a local disk and give"):
        IndexFile.open("s3://b/x.index")


def test_another_version_is_named(tmp_path: Path) -> None:
    place = written(tmp_path / "train.index")
    data = bytearray(place.read_bytes())
    data[8:12] = struct.pack("<I", 3)
    place.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"train\.index: is an index of version 3, this program reads versions 1 and 2; prep"
    ):
        IndexFile.open(place)


def test_an_index_is_one_small_file(tmp_path: Path) -> None:
    place = written(tmp_path / "train.index", videos=[video(0, frames=frame_index(300)) for _ in range(1000)])
    assert place.stat().st_size / 1000 < 170


# ---- processes


def _names(index: IndexFile, pipe: "multiprocessing.connection.Connection") -> None:
    pipe.send((type(index.labels.base).__name__, list(index.paths), index.info(1)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_maps_the_same_file(tmp_path: Path, method: str) -> None:
    index = IndexFile.open(written(tmp_path / "train.index"), root="/fast")
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=_names, args=(index, there))
    process.start()
    assert here.poll(60)
    base, paths, info = here.recv()
    process.join()
    assert paths == ["/fast/train/a.mp4", "/fast/train/日本/b.mp4", "/fast/caf\udce9.avi"]
    assert info == frame_index(101).info
    assert base != "NoneType"  # a view of the mapped file, not an array of its own


def test_a_pickled_index_is_its_path(tmp_path: Path) -> None:
    place = written(tmp_path / "train.index", videos=[video(0, path=f"{i}.mp4") for i in range(500)])
    manifest = from_index(place)
    data = pickle.dumps(manifest)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert isinstance(copy, IndexedManifest)
    assert copy == manifest
    assert_same(copy.index.frames(3), manifest.index.frames(3))
    written(place, class_names=("a", "b", "c"))
    assert manifest.paths[499] == "/videos/499.mp4"  # what is mapped stays as it was
    with pytest.raises(
        ValueError, match=r"train\.index: was replaced by another index since the run began; start agai"
    ):
        pickle.loads(data)


# ---- manifest and source


def test_an_indexed_manifest_is_like_any_other(tmp_path: Path) -> None:
    place = written(tmp_path / "train.index", left_out=[("gone.mp4", "there is no such file")])
    manifest = from_index(place)
    plain = Manifest(manifest.paths[:], (0, 1, 0), NAMES, str(place), ("gone.mp4",))
    assert (manifest.paths, manifest.labels, manifest.class_names) == (plain.paths, plain.labels, plain.class_names)
    assert (manifest.source, manifest.missing) == (plain.source, plain.missing)
    assert manifest.counts() == plain.counts() == (2, 1, 0)
    assert manifest.num_duplicates() == plain.num_duplicates() == 0
    assert len(manifest) == manifest.num_classes == 3
    assert isinstance(manifest.labels[1], int)
    assert manifest.location(1).index is not None
    assert plain.location(1).index is None
    assert manifest.shard_of is None
    assert np.shares_memory(np.asarray(manifest.labels), manifest.index.labels)


def test_the_source_of_indexes(tmp_path: Path) -> None:
    train, val = written(tmp_path / "train.index"), written(tmp_path / "val.index", videos=[video(2)])
    source = IndexSource(train=str(train), val=str(val), root="/fast")
    assert len(source.manifest("train")) == 3
    assert source.manifest("test").paths == ("/fast/caf\udce9.avi",)
    assert not IndexSource(train=str(train)).has("val")
    with pytest.raises(ValueError, match=r"data\.source\.val is not set"):
        IndexSource(train=str(train)).manifest("val")


@pytest.mark.parametrize("folder", ["/scratch/shards", "s3://bucket/k400", ""])
def test_shards_elsewhere_may_move_with_a_root(tmp_path: Path, folder: str) -> None:
    shards = [f"{folder}/train/x.tar", f"{folder}/trailers/x.tar"]
    videos = [video(0, shard=0, start=512, mtime_ns=None), video(1, shard=1, start=512, mtime_ns=None)]
    place = written(tmp_path / "train.index", videos=videos, shards=shards, root=None)
    assert IndexFile.open(place).shards == tuple(shards)
    assert IndexFile.open(place, root="/fast").shards == ("/fast/train/x.tar", "/fast/trailers/x.tar")


def test_one_root_does_not_stand_for_two_folders(tmp_path: Path) -> None:
    train = written(tmp_path / "train.index", root="/videos/train")
    val = written(tmp_path / "val.index", root="/videos/val")
    source = IndexSource(train=str(train), val=str(val), root="/fast")
    assert len(source.manifest("train")) == 3
    with pytest.raises(ValueError, match=r"start from /videos/train, those of .*val\.index from /videos/val\. Prepare"):
        source.manifest("val")
    assert len(IndexSource(train=str(train), val=str(val)).manifest("val")) == 3
    assert len(IndexSource(val=str(val), root="/fast").manifest("val")) == 3


def test_the_labels_of_another_index_are_mapped_by_name(tmp_path: Path) -> None:
    train = written(tmp_path / "train.index")
    val = written(tmp_path / "val.index", class_names=("zumba", "archery"), videos=[video(0), video(1), video(2)])
    manifest = IndexSource(train=str(train), val=str(val)).manifest("val")
    assert (manifest.class_names, manifest.labels) == (NAMES, (1, 0, 1))
    copy = pickle.loads(pickle.dumps(manifest))
    assert copy == manifest
    assert copy.location(1).name == manifest.location(1).name


def test_a_class_that_the_training_index_lacks_is_refused(tmp_path: Path) -> None:
    train, val = written(tmp_path / "train.index"), written(tmp_path / "val.index", class_names=("archery", "zumbas"))
    with pytest.raises(ValueError, match=r"val\.index: 1 of its 2 classes is not among the 3 known ones: 'zumbas'"):
        IndexSource(train=str(train), val=str(val)).manifest("val")


def test_a_subset_of_an_index_keeps_frames_and_labels_together(tmp_path: Path) -> None:
    manifest = from_index(written(tmp_path / "train.index"))
    some = manifest.subset(np.array([2, 1]), source="half")
    for held in (some, pickle.loads(pickle.dumps(some)), some.subset(np.array([0, 1]))):
        assert isinstance(held, IndexedManifest)
        assert held.paths == (manifest.paths[2], manifest.paths[1])
        assert held.labels == (0, 1)
        assert held.location(0).name == manifest.location(2).name
        assert_same(held.location(1).index, frame_index(101))
    assert some.subset(np.array([1])).location(0).name == manifest.location(1).name
    assert some.source == "half"


def test_the_header_is_readable(tmp_path: Path) -> None:
    data = written(tmp_path / "train.index").read_bytes()
    length, at, size, crc = struct.unpack_from("<QQQI", data, 16)
    assert length == len(data)
    assert zlib.crc32(data[at : at + size]) == crc
    header = json.loads(data[at : at + size])
    assert (header["videos"], header["root"], header["class_names"]) == (3, "/videos", list(NAMES))


def test_a_plain_index_stays_readable_for_earlier_programs(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.index").read_bytes()
    more = written(tmp_path / "more.index", videos=[video(0, group="g")]).read_bytes()
    assert (plain[8], more[8]) == (1, 2)
    assert json.loads(plain[plain.index(b'{"videos"') :]).keys().isdisjoint(("frame_rate", "groups"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segment": Segment(0, 1)}, "1 of 2 videos have a segment; give all of them one, or none"),
        ({"labels": [0, 1]}, "1 of 2 videos have a list of labels"),
        ({"group": "g"}, "1 of 2 videos have a group"),
        ({"weight": 0.5}, "1 of 2 videos have a weight"),
        ({"labels": [0, 3]}, "label 3 is out of range: the index has 3 classes"),
    ],
)
def test_what_some_videos_alone_have_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        written(tmp_path / "train.index", videos=[video(0, **change), video(1)])


def test_damaged_groups_and_labels_are_noticed(tmp_path: Path) -> None:
    videos = [video(number, group=f"group{number}", labels=[2, 1]) for number in range(3)]
    place = written(tmp_path / "train.index", videos=videos)
    assert IndexFile.open(place).label_sets == ((2, 1),) * 3
    data = place.read_bytes()
    place.write_bytes(data.replace(b"group1", b"group7"))
    with pytest.raises(ValueError, match=r"train\.index: its list of groups is damaged; prepare the data set again"):
        IndexFile.open(place)
