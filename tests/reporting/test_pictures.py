"""What is shown of an entry: the very stretch, at its pace, within the bytes of the page; and why nothing is."""

import base64
import io
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mvit_video.reporting.answers import Entry
from mvit_video.reporting.pictures import HEIGHT, Projector, Shown, fitted, frames_shown
from tests.reporting.written_runs import FILES, FRAMES, write_images
from tests.video_library import barcode, number_in


def content(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def numbers_of(shown: Shown) -> tuple[list[int], Fraction]:
    """The frame numbers that a clip shows, and its pictures a second."""
    assert shown.uri.startswith("data:video/mp4;base64,")
    with av.open(io.BytesIO(content(shown.uri))) as clip:
        rate = clip.streams.video[0].average_rate
        return [number_in(frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)], rate


def projector(*folders: Path, frame_rate: float | None = None, max_bytes: int = 10**7) -> Projector:
    return Projector(folders=list(folders), frame_rate=frame_rate, max_bytes=max_bytes)


@pytest.fixture
def videos(written: Path) -> Path:
    return written.parent / "videos"


def test_a_clip_shows_the_video_at_its_own_pace(videos: Path) -> None:
    shown = projector(videos).show(Entry(path=FILES[0]), "video")
    assert numbers_of(shown) == (list(range(0, FRAMES, 2)), Fraction(25, 2))
    assert (shown.height, shown.width, shown.note) == (64, 96, "1.6 s")
    with Image.open(io.BytesIO(content(shown.poster))) as poster:
        assert number_in(np.asarray(poster)) == FRAMES // 2


def test_a_stretch_is_shown_and_nothing_else(videos: Path) -> None:
    shown = projector().show(Entry(path=str(videos / FILES[0]), start=0.6, end=1.2), "video")
    assert numbers_of(shown)[0] == list(range(15, 30, 2))


def test_of_long_videos_the_middle_is_shown() -> None:
    chosen = frames_shown(range(100, 1100), 25.0)  # 40 s: the 8 s from second 16 on
    assert (chosen[0], chosen[-1], len(chosen)) == (500, 698, 100)
    assert frames_shown(range(3), 10.0) == [0, 1, 2]
    assert frames_shown(range(1), 0.01) == [0]


def test_pictures_fit_the_page() -> None:
    assert fitted(1080, 1920) == (176, 312)
    assert fitted(1920, 1080) == (176, 100)
    assert fitted(200, 2000) == (32, 320)
    assert fitted(33, 47) == (32, 48)


def test_images_are_scaled_down(tmp_path: Path) -> None:
    shown = projector(tmp_path).show(Entry(path=write_images(tmp_path / "images")[1]), "image")
    with Image.open(io.BytesIO(content(shown.uri))) as image:
        assert image.size == (shown.width, shown.height) == (264, HEIGHT)
        assert abs(int(np.asarray(image).mean()) - 80) <= 2
    assert (shown.kind, shown.poster) == ("picture", "")


def test_members_of_tar_shards_are_read_in_place(videos: Path, tmp_path: Path) -> None:
    image = write_images(tmp_path / "images")[2]
    with tarfile.open(tmp_path / "shard-0.tar", "w") as shard:
        shard.add(videos / FILES[0], "a/0.mp4")
        shard.add(image, "1.png")
    made = projector(tmp_path)
    assert numbers_of(made.show(Entry(path="shard-0.tar/a/0.mp4"), "video"))[0][:3] == [0, 2, 4]
    assert made.show(Entry(path="shard-0.tar/1.png"), "image").kind == "picture"
    gone = made.show(Entry(path="shard-0.tar/2.png"), "image")
    assert "has no member 2.png" in gone.note and made.unreadable == 1


def test_folders_of_pictures_need_a_frame_rate(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(barcode(number)).save(folder / f"{number:05d}.png")
    shown = projector(tmp_path, frame_rate=10).show(Entry(path="pictures"), "video")
    assert numbers_of(shown) == (list(range(6)), 10)
    without = projector(tmp_path).show(Entry(path="pictures"), "video")
    assert "name no data.source.frame_rate" in without.note


def test_gone_and_broken_files_say_so(videos: Path, tmp_path: Path) -> None:
    made = projector(tmp_path, videos)
    gone, broken = (made.show(Entry(path=FILES[place]), "video") for place in (3, 4))
    assert gone.note == f"not shown: the file is gone; looked for in {tmp_path}, {videos}"
    assert broken.kind == "nothing" and broken.note.startswith("not shown: ")
    assert (made.unreadable, made.left_out, made.spent) == (2, 0, 0)


def test_the_bytes_of_the_page_are_bounded(videos: Path) -> None:
    entry = Entry(path=FILES[0])
    full = projector(videos).show(entry, "video")
    # The encoder gives a few bytes more or less each time.
    made = projector(videos, max_bytes=round(2.5 * len(full.uri + full.poster)))
    shown = [made.show(entry, "video") for _ in range(3)]
    assert [one.kind for one in shown] == ["clip", "clip", "nothing"]
    assert made.spent == sum(len(one.uri + one.poster) for one in shown) <= made.max_bytes
    assert (made.left_out, made.unreadable) == (1, 0)
    none = projector(videos, max_bytes=0).show(entry, "video")
    assert none.note == "left out: the page holds 0 MB of clips and pictures"
