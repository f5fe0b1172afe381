"""Small arithmetic and words: costs, folders, histograms, tables."""

import os
from pathlib import Path

import pytest

from mvit_video.data.sampling import ClipSampler
from mvit_video.preparation import cost as costs
from mvit_video.preparation.cost import Cost, check_disk, extrapolate, free_bytes, sample_evenly
from mvit_video.preparation.inventory import evenly_spaced
from mvit_video.preparation.output_paths import OutputLedger, check_apart, common_folder, mirrored, own_targets
from mvit_video.preparation.progress import FileProgress, progress_line
from mvit_video.preparation.quantities import histogram, most_common, quantiles
from mvit_video.preparation.report import aligned
from mvit_video.preparation.shard_writing import ShardMember, member_name, plan_shards, unique_names
from mvit_video.preparation.video_content import frames_needed, span_rule
from mvit_video.video.location import VideoLocation


def test_progress_in_words():
    line = progress_line("reading", 101, 301, 20_000_000, 10.0)
    assert line == "reading: 101 of 301 files, 10.0 files/s, 2.0 MB/s, 20 s left"


def test_progress_is_logged_now_and_then(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = FileProgress("reading", 100)
    now[0] = 300.0  # the workers start: no rate can be told from that
    with caplog.at_level("INFO"):
        for _ in range(12):
            progress.advance(10**6)
            now[0] += 1.0
    assert [record.message for record in caplog.records] == [
        "reading: 11 of 100 files, 1.0 files/s, 1.0 MB/s, 1 min 29 s left"
    ]


def test_cost_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "free_bytes", lambda folder: 10**12)
    cost = Cost(
        files=300, known=8, bytes=10**9, read_s=125, encode_files=20, encode_s=61, encode_bytes=5e8, shard_bytes=2e9,
        needs={"/o": 1e6},
    )  # fmt: skip
    assert cost.lines(workers=4) == [
        "to read: 300 files, 1.0 GB (8 are read already): about 2 min 5 s with 4 processes",
        "to re-encode: 20 files: about 1 min 1 s, 500.0 MB",
        "to pack: 2.0 GB",
        "disk: 1.0 MB in /o, where 1.00 TB are free",
    ]
    assert cost.seconds == 186


def test_samples_and_what_follows_from_them():
    assert sample_evenly([3, 5, 7], 8) == [3, 5, 7]
    assert sample_evenly(list(range(100)), 4) == [12, 37, 62, 87]
    assert extrapolate(2.0, sample_bytes=10, total_bytes=100) == 20.0
    assert extrapolate(2.0, sample_bytes=0, total_bytes=100) == 2.0


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    free = free_bytes(tmp_path / "not" / "there" / "yet")
    check_disk({str(tmp_path / "a"): 1000.0})
    message = r"a and .*b: about .* will be written, a tenth to spare included, and .* are free: make room"
    with pytest.raises(ValueError, match=message):
        check_disk({str(tmp_path / "a"): free * 0.6, str(tmp_path / "b"): free * 0.6})


def test_a_part_of_a_split_is_spread_over_it():
    assert (
        list(evenly_spaced(10, None)) == list(range(10)) == list(evenly_spaced(10, 10)) == list(evenly_spaced(10, 99))
    )
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]


def test_mirrored_paths():
    root = common_folder(["/d/train/x/a.avi", "/d/train/x/a.mkv", "/d/val/b.webm"])
    assert root == "/d"
    assert mirrored(["/d/train/x/a.avi", "/d/train/x/a.mkv", "/d/val/b.webm"], root=root, folder="/o") == [
        "/o/train/x/a.avi.mp4",
        "/o/train/x/a.mkv.mp4",
        "/o/val/b.mp4",
    ]
    assert common_folder(["s3://bucket/a.mp4"]) == os.getcwd()


def test_no_two_sources_are_written_to_one_file():
    sources = ["/d/a.avi", "/d/a.mkv", "/d/a.avi.mp4", "/e/x.mp4"]
    keys = [(path, 0) for path in sources]
    wanted = mirrored(sources[:3], root="/d", folder="/o")
    assert own_targets(wanted, keys[:3], folder="/o", written={}) == ["/o/a.avi.mp4", "/o/a.mkv.mp4", "/o/a.avi~2.mp4"]
    # A source keeps its file, whatever else is prepared beside it; one elsewhere does not count.
    written = {("/d/x.mp4", 0): "/o/x.mp4", ("/e/x.mp4", 0): "/elsewhere/x.mp4", ("/d/a.avi", 0): "/o/d/a.mp4"}
    assert own_targets(["/o/x.mp4"], [("/e/x.mp4", 0)], folder="/o", written=written) == ["/o/x~2.mp4"]
    assert own_targets(["/o/a.mp4"], [("/d/a.avi", 0)], folder="/o/", written=written) == ["/o/d/a.mp4"]


def test_only_what_a_preparation_wrote_is_replaced(tmp_path):
    files = [str(tmp_path / "new" / name) for name in ("a\udce9.mp4", "b.mp4")]
    ledger = tmp_path / "written.jsonl"
    OutputLedger(ledger).claim(files, option="o", folder="new")
    (tmp_path / "new").mkdir()
    for path in files:
        Path(path).touch()
    with ledger.open("a") as stream:
        stream.write('"torn')
    OutputLedger(ledger).claim(files, option="o", folder="new")
    other = OutputLedger(tmp_path / "other.jsonl")
    with pytest.raises(
        ValueError, match=r"o=new: 2 of the files to be written are there already, .*b\.mp4\. Choose ano"
    ):
        other.claim(files, option="o", folder="new")
    other.claim(files, option="o", folder="new", known=files)


@pytest.mark.parametrize("folder", ["train", "train/cat", "train/new", ".", "link"])
def test_folders_of_sources_are_refused(tmp_path, folder):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "train")
    with pytest.raises(ValueError, match=r"reencode.folder=.*: the source videos are in .*train; choose a folder that"):
        check_apart(str(tmp_path / folder), option="reencode.folder", sources=[str(tmp_path / "train")])


def test_folders_beside_sources_are_accepted(tmp_path):
    check_apart(str(tmp_path / "train2"), option="o", sources=[str(tmp_path / "train")])
    check_apart("s3://bucket/train", option="o", sources=[str(tmp_path / "train")])


def test_distributions():
    assert quantiles([]) == {}
    assert quantiles([1, 2, 3, 4, 5]) == {"min": 1, "5%": 1.2, "median": 3, "95%": 4.8, "max": 5}
    assert histogram([0.5, 1, 1.5, 9], [1, 2]) == {"below 1": 1, "1 to 2": 2, "2 and more": 1}
    assert most_common("aabbbcd", 2) == {"b": 3, "a": 2, "others": 2}
    assert most_common([]) == {}


def test_what_a_clip_needs():
    span = ClipSampler(num_frames=16, sampling_rate=4, target_fps=30)
    assert frames_needed(span, 15.0) == 32
    assert span_rule(span) == "shorter than a clip of 16 frames, one in 4 at 30 frames/s: 2.13 s"
    segments = ClipSampler(num_frames=16, sampling_rate=1, mode="segments")
    assert frames_needed(segments, 12.0) == 16
    assert span_rule(segments) == "fewer than 16 frames, one for each segment"


def test_names_in_shards():
    assert member_name("/d/train/x/a.mp4", "/d") == "train/x/a.mp4"
    assert member_name("s3://bucket/x/a.mp4", "/d") == "bucket/x/a.mp4"
    assert unique_names(["a.mp4", "b.mp4", "a.mp4", "a~2.mp4", "a.mp4"]) == [
        "a.mp4", "b.mp4", "a~2.mp4", "a~2~2.mp4", "a~3.mp4",
    ]  # fmt: skip


def test_videos_are_spread_over_shards_once_and_for_all():
    members = [ShardMember(f"{i}.mp4", VideoLocation.of(f"/d/{i}.mp4"), 100_000, 0, "") for i in range(50)]
    shards = plan_shards("train", members, folder="/s", max_bytes=1_100_000)
    assert [len(shard.members) for shard in shards] == [10] * 5
    assert sorted(member.name for shard in shards for member in shard.members) == sorted(m.name for m in members)
    assert [str(shard) for shard in shards[:2]] == ["/s/train-00000-000000.tar", "/s/train-00001-000000.tar"]
    assert [m.name for m in shards[0].members] != [m.name for m in members[:10]]  # shuffled
    assert shards == plan_shards("train", members, folder="/s", max_bytes=1_100_000)
    assert len({shard.key for shard in shards}) == 5
    larger = [ShardMember("big.mp4", VideoLocation.of("/d/big.mp4"), 10**9, 0, ""), *members]
    assert max(len(shard.members) for shard in plan_shards("train", larger, folder="/s", max_bytes=10**6)) == 9
    assert plan_shards("train", [], folder="/s", max_bytes=1) == []


def test_tables():
    assert aligned([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc   d"
