"""What every source does with its splits: classes by name, and nothing left out without a word."""

import logging
from pathlib import Path

import pytest

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import ListSource
from tests.data.datasets.files import touch, write


def list_source(folder: Path, train: str, val: str | None = None, **options: object) -> ListSource:
    touch(folder, "a.mp4", "b.mp4", "c.mp4")
    return ListSource(
        train=str(write(folder / "train.txt", train)),
        val=None if val is None else str(write(folder / "val.txt", val)),
        root=str(folder),
        **options,  # type: ignore[arg-type]
    )


def test_a_gap_in_the_labels_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = list_source(tmp_path, "a.mp4 0\nb.mp4 2\n").manifest("train")
    assert manifest.class_names == ("class 0", "class 1", "class 2")
    assert manifest.empty_classes() == ("class 1",)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["train split: 1 of 3 classes has no video: 'class 1'"]


def test_a_validation_list_with_fewer_labels_has_the_classes_of_the_training(tmp_path: Path) -> None:
    source = list_source(tmp_path, "a.mp4 0\nb.mp4 2\nc.mp4 1\n", "c.mp4 1\n")
    assert source.manifest("val").class_names == source.manifest("train").class_names
    assert source.manifest("val").labels == (1,)


def test_a_label_that_only_the_validation_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val\.txt: 1 of its 2 classes is not among the 2 known ones: 'class 2'"):
        list_source(tmp_path, "a.mp4 0\nb.mp4 1\n", "c.mp4 2\na.mp4 0\n").manifest("val")


def test_classes_are_mapped_by_name() -> None:
    manifest = Manifest(("x", "y", "z"), (0, 2, 0), ("archery", "never", "zumba"), "val")
    mapped = manifest.with_classes(("zumba", "swimming", "archery"))
    assert (mapped.labels, mapped.class_names) == ((2, 0, 2), ("zumba", "swimming", "archery"))
    assert mapped.paths == manifest.paths
    assert manifest.with_classes(manifest.class_names) is manifest


def test_classes_that_cannot_be_mapped_are_refused_with_both_lists() -> None:
    manifest = Manifest(("x", "y"), (0, 1), ("archery", "zumba dance"), "val")
    with pytest.raises(
        ValueError,
        match=r"val: 1 of its 2 classes is not among the 2 known ones: 'zumba dance' \(did you mean 'zumba dancing'\?\)"
        r"\. Classes here: 'archery', 'zumba dance'\. Known classes: 'archery', 'zumba dancing'",
    ):
        manifest.with_classes(("archery", "zumba dancing"))


def test_numbers_are_no_names() -> None:
    manifest = Manifest(("x", "y"), (0, 1), ("class 0", "class 1"), "val.txt")
    with pytest.raises(ValueError, match=r"labels without names: say which number is which name, .*class_names_file"):
        manifest.with_classes(("archery", "zumba"))
