"""A small data set prepared from start to end, in every way; the worker processes are real ones."""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest
import torch

from mvit_video.data.datasets.class_folders import from_folder
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import IndexSource
from mvit_video.data.sampling import ClipSampler
from mvit_video.preparation import cost as costs
from mvit_video.preparation.pipeline import PreparePlan, prepare_data_set
from mvit_video.preparation.reencode import Encoding
from mvit_video.preparation.split_packing import ShardOptions
from mvit_video.preparation.video_content import VideoContent
from mvit_video.video.reader import VideoReader
from tests.preparation.videos import damage, truncate, write_video

SAMPLER = ClipSampler(num_frames=4, sampling_rate=2, target_fps=10)  # spans 0.8 s
ENCODING = Encoding(short_side=32, gop=4, preset="ultrafast")


@pytest.fixture
def videos(tmp_path: Path, template: Path) -> Path:
    """A copy of the data set."""
    return shutil.copytree(template, tmp_path / "videos")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; eleven training videos, of which three are broken and one is in the validation set, too."""
    root = tmp_path_factory.mktemp("template")
    for number in range(4):
        write_video(root / "train" / "cat" / f"{number}.mp4", seed=number, frames=10 + number)
        write_video(root / "train" / "dog" / f"{number}.mp4", seed=10 + number, fps=20, frames=20)
    (root / "train" / "cat" / "empty.mp4").touch()
    truncate(write_video(root / "train" / "dog" / "cut.mp4", seed=30, frames=40, options={"g": "8"}), 0.6)
    damage(write_video(root / "train" / "dog" / "bad.mp4", seed=31, frames=24, options={"g": "24"}), at=0.5)
    (root / "train" / "dog" / "notes.txt").touch()
    (root / "train" / "dog" / "._0.mp4").touch()
    write_video(root / "val" / "cat" / "a.mp4", seed=40, frames=5)
    (root / "val" / "dog").mkdir()
    shutil.copy(root / "train" / "cat" / "2.mp4", root / "val" / "dog" / "same.mp4")
    write_video(root / "val" / "dog" / "alike.mp4", seed=12, frames=20, fps=20, options={"crf": "30"})
    return root


def manifests(root: Path) -> dict[str, Manifest]:
    train = from_folder(root / "train")
    return {"train": train, "val": from_folder(root / "val", class_names=train.class_names)}


def plan(root: Path, **changes: object) -> PreparePlan:
    out = root.parent / "out"
    return dataclasses.replace(PreparePlan(out=out, workers=2, encode_folder=str(out / "videos")), **changes)


def prepare(root: Path, **changes: object) -> dict:
    report = prepare_data_set(manifests(root), plan(root, **changes), content=VideoContent(SAMPLER))
    assert report is not None
    return report


def opened(root: Path, split: str = "train") -> Manifest:
    out = root.parent / "out"
    return IndexSource(train=str(out / "train.index"), val=str(out / "val.index")).manifest(split)  # type: ignore[arg-type]


def names(manifest: Manifest) -> list[str]:
    return [Path(path).name for path in manifest.paths]


def test_index_and_report(videos):
    report = prepare(videos)
    train, val = opened(videos), opened(videos, "val")
    assert names(train) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"] * 2
    assert list(train.labels) == [0] * 4 + [1] * 4
    assert train.class_names == val.class_names == ("cat", "dog")
    assert names(val) == ["a.mp4", "alike.mp4", "same.mp4"]
    assert sorted(Path(path).name for path in train.missing) == ["bad.mp4", "cut.mp4", "empty.mp4"]
    for index in range(len(train)):
        with VideoReader(train.location(index)) as ours, VideoReader(train.paths[index]) as plain:
            assert torch.equal(ours.read([0, 7]), plain.read([0, 7]))

    split = report["splits"]["train"]
    assert split["statuses"] == {"ok": 8, "broken": 2, "partial": 1}
    assert (split["listed"], split["usable"]) == (11, 8)
    assert split["left_out"] == {"extension .txt": ["dog/notes.txt"], "hidden": ["dog/._0.mp4"]}
    assert split["classes"]["counts"] == {"cat": 4, "dog": 4}
    assert split["frames"] == {"min": 10, "5%": 10.35, "median": 16.5, "95%": 20, "max": 20}
    assert split["fps_histogram"] == {"10": 4, "20": 4}
    assert split["sizes"] == {"64x48": 8} and split["codecs"] == {"h264": 8}
    assert split["hours"] * 3600 == pytest.approx(1.0 + 1.1 + 1.2 + 1.3 + 4 * 1.0)
    broken = {Path(p["path"]).name: (p["status"], p["class"]) for p in report["problems"]}
    assert broken == {"bad.mp4": ("broken", "dog"), "cut.mp4": ("partial", "dog"), "empty.mp4": ("broken", "cat")}
    same = report["duplicates"]
    assert (same["groups"], same["across_splits"], same["across_classes"]) == (1, 1, 1)
    assert [Path(video["path"]).name for video in same["list"][0]["videos"]] == ["2.mp4", "same.mp4"]
    alike = [[Path(v["path"]).name for v in pair["videos"]] for pair in report["near_duplicates"]["list"]]
    assert alike == [["2.mp4", "alike.mp4"]]
    assert [Path(video["path"]).name for video in report["short"]["list"]] == ["a.mp4"]

    out = videos.parent / "out"
    assert json.loads((out / "report.json").read_text()) == report
    text = (out / "report.md").read_text()
    assert f"data/source=index data.source.train={out}/train.index data.source.val={out}/val.index" in text
    assert "| train | broken |" in text and "of 24 frames cannot be decoded" in text
    assert "in more than one split, byte for byte: 1 video" in text
    assert "horter than a clip of 4 frames, one in 2 at 10 frames/s: 0.8 s: 1 video" in text


def test_one_root_says_where_the_videos_of_all_splits_are_now(videos):
    prepare(videos)
    moved, out = videos.parent / "moved" / "videos", videos.parent / "out"
    moved.parent.mkdir()
    videos.rename(moved)
    source = IndexSource(train=str(out / "train.index"), val=str(out / "val.index"), root=str(moved))
    for split in ("train", "val"):
        paths = source.manifest(split).paths
        assert all(Path(path).is_file() and Path(path).is_relative_to(moved / split) for path in paths)


def test_a_second_run_reads_what_changed_and_nothing_else(videos):
    first = prepare(videos)
    assert (first["read"], first["known"]) == (14, 0)
    second = prepare(videos)
    assert (second["read"], second["known"]) == (0, 14)
    assert second["splits"] == first["splits"] and second["near_duplicates"] == first["near_duplicates"]
    write_video(videos / "train" / "cat" / "0.mp4", seed=99, frames=17)
    write_video(videos / "train" / "cat" / "new.mp4", seed=98)
    third = prepare(videos)
    assert (third["read"], third["known"]) == (2, 13)
    assert third["splits"]["train"]["usable"] == 9
    assert prepare(videos, retry_broken=True)["read"] == 2  # what can be read in part is no failure


def test_partial_files_are_kept_if_asked_for(videos):
    prepare(videos, keep=frozenset({"ok", "partial"}))
    train = opened(videos)
    assert "cut.mp4" in names(train) and "bad.mp4" not in names(train)
    location = train.location(names(train).index("cut.mp4"))
    assert location.index is not None and location.index.damage
    with VideoReader(location) as video:
        assert len(video.read(range(video.info.num_frames))) == video.info.num_frames


def test_reading_packets_only_then_everything(videos):
    shallow = prepare(videos, verify="index")
    assert shallow["splits"]["train"]["statuses"] == {"ok": 9, "broken": 1, "partial": 1}
    assert shallow["near_duplicates"]["pairs"] == 0
    assert prepare(videos)["read"] == 13  # all but the empty file, of which nothing more is to be known
    assert prepare(videos, verify="index")["read"] == 0


def test_reencoded_and_packed(videos):
    """All resumable_stages at once; what is in the shards gives the pictures of the re-encoded files."""
    shards = ShardOptions(folder=str(videos.parent / "out" / "shards"), max_bytes=12_000)
    before = {path: path.read_bytes() for path in videos.rglob("*.mp4")}
    report = prepare(videos, encoding=ENCODING, shards=shards)
    train = opened(videos)
    assert {path: path.read_bytes() for path in videos.rglob("*.mp4")} == before
    assert train.shard_of is not None and len(set(train.shard_of.tolist())) > 1
    assert list(train.labels) == [0] * 4 + [1] * 4
    for index in range(len(train)):
        location = train.location(index)
        folder = "cat" if train.labels[index] == 0 else "dog"
        source = videos / "train" / folder / Path(location.name).name
        again = videos.parent / "out" / "videos" / "train" / folder / source.name
        with VideoReader(location) as packed, VideoReader(again) as file, VideoReader(source) as original:
            frames = range(packed.info.num_frames)
            assert packed.info.num_frames == original.info.num_frames
            assert (packed.info.height, packed.info.width) == (32, 42)
            assert torch.equal(packed.read(frames), file.read(frames))
    assert report["reencoding"]["files"] == 11
    assert not (videos.parent / "out" / "videos" / "train" / "cat" / "empty.mp4").exists()

    times = {path: path.stat().st_mtime_ns for path in (videos.parent / "out").rglob("*.[mt][pa][4r]")}
    (videos.parent / "out" / "videos" / "val" / "cat" / "a.mp4").unlink()
    again = prepare(videos, encoding=ENCODING, shards=shards)
    assert again["read"] == 0
    changed = {path.name for path in times if path.stat().st_mtime_ns != times[path]}
    assert changed <= {"a.mp4", *(path.name for path in times if path.name.startswith("val-"))}
    assert "a.mp4" in changed


def test_splits_prepared_one_after_the_other_do_not_share_files(tmp_path):
    for split, frames in (("train", 5), ("val", 7)):
        write_video(tmp_path / split / "cat" / "a.mp4", seed=frames, frames=frames)

    def prepared(split: str, out: str) -> Manifest:
        options = PreparePlan(out=tmp_path / out, encode_folder=str(tmp_path / "new"), encoding=ENCODING)
        found = {split: from_folder(tmp_path / split)}
        assert prepare_data_set(found, options, content=VideoContent(SAMPLER)) is not None
        return IndexSource(train=str(tmp_path / out / f"{split}.index")).manifest("train")

    manifests = [prepared(split, "out") for split in ("train", "val")]
    for manifest, frames in zip(manifests, (5, 7)):
        with VideoReader(manifest.paths[0]) as video:
            assert video.info.num_frames == frames
    with pytest.raises(ValueError, match=r"reencode\.folder=.*new: 1 of the files to be written are there already"):
        prepared("train", "other")


def test_shards_of_an_index_are_indexed_in_place(videos):
    shards = ShardOptions(folder=str(videos.parent / "out" / "shards"), max_bytes=10**6)
    prepare(videos, shards=shards)
    first = opened(videos)
    out = videos.parent / "again"
    prepare_data_set({"train": first}, dataclasses.replace(plan(videos), out=out), content=VideoContent(SAMPLER))
    second = IndexSource(train=str(out / "train.index")).manifest("train")
    assert list(second.paths) == list(first.paths) and list(second.labels) == list(first.labels)
    for index in (0, 5):
        assert second.location(index).start == first.location(index).start > 0
        with VideoReader(second.location(index)) as a, VideoReader(first.location(index)) as b:
            assert torch.equal(a.read([0, 3]), b.read([0, 3]))


def test_the_index_moves_with_the_files_below_it(videos, tmp_path):
    prepare(videos, encoding=ENCODING)
    moved = tmp_path / "elsewhere"
    (videos.parent / "out").rename(moved)
    train = IndexSource(train=str(moved / "train.index")).manifest("train")
    assert train.paths[0] == str(moved / "videos" / "train" / "cat" / "0.mp4")
    with VideoReader(train.location(0)) as video:
        assert video.info.num_frames == 10


def test_estimate_alone(videos, caplog):
    with caplog.at_level("INFO"):
        result = prepare_data_set(manifests(videos), plan(videos, dry_run=True), content=VideoContent(SAMPLER))
    assert result is None
    assert "to read: 6 files, " in caplog.text and "(8 are read already): about " in caplog.text
    assert sorted(path.name for path in (videos.parent / "out").iterdir()) == [".lock", "journal.jsonl"]
    assert prepare(videos)["known"] == 8  # the sample is not read twice


def test_stopping_at_the_question(videos):
    asked = []
    result = prepare_data_set(manifests(videos), plan(videos), content=VideoContent(SAMPLER), confirm=asked.append)  # type: ignore[arg-type]
    assert result is None and len(asked) == 1 and asked[0].files == 6


def test_a_part_of_each_split(videos):
    report = prepare(videos, limit=3)
    assert [split["looked_at"] for split in report["splits"].values()] == [3, 3]
    assert report["splits"]["train"]["listed"] == 11


def hang(task: object) -> None:
    """Read a file from a file system that does not answer."""
    time.sleep(60)


def test_files_that_take_too_long(videos, monkeypatch):
    shutil.rmtree(videos / "val")
    monkeypatch.setattr(VideoContent, "scan", staticmethod(hang))
    with pytest.raises(ValueError, match=r"no video of any split can be used; .*report.md has the reasons"):
        prepare_data_set(
            {"train": from_folder(videos / "train")},
            plan(videos, time_limit_s=0.25, limit=3),
            content=VideoContent(SAMPLER),
        )
    report = json.loads((videos.parent / "out" / "report.json").read_text())
    assert [p["status"] for p in report["problems"]] == ["timeout"] * 3
    assert report["problems"][0]["reason"] == "took more than 0.25 s and was stopped"


def test_missing_files_are_listed(videos, tmp_path):
    listed = dataclasses.replace(manifests(videos)["train"], missing=(str(videos / "gone.mp4"),))
    (videos / "train" / "cat" / "2.mp4").unlink()
    report = prepare_data_set({"train": listed}, plan(videos, limit=4), content=VideoContent(SAMPLER))
    assert report is not None
    reasons = {Path(p["path"]).name: p["reason"] for p in report["problems"] if p["status"] == "missing"}
    assert reasons == {"gone.mp4": "no such file", "2.mp4": "No such file or directory"}
    assert report["splits"]["train"]["statuses"]["missing"] == 2
    assert opened_left_out(tmp_path).items() >= reasons.items()


def opened_left_out(tmp_path: Path) -> dict[str, str]:
    manifest = IndexSource(train=str(tmp_path / "out" / "train.index")).manifest("train")
    return {Path(path).name: reason for path, reason in manifest.index.left_out}  # type: ignore[attr-defined]


def test_sources_are_not_written_to(videos):
    for changes in (
        {"encoding": ENCODING, "encode_folder": str(videos / "train" / "cat")},
        {"encoding": ENCODING, "encode_folder": str(videos.parent)},
        {"shards": ShardOptions(folder=str(videos / "val" / "cat" / "shards"), max_bytes=10**6)},
    ):
        with pytest.raises(ValueError, match=r"\.folder=.*: the source videos are in "):
            prepare(videos, **changes)
    with pytest.raises(ValueError, match="the source videos are in"):
        changes = {"encoding": ENCODING, "encode_folder": str(videos / "train" / "new")}
        prepare(videos, source_folders=[str(videos / "train")], **changes)
    assert not (videos.parent / "out").exists()


def test_a_full_disk_is_noticed_before_the_work(videos, monkeypatch):
    monkeypatch.setattr(costs, "free_bytes", lambda folder: 10_000)
    with pytest.raises(ValueError, match=r"will be written, a tenth to spare included, and 10\.0 kB are free"):
        prepare(videos)


def test_two_runs_do_not_prepare_to_the_same_folder(videos):
    def intrude(cost: object) -> bool:
        with pytest.raises(
            RuntimeError, match="another run prepares to this folder; wait for it or choose another out"
        ):
            prepare(videos)
        return False

    prepare_data_set(manifests(videos), plan(videos, limit=1), content=VideoContent(SAMPLER), confirm=intrude)
