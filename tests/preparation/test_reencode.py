"""Re-encoding: smaller, quick to read, and the same frames at the same times."""

import dataclasses
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mvit_video.preparation import reencode
from mvit_video.preparation.journal import Record
from mvit_video.preparation.reencode import EncodeTask, Encoding, compared_frames, encode_file, output_size, psnr
from mvit_video.video.index import VideoDecodeError
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import VideoReader
from tests.preparation.test_scan import scanned
from tests.preparation.videos import rotate, write_video

SMALL = Encoding(short_side=32, gop=4, preset="ultrafast", crf=18)


def encoded(path: Path, encoding: Encoding = SMALL) -> tuple[Record, Path]:
    target = path.parent / "out" / "deep" / (path.stem + ".mp4")
    record = scanned(path)
    assert record.status == "ok", record.reason
    return encode_file(EncodeTask(VideoLocation.of(path), record, str(target), encoding, 10**6)), target


def times(path: Path) -> list[Fraction]:
    """Presentation times of all frames in seconds, by playing the file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.pts * stream.time_base for frame in container.decode(stream)]


def mean_difference(first: Path, second: Path) -> float:
    """Of the frames of two files, the second scaled to the first's size."""
    with VideoReader(first) as a, VideoReader(second) as b:
        frames = range(a.info.num_frames)
        small = b.read(frames, size=(a.info.height, a.info.width))
        return float((a.read(frames).float() - small.float()).abs().mean())


def test_the_same_frames_at_the_same_times(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=23, fps=30, options={"bf": "2"})
    record, target = encoded(path)
    assert (record.status, record.num_frames, record.height, record.width, record.codec) == ("ok", 23, 32, 42, "h264")
    assert times(target) == times(path)
    assert mean_difference(target, path) < 4
    assert record.fps == pytest.approx(30)
    assert record.written.name == str(target) and record.written.size == target.stat().st_size
    assert record.state.name == str(path)  # the journal finds it by its source
    assert record.recipe == "libx264 short_side=32 gop=4 crf=18 preset=ultrafast fastdecode"
    assert os.listdir(target.parent) == ["a.mp4"]  # nothing left beside


def test_groups_are_short_and_have_no_b_pictures(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20, options={"g": "250", "bf": "2"})
    _, target = encoded(path)
    with av.open(str(target)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        kinds = [av.video.frame.PictureType(f.pict_type).name for packet in packets for f in packet.decode()]
        streams = [stream.type for stream in container.streams]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert max(np.diff([*keys, 20])) <= 4
    assert set(kinds) <= {"I", "P"}
    assert streams == ["video"]
    assert [packet.pts for packet in packets] == sorted(packet.pts for packet in packets)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_variable_frame_rate_and_a_late_start(tmp_path, container):
    odd = [1500, 1533, 1567, 1600, 1733, 1767, 2900, 2933, 2967, 3000]
    path = write_video(tmp_path / f"a.{container}", frames=10, times=odd, tick=Fraction(1, 1000))
    _, target = encoded(path)
    shown, due = times(target), times(path)
    assert [t - shown[0] for t in shown] == [t - due[0] for t in due] == [Fraction(t - 1500, 1000) for t in odd]
    assert shown[0] == due[0]


def test_ntsc_times_are_exact(tmp_path):
    stamps = [1001 * i for i in range(12)]
    path = write_video(tmp_path / "a.mp4", frames=12, fps=30, times=stamps, tick=Fraction(1, 30000))
    _, target = encoded(path)
    assert times(target) == [Fraction(1001 * i, 30000) for i in range(12)]


def test_avi_without_times_is_shown_at_its_rate(tmp_path):
    path = write_video(tmp_path / "a.avi", frames=9, fps=25, options={"bf": "0"})
    record, target = encoded(path)
    assert record.num_frames == 9
    assert times(target) == [Fraction(i, 25) for i in range(9)]


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_rotation_is_applied(tmp_path, matrix):
    path = write_video(tmp_path / "a.mp4")
    rotate(path, **dict(zip("abcd", matrix)))
    record, target = encoded(path)
    turned = matrix[0] == 0
    assert (record.height, record.width) == ((42, 32) if turned else (32, 42))
    with VideoReader(target) as video:
        assert not video.frame_index.orientation.transpose and not video.frame_index.orientation.flip_rows
    assert mean_difference(target, path) < 5


@pytest.mark.parametrize("source", [
    {"full_range": True}, {"pixels": "yuvj420p"}, {"matrix": 1}, {"matrix": 1, "full_range": True},
    {"pixels": "yuv444p"}, {"pixels": "yuv420p10le"}, {"size": (50, 70)}, {"pixels": "rgb24", "codec": "libx264rgb"},
], ids=str)  # fmt: skip
def test_colours_stay(tmp_path, source):
    path = write_video(tmp_path / "a.mp4", options={"crf": "1"}, **source)
    _, target = encoded(path, dataclasses.replace(SMALL, crf=4))
    with VideoReader(path) as first, VideoReader(target) as second:
        wanted = first.read([0], size=(second.info.height, second.info.width)).double().numpy()
        found = second.read([0]).double().numpy()
    assert np.abs((found - wanted).mean((0, 1, 2))).max() < 2
    for channel in range(3):  # a range or matrix taken for another shows as a slope of 1.15 or 0.87
        assert np.polyfit(wanted[..., channel].ravel(), found[..., channel].ravel(), 1)[0] == pytest.approx(1, abs=0.06)


def test_a_small_video_keeps_its_size(tmp_path):
    record, _ = encoded(write_video(tmp_path / "a.mp4"), dataclasses.replace(SMALL, short_side=256))
    assert (record.height, record.width) == (48, 64)


@pytest.mark.parametrize(("size", "short_side", "expected"), [
    ((256, 340), 256, (256, 340)), ((240, 427), 256, (240, 428)), ((1080, 1920), 256, (256, 456)),
    ((1920, 1080), 320, (568, 320)), ((49, 65), 320, (48, 64)), ((4, 4000), 256, (4, 4000)),
])  # fmt: skip
def test_output_size(size, short_side, expected):
    assert output_size(*size, short_side) == expected


def test_a_file_that_fails_its_check_is_not_kept(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr(reencode, "LEAST_PSNR", 99.0)
    with pytest.raises(VideoDecodeError, match=r"failed its check: frame 11 differs from its source: PSNR \d\d"):
        encoded(path)
    assert os.listdir(tmp_path / "out" / "deep") == []


def test_lost_frames_and_shifted_times_are_noticed(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    ticks = reencode.ticks
    calls = []

    def shifted(reader, index):
        stamps, tick = ticks(reader, index)
        calls.append(reader)
        return ([*stamps[:-1], stamps[-1] + 1000] if len(calls) == 1 else stamps), tick

    monkeypatch.setattr(reencode, "ticks", shifted)
    monkeypatch.setattr(reencode, "_encode", lambda *a: (_copy(path, a[-1]), {})[1])
    with pytest.raises(VideoDecodeError, match=r"failed its check: frame 11 is shown 1\.1 s after the first, not"):
        encoded(path)
    monkeypatch.setattr(reencode, "ticks", ticks)
    short = write_video(tmp_path / "short.mp4", frames=11)
    monkeypatch.setattr(reencode, "_encode", lambda *a: (_copy(short, a[-1]), {})[1])
    with pytest.raises(VideoDecodeError, match="failed its check: it has 11 frames, not 12"):
        encoded(path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def test_a_source_that_does_not_decode_leaves_nothing(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    record = scanned(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(VideoDecodeError):
        encode_file(EncodeTask(VideoLocation.of(path), record, str(tmp_path / "out" / "a.mp4"), SMALL, 10**6))
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(("options", "message"), [
    ({"short_side": 8}, "short_side=8: at least 16 pixels"),
    ({"gop": 0}, "gop=0: at least 1 frame"),
    ({"crf": 52}, "crf=52: x264's range is 0"),
    ({"preset": "placebo"}, "preset='placebo': must be one of ultrafast"),
])  # fmt: skip
def test_impossible_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Encoding(**options)


def test_frames_to_compare_and_how():
    assert compared_frames(1) == [0]
    assert compared_frames(2) == [0, 1]
    assert compared_frames(100) == [0, 33, 66, 99]
    black = np.zeros((2, 2, 3), np.uint8)
    assert psnr(black, black) == float("inf")
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black, black + np.uint8(16)) == pytest.approx(24.05, abs=0.01)
