import logging
from pathlib import Path

import pytest

from mvit_video.data.datasets.class_folders import from_folder
from mvit_video.data.datasets.sources import FolderSource
from tests.data.datasets.files import names_of, touch


def test_folder_per_class(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "zumba/b.MP4",
        "zumba/a.mkv",
        "zumba/notes.txt",
        "zumba/.hidden.mp4",
        "archery/day 2/c.webm",
        "archery/d.MoV",
        ".cache/e.mp4",
        "readme.md",
    )
    manifest = from_folder(tmp_path)
    assert names_of(manifest, tmp_path) == ["archery/d.MoV", "archery/day 2/c.webm", "zumba/a.mkv", "zumba/b.MP4"]
    assert manifest.labels == (0, 0, 1, 1)
    assert manifest.class_names == ("archery", "zumba")
    assert manifest.source == str(tmp_path)
    assert manifest.left_out == {
        "beside the class folders": ("readme.md",),
        "extension .txt": ("zumba/notes.txt",),
        "hidden": (".cache", "zumba/.hidden.mp4"),
    }


@pytest.mark.parametrize("extension", ["mp4", "WMV", "MTS", "m2ts", "3gp", "vob", "ogv", "mxf", "divx", "f4v", "gif"])
def test_folder_takes_video_extensions(tmp_path: Path, extension: str) -> None:
    touch(tmp_path, f"x/a.{extension}")
    assert names_of(from_folder(tmp_path), tmp_path) == [f"x/a.{extension}"]


def test_what_is_not_used_is_counted_and_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/1.mp4", "a/._1.mp4", "a/1.xyz", "a/2.XYZ", "a/3.xyz", "a/4.xyz", "a/README", "loose.mp4")
    (tmp_path / "none yet").mkdir()
    with caplog.at_level(logging.INFO):
        manifest = FolderSource(train=str(tmp_path)).manifest("train")
    assert manifest.class_names == ("a",)
    assert (
        "train split: 8 files are not used. beside the class folders: 1 (loose.mp4); class folder without a file: 1 "
        "(none yet); extension .xyz: 4 (a/1.xyz, a/2.XYZ, a/3.xyz, ...); hidden: 1 (a/._1.mp4); no extension: 1 "
        "(a/README)"
    ) in caplog.text


def test_links_to_folders_in_a_class_folder(tmp_path: Path) -> None:
    touch(tmp_path, "videos/1.mp4", "pictures/1.jpg", "classes/a/2.mp4")
    for name in ("videos", "pictures"):
        (tmp_path / "classes" / "a" / f"{name}.avi").symlink_to(tmp_path / name)
    manifest = from_folder(tmp_path / "classes")
    assert names_of(manifest, tmp_path / "classes") == ["a/2.mp4"]
    assert manifest.left_out == {"link to a folder, not followed": ("a/pictures.avi", "a/videos.avi")}
    pictures = from_folder(tmp_path / "classes", frame_rate=12)
    assert names_of(pictures, tmp_path / "classes") == ["a/2.mp4", "a/pictures.avi"]
    assert pictures.left_out == {"link to a folder, not followed": ("a/videos.avi",)}


def test_what_lies_beside_the_pictures_of_a_video_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a/x/1.jpg", "a/x/2.JPG", "a/x/clip.mp4", "a/x/more/1.mp4", "a/x/.DS_Store", "a/y.mp4")
    manifest = from_folder(tmp_path, frame_rate=12)
    assert names_of(manifest, tmp_path) == ["a/x", "a/y.mp4"]
    assert manifest.left_out == {
        "beside the pictures of a video": ("a/x/clip.mp4", "a/x/more"),
        "hidden": ("a/x/.DS_Store",),
    }


def test_folder_of_validation_uses_the_classes_of_training(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "train/c/1.mp4", "val/c/2.mp4", "val/a/2.mp4")
    source = FolderSource(train=str(tmp_path / "train"), val=str(tmp_path / "val"))
    val = source.manifest("val")
    assert val.labels == (0, 2)
    assert val.class_names == ("a", "b", "c")
    assert val.empty_classes() == ("b",)


def test_validation_folders_of_other_names_are_refused_with_both_lists(tmp_path: Path) -> None:
    touch(tmp_path, "train/archery/1.mp4", "train/zumba/1.mp4", "val/archery/2.mp4", "val/zumbaa/2.mp4")
    source = FolderSource(train=str(tmp_path / "train"), val=str(tmp_path / "val"))
    with pytest.raises(
        ValueError,
        match=r"val: 1 of its 2 classes is not among the 2 known ones: 'zumbaa' \(did you mean 'zumba'\?\)\. Classes "
        r"here: 'archery', 'zumbaa'\. Known classes: 'archery', 'zumba'\. Labels are matched by name",
    ):
        source.manifest("val")


def test_an_empty_class_folder_of_the_training_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/c/1.mp4", "val/c/2.mp4")
    (tmp_path / "train" / "b").mkdir()
    source = FolderSource(train=str(tmp_path / "train"), val=str(tmp_path / "val"))
    assert source.manifest("train").class_names == ("a", "c")
    assert source.manifest("val").labels == (1,)


def test_folder_follows_links_to_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.mp4")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert names_of(from_folder(tmp_path / "root"), tmp_path) == ["root/a/1.mp4"]


def test_links_to_files_of_the_same_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A link in another class: the video had two classes, and lay in both parts of a split, without a word."""
    touch(tmp_path, "root/a/1.mp4", "root/a/2.mp4", "root/b/3.mp4", "pool/4.mp4")
    (tmp_path / "root" / "b" / "one.mp4").symlink_to(tmp_path / "root" / "a" / "1.mp4")
    (tmp_path / "root" / "a" / "5.mp4").symlink_to(tmp_path / "pool" / "4.mp4")
    (tmp_path / "root" / "a" / "6.mp4").symlink_to("../../pool/4.mp4")
    caplog.set_level(logging.INFO)
    manifest = from_folder(tmp_path / "root")
    assert names_of(manifest, tmp_path) == [f"root/{n}.mp4" for n in ("a/1", "a/2", "a/5", "a/6", "b/3", "b/one")]
    assert manifest.groups == ("a/1.mp4", "", "a/5.mp4", "a/5.mp4", "", "a/1.mp4")
    assert "2 videos are there several times, through links: a/1.mp4, a/5.mp4" in caplog.text
    assert "1 video is in several classes, through links, and" in caplog.text and "a/1.mp4 (a and b)" in caplog.text


def test_links_to_files_elsewhere_group_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "pool/1.mp4", "root/a/2.mp4")
    (tmp_path / "root" / "a" / "1.mp4").symlink_to(tmp_path / "pool" / "1.mp4")
    assert from_folder(tmp_path / "root").groups is None


def test_folder_refuses_bad_layouts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none: the folder of videos does not exist"):
        from_folder(tmp_path / "none")
    touch(tmp_path, "flat/a.mp4")
    with pytest.raises(ValueError, match=r"flat: no class folders in it; lay the videos out as .*<class>/<video>\.mp4"):
        from_folder(tmp_path / "flat")
    touch(tmp_path, "empty/a/1.mp4", "empty/b/notes.txt")
    with pytest.raises(
        ValueError,
        match=r"empty/b: no video in the class folder \(found extension \.txt: 1 \(b/notes\.txt\)\); videos are known "
        r"by their extension \(\.mp4, .* more\): add videos, rename them, or remove the folder",
    ):
        from_folder(tmp_path / "empty")
    touch(tmp_path, "splits/train/a/1.mp4", "splits/val/a/1.mp4")
    with pytest.raises(ValueError, match=r"its folders \(train, val\) are splits, not classes; pass one of them"):
        from_folder(tmp_path / "splits")
    (tmp_path / "bare" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"bare: all of its class folders are empty; put the videos of each class"):
        from_folder(tmp_path / "bare")
