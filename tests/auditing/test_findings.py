"""What an audit makes of its findings: duplicates, labels, accuracies; the groups that can be given back."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mvit_video.auditing.accuracy import (
    Measured,
    accuracy_of,
    difference,
    number_verdict,
    order_verdict,
    unseen_verdict,
)
from mvit_video.auditing.duplicates import duplicate_findings, duplicate_verdict, file_keys_of
from mvit_video.auditing.entries import Entries
from mvit_video.auditing.files import group_names, regroup_command, regroup_options, write_groups
from mvit_video.auditing.identical import content_keys
from mvit_video.auditing.labels import label_findings, label_verdict
from mvit_video.auditing.page import first_sentence
from mvit_video.auditing.takes import join_recordings, trained_on
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.data.datasets.splits import SplitOptions, SplitSource
from mvit_video.data.datasets.table import TableSource
from mvit_video.video.location import VideoLocation

CLASSES = ("apple", "bread")


def split(folder: Path, *files: tuple[str, int, bytes], **more: object) -> Manifest:
    """A split of files that are written here; (name, label, content)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, content in files:
        (folder / name).write_bytes(content)
    paths, labels = [str(folder / name) for name, _, _ in files], [label for _, label, _ in files]
    return Manifest(paths, labels, CLASSES, str(folder), **more)  # type: ignore[arg-type]


def keys_of(entries: Entries) -> tuple[list[str], list[int]]:
    locations = [VideoLocation.of(entries.path(place)) for place in range(len(entries))]
    digests, unknown = content_keys(locations, threads=1, on_progress=lambda done: None)
    return file_keys_of(entries, digests), unknown


@pytest.fixture
def twice(tmp_path: Path) -> Entries:
    """Train: a, b (as a, of another class), c; validation: d, and the same bytes as c."""
    train = split(tmp_path / "train", ("a", 0, b"same"), ("b", 1, b"same"), ("c", 0, b"also"), ("e", 1, b"alone"))
    return Entries(train, split(tmp_path / "val", ("d", 1, b"new!"), ("c", 0, b"also")), "val")


def test_the_same_bytes_across_and_under_two_classes(twice: Entries) -> None:
    keys, unknown = keys_of(twice)
    found = duplicate_findings(twice, keys, unknown)
    assert (found.across, found.conflicting, found.not_compared) == (1, 1, ())
    across, conflicting = found.duplicates
    assert [(name, Path(path).name) for name, path in across.videos] == [("train", "c"), ("val", "c")]
    assert [Path(path).name for _, path in conflicting.videos] == ["a", "b"] and conflicting.classes == CLASSES
    verdict = duplicate_verdict(found, split="val")
    assert verdict.level == "bad"
    assert verdict.text == (
        "1 video is in the training and in val, byte for byte. 1 video is there under several classes."
    )


def test_only_files_of_equal_size_are_read(twice: Entries) -> None:
    read: list[int] = []
    locations = [VideoLocation.of(twice.path(place)) for place in range(len(twice))]
    keys, _ = content_keys(locations, threads=1, on_progress=read.append)
    assert sum(read) == 5 and keys[3] == ""  # the one of five bytes has no other of its size


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    train = split(tmp_path, ("a", 0, b"a"))
    (tmp_path / "frames").mkdir()
    other = Manifest([str(tmp_path / "frames"), "s3://bucket/x.mp4"], [0, 1], CLASSES, "there")
    entries = Entries(train, other, "val")
    keys, unknown = keys_of(entries)
    found = duplicate_findings(entries, keys, unknown)
    assert found.not_compared == tuple(sorted(other.paths)) and not found.duplicates
    assert "2 videos could not be compared" in duplicate_verdict(found, split="val").text


def test_segments_of_one_file_are_one_recording_and_no_duplicates(tmp_path: Path) -> None:
    train = split(tmp_path, ("a", 0, b"a"), ("b", 0, b"b"), segments=Segments([(0, 2), (0, 2)]))
    val = Manifest([str(tmp_path / "a")], [1], CLASSES, "val", segments=Segments([(2, 4)]))
    entries = Entries(train, val, "val")
    keys, unknown = keys_of(entries)
    assert not duplicate_findings(entries, keys, unknown).duplicates
    joined = join_recordings(entries, None, keys)
    assert joined.tolist() == [0, 1, 0] and trained_on(entries, joined).tolist() == [True]


def test_stated_groups_join_too(tmp_path: Path) -> None:
    train = split(tmp_path, ("a", 0, b"a"), ("b", 0, b"bb"), groups=["x", ""])
    val = split(tmp_path, ("c", 0, b"ccc"), ("d", 0, b"dddd"), groups=["x", ""])
    entries = Entries(train, val, "val")
    assert join_recordings(entries, None, keys_of(entries)[0]).tolist() == [0, 1, 0, 3]


# ---- labels


def manifest(counts: dict[str, int], prefix: str = "t") -> Manifest:
    labels = [place for place, count in enumerate(counts.values()) for _ in range(count)]
    return Manifest([f"{prefix}{place}" for place in range(len(labels))], labels, tuple(counts), prefix)


def test_classes_that_are_in_order() -> None:
    entries = Entries(manifest({"a": 20, "b": 15}), manifest({"a": 5, "b": 7}, "v"), "val")
    found = label_findings(entries)
    assert label_verdict(found, split="val").level == "fine"
    assert found.largest == "a" and found.always_largest == pytest.approx(100 * 5 / 12)


def test_everything_that_is_wrong_with_classes_is_named() -> None:
    train = manifest({"Wren": 100, "wren": 9, "none": 0, "late": 0})
    found = label_findings(Entries(train, manifest({"Wren": 6, "wren": 2, "none": 0, "late": 5}, "v"), "val"))
    assert (found.never_trained, found.alike, found.few_in_training, found.few_in_split) == (
        ("late",), (("Wren", "wren"),), ("wren",), ("wren",)
    )  # fmt: skip
    verdict = label_verdict(found, split="val")
    assert verdict.level == "bad"
    for text in (
        "1 class without a training video: 'late'",
        "'Wren' and 'wren'",
        "no video at all: 'none'",
        "11 times",
    ):
        assert text in verdict.text


# ---- accuracies


def right(count: int, total: int) -> np.ndarray:
    return np.arange(total) < count


def test_an_accuracy_has_both_intervals() -> None:
    one = accuracy_of("x", right(60, 100), protocol="p", recordings=np.arange(100) // 10)
    assert one.value == 60 and one.videos == 100 and one.interval is not None and one.by_recording is not None
    assert one.interval[0] > one.by_recording[0] and one.interval[1] < one.by_recording[1]
    assert accuracy_of("x", right(3, 5), protocol="p", recordings=np.arange(5)).by_recording is None
    every = accuracy_of("x", right(200, 200), protocol="p", recordings=np.arange(200) // 5)
    assert every.interval == pytest.approx((98.12, 100), abs=0.01)
    assert every.by_recording == pytest.approx((91.24, 100), abs=0.01)  # 40 of 40
    assert accuracy_of("x", right(0, 0), protocol="p").value is None


def logged(value: float) -> Measured:
    return Measured(name="x", protocol="1 x 1 view", value=value, interval=None, videos=10)


def test_a_number_that_differs_from_what_was_logged_is_bad() -> None:
    main = accuracy_of("x", right(900, 1000), protocol="p")
    fine = number_verdict(main, logged(80.0), logged(80.0), metric="video_top1")
    assert fine.level == "fine" and "it is what the training logged" in fine.text
    bad = number_verdict(main, logged(80.0), logged(70.0), metric="video_top1")
    assert bad.level == "bad" and "logged 80.00 % and the same protocol now gives 70.00 %" in bad.text
    few = number_verdict(accuracy_of("x", right(9, 10), protocol="p"), None, logged(1), metric="video_top1")
    assert few.level == "look" and "data.folds=5" in few.next_step


def test_unseen_recordings() -> None:
    none = accuracy_of("x", right(0, 0), protocol="p")
    assert unseen_verdict(none, accuracy_of("x", right(4, 5), protocol="p")).level == "fine"
    every = unseen_verdict(accuracy_of("x", right(4, 5), protocol="p"), none)
    assert "nothing is known of new recordings" in every.text
    few = unseen_verdict(accuracy_of("x", right(9, 10), protocol="p"), accuracy_of("x", right(1, 4), protocol="p"))
    assert few.text == (
        "25.0 % where the recording is new, 90.0 % where it was trained on. The first is of 4 videos only, too few to "
        "report."
    )


def test_few_recordings_are_as_little_as_few_videos() -> None:
    """Of three recordings with any number of takes, a 95 % interval holds the truth in three of four cases."""
    three = accuracy_of("x", right(190, 200), protocol="p", recordings=np.arange(200) % 3)
    verdict = number_verdict(three, None, three, metric="video_top1")
    assert verdict.level == "look" and "They are takes of 3 recordings. With fewer than 30 recordings" in verdict.text
    many = accuracy_of("x", right(950, 1000), protocol="p", recordings=np.arange(1000) % 100)
    assert number_verdict(many, None, many, metric="video_top1").level == "fine"
    assert "The first is of 3 recordings only, too few to report." in unseen_verdict(many, three).text
    one = np.zeros(100, np.int64)  # drawn again it is the same: an interval of it would have no width
    assert accuracy_of("x", right(90, 100), protocol="p", recordings=one).by_recording is None
    low, high = difference("shuffled", right(90, 100), right(89, 100), one).interval
    assert low < high


def test_what_the_order_of_frames_is_worth() -> None:
    forward = right(90, 100)
    changes = {
        order: difference(order, forward, right(count, 100), np.arange(100))
        for order, count in (("single", 50), ("shuffled", 89), ("reversed", 20))
    }
    assert changes["single"].points == -40 and changes["single"].interval[1] < 0
    verdict = order_verdict(changes)
    assert verdict.level == "fine" and "The model uses more than one picture." in verdict.text
    assert "shuffled: -1.0 points" in verdict.text
    same = {order: difference(order, forward, forward, np.arange(100)) for order in changes}
    assert order_verdict(same).level == "look" and "Nothing here shows" in order_verdict(same).text
    assert order_verdict({}).level == "look"


def test_first_sentences() -> None:
    assert first_sentence("83.3 % of 6 videos; others may give 4.") == "83.3 % of 6 videos"
    assert first_sentence("One. Two.") == "One."


# ---- the groups, given back


def test_the_groups_can_be_trained_with(tmp_path: Path) -> None:
    names = [(f"{c}{n}", c, f"{c}{n}".encode()) for c in (0, 1) for n in range(4)]
    train, val = split(tmp_path / "train", *names), split(tmp_path / "val", *names[:2], *names[4:6])
    entries = Entries(train, val, "val")
    recordings = np.array([0, 0, 2, 2, 4, 4, 6, 6, 0, 0, 4, 4])
    write_groups(tmp_path / "groups.csv", entries, recordings)
    rows = list(csv.DictReader((tmp_path / "groups.csv").open()))
    assert [row["group"] for row in rows[:5]] == ["r0001", "r0001", "r0002", "r0002", "r0003"]
    assert [row["was_in"] for row in rows].count("val") == 4
    options = regroup_options(entries, tmp_path / "groups.csv")
    assert options == ["data/source=table", f"data.source.table={tmp_path / 'groups.csv'}", "data.holdout=0.33"]
    source = SplitSource(TableSource(table=str(tmp_path / "groups.csv")), SplitOptions(holdout=0.33))
    parts = source.manifest("train"), source.manifest("val")
    assert parts[0].class_names == CLASSES
    assert parts[0].groups is not None and parts[1].groups is not None
    assert not set(parts[0].groups) & set(parts[1].groups)
    assert sum(map(len, parts)) == 12


def test_the_table_keeps_segments_weights_and_several_labels(tmp_path: Path) -> None:
    files = (("a", 0, b"a"), ("b", 0, b"bb"))
    sets = LabelSetArrayView([(0, 1), (1,)])
    train = split(tmp_path, *files, segments=Segments([(0.5, 1.25), (0, float("inf"))]), label_sets=sets)
    entries = Entries(train, split(tmp_path, files[0], label_sets=LabelSetArrayView([(0,)])), "test")
    write_groups(tmp_path / "g.csv", entries, np.array([0, 1, 0]))
    options = regroup_options(entries, tmp_path / "g.csv")
    assert options is not None and options[-1] == "data.source.label_separator='|'"
    whole = TableSource(table=str(tmp_path / "g.csv"), label_separator="|", beyond="cut").manifest("train")
    assert whole.label_sets is not None and whole.segments is not None
    assert list(whole.label_sets) == [(0, 1), (1,), (0,)]
    assert [segment.start for segment in whole.segments] == [0.5, 0, 0]


def test_labels_that_are_numbers_stay_names(tmp_path: Path) -> None:
    numbers = Manifest(["a"], [0], ("7",), "x")
    options = regroup_options(Entries(numbers, numbers, "val"), tmp_path / "g.csv")
    assert options is not None and "data.source.labels=names" in options


def test_the_command_is_that_of_the_training_with_another_source() -> None:
    given = (
        "/x/python -m mvit_video.train +experiment=finetune_folder name=birds data.source.train=birds/train "
        "data.source.val=birds/val optim.lr=1e-4 data.holdout=0.2 resume=force"
    )
    command = regroup_command(["data/source=table", "data.holdout=0.3"], trained_with=given, name="birds")
    assert command == (
        "python -m mvit_video.train +experiment=finetune_folder optim.lr=1e-4 name=birds-by-recording "
        "data/source=table data.holdout=0.3"
    )
    for unknown in ("", "pytest tests", "python -m mvit_video.train --multirun optim.lr=1,2"):
        assert "and the other options" in regroup_command(["data.holdout=0.3"], trained_with=unknown, name="b")


def test_group_names_follow_the_order_of_the_videos() -> None:
    assert group_names(np.array([5, 2, 5])) == ["r0001", "r0002", "r0001"]
