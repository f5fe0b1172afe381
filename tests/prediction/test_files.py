"""What people name, and the files that it stands for."""

from pathlib import Path

import pytest

from mvit_video.data.datasets.extensions import IMAGES, VIDEOS
from mvit_video.prediction.files import find_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.mp4", "a.MOV", "deep/c.mkv", "notes.md", ".hidden.mp4", "photo.jpg", "odd.bin"):
        path = tmp_path / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" if path.suffix != ".md" else b"hello\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_folders_patterns_lists_and_urls(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert find_files(["x"], VIDEOS) == ["x/a.MOV", "x/b.mp4", "x/deep/c.mkv"]
    assert "hidden: 1 (x/.hidden.mp4)" in caplog.text and "extension .md: 1 (x/notes.md)" in caplog.text
    assert find_files(["x/**/*.m*"], VIDEOS) == ["x/b.mp4", "x/deep/c.mkv"]
    assert find_files(["x/b.mp4", "x/*.mp4", "https://host/v?id=1"], VIDEOS) == ["x/b.mp4", "https://host/v?id=1"]
    assert "1 video is named more than once" in caplog.text
    assert find_files(["x/odd.bin"], VIDEOS) == ["x/odd.bin"]  # the decoder says what it is
    assert find_files(["x"], IMAGES) == ["x/photo.jpg"]
    (folder / "x" / "list.txt").write_text("# mine\nb.mp4\n\nabsent.mp4\n", encoding="utf-8")
    assert find_files(["x/list.txt"], VIDEOS) == ["x/b.mp4", "x/absent.mp4"]
    (folder / "list").write_text("x/b.mp4\ns3://bucket/a.mp4\n", encoding="utf-8")
    assert find_files(["list"], VIDEOS) == ["x/b.mp4", "s3://bucket/a.mp4"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x/notes.md", r"is a text file, and none of its 1 lines is the path of a file or a URL, the first is 'hello'"),
        ("empty", "there is no video in this folder or the folders in it; it is empty"),
        ("x/c.mp4", r"there is no such file or folder in x; did you mean 'x/b.mp4'\?"),
        ("y/c.mp4", "there is no such file or folder, and no folder y; relative paths are taken from"),
        ("x/*.avi", r"x/\*.avi: no video matches this pattern"),
        ("x/photo.jpg", "is an image, and the model looks at videos"),
    ],
)
def test_what_is_no_video(source: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        find_files([source], VIDEOS)


def test_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="nothing to look at is given"):
        find_files([], IMAGES)
