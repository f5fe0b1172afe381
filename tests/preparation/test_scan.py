"""Reading one file: what is found out about it, and what is wrong with it."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from mvit_video.preparation.full_decode import describe_lost
from mvit_video.preparation.inventory import look_up
from mvit_video.preparation.journal import Record
from mvit_video.preparation.scan import ScanTask, scan_file
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import VideoReader
from tests.paths import ROOT
from tests.preparation.videos import damage, rotate, truncate, write_video


def scanned(location: VideoLocation | Path, verify: str = "decode", max_pixels: int = 10**6) -> Record:
    (item,) = look_up([VideoLocation.of(location)])
    assert item.state is not None, item.problem
    return scan_file(ScanTask(item.location, item.state, verify, max_pixels))


def test_a_sound_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=13, fps=10, options={"bf": "2"})
    record = scanned(path)
    assert (record.status, record.reason) == ("ok", "")
    assert (record.num_frames, record.fps, record.height, record.width, record.codec) == (13, 10.0, 48, 64, "h264")
    assert record.duration == pytest.approx(1.3)
    assert record.container == "mov,mp4,m4a,3gp,3g2,mj2"
    assert record.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(record.signature) == 8 * 16 and len(set(record.signature)) > 4
    assert (record.state.name, record.state.size) == (str(path), path.stat().st_size)
    assert record.state.mtime_ns == path.stat().st_mtime_ns
    with VideoReader(path) as video:
        assert np.array_equal(record.frame_index.order, video.frame_index.order)
        assert np.array_equal(record.frame_index.stamps, video.frame_index.stamps)


def test_reading_packets_alone_decodes_no_pictures(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=24, options={"g": "24"})
    damage(path, at=0.5)
    record = scanned(path, "index")
    assert (record.status, record.num_frames, record.signature) == ("ok", 24, "")
    assert scanned(path, "decode").status == "broken"


def test_a_stretch_of_a_larger_file_is_read_as_the_file_itself(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    content = path.read_bytes()
    (tmp_path / "all.bin").write_bytes(b"x" * 1000 + content + b"y" * 500)
    part = VideoLocation("all.bin/a.mp4", str(tmp_path / "all.bin"), start=1000, size=len(content))
    whole, stretch = scanned(path), scanned(part)
    assert stretch.status == "ok"
    assert (stretch.digest, stretch.signature, stretch.frames) == (whole.digest, whole.signature, whole.frames)
    assert (stretch.state.start, stretch.state.size) == (1000, len(content))


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files with something wrong, and what is said about each."""
    cut_off = write_video(folder / "cut_off.mp4", options={"movflags": ""})
    content = cut_off.read_bytes()
    cut_off.write_bytes(content[: content.index(b"mdat") + 50] if b"mdat" in content else content[:100])
    middle = write_video(folder / "middle.mp4", frames=24, options={"g": "24", "bf": "0"})
    damage(middle, at=0.5)
    empty, text, sound = folder / "empty.mp4", folder / "text.mp4", folder / "sound.mp4"
    empty.touch()
    text.write_text("<html>404</html>" * 50)
    sound.write_bytes(b"ID3\x03" + bytes(200))
    return {
        "empty": (empty, "is empty"),
        "text": (text, "cannot be opened"),
        "cut_off": (cut_off, "cannot be opened|no pict"),
        "middle": (middle, r"\d+ of 24 frames cannot be decoded: \d+ to 23"),
        "sound": (sound, "cannot be opened|has no video stream"),
    }


@pytest.mark.parametrize("kind", ["empty", "text", "cut_off", "middle", "sound"])
def test_broken_files(tmp_path, kind):
    path, reason = broken_files(tmp_path)[kind]
    record = scanned(path)
    assert record.status == "broken"
    assert re.search(reason, record.reason), record.reason
    assert record.frames == record.signature == ""


def test_a_file_whose_end_is_missing_is_readable_up_to_there(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=40, options={"g": "8", "bf": "0"})
    truncate(path, 0.7)
    record = scanned(path)
    assert record.status == "partial"
    assert 8 <= record.num_frames < 40
    assert record.reason.startswith(f"only its first {record.num_frames} frames can be read: ")


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "fragmented.mp4"])
def test_a_copy_that_broke_off_is_noticed_where_the_demuxer_says_nothing(tmp_path, name):
    """These read without complaint up to their end, wherever that is."""
    path = tmp_path / name
    if name == "fragmented.mp4":
        content = broken_off(write_video(tmp_path / "w.mp4", frames=40, options={"g": "8", "bf": "0"}))
        path.write_bytes(content)
    else:
        write_video(path.with_suffix(".mkv"), frames=40, options={"g": "8", "bf": "0"}).rename(path)
    assert scanned(path).status == "ok"
    whole = path.stat().st_size
    truncate(path, 0.75)
    record = scanned(path)
    assert record.status == "partial" and 0 < record.num_frames < 40
    lost = whole - path.stat().st_size
    assert f"the file ends {lost} bytes too early" in record.reason or name == "fragmented.mp4", record.reason


def broken_off(path: Path) -> bytes:
    """The video as a fragmented MP4, a fragment per group of pictures."""
    target = path.with_suffix(".frag")
    with av.open(str(path)) as source:
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        with av.open(str(target), "w", format="mp4", options=options) as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    return target.read_bytes()


def test_pictures_that_are_too_large(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    record = scanned(path, max_pixels=1000)
    assert record.status == "broken"
    assert record.reason == "pictures of 64x48 exceed max_pixels=1000; raise it to read them"


def test_the_signature_is_of_the_presented_picture(tmp_path):
    plain, turned = write_video(tmp_path / "a.mp4"), write_video(tmp_path / "b.mp4")
    rotate(turned, a=-1, b=0, c=0, d=-1)  # upside down, twice mirrored
    assert scanned(turned).num_frames == scanned(plain).num_frames
    assert scanned(turned).signature != scanned(plain).signature


@pytest.mark.parametrize(("place", "problem"), [
    ("absent.mp4", "No such file or directory"), ("", "is a directory"),
])  # fmt: skip
def test_what_is_no_file_is_not_read_at_all(tmp_path, place, problem):
    (item,) = look_up([VideoLocation.of(tmp_path / place)])
    assert (item.state, item.problem, item.size) == (None, problem, 0)


def test_lost_frames_in_words():
    assert describe_lost([5], 9) == "1 of 9 frames cannot be decoded: 5"
    assert describe_lost([7, 3, 4, 5], 9) == "4 of 9 frames cannot be decoded: 3 to 5, 7"
    assert describe_lost([1, 3, 5, 7, 9], 10) == "5 of 10 frames cannot be decoded: 1, 3, 5, ..."


def test_workers_that_read_videos_do_without_torch() -> None:
    code = "import sys, mvit_video.preparation.scan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
