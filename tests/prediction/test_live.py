"""Windows of streams are those of a file of the same frames, and what is held does not grow."""

import os
import stat
from pathlib import Path

import pytest

from mvit_video.data.datasets.segments import SlidingWindows
from mvit_video.prediction.live_source import is_live, live_source
from mvit_video.prediction.live_windows import LiveWindow, WindowCutter


def cut(seconds: list[float], windows: SlidingWindows, *, rate: float | None = 25) -> tuple[list[LiveWindow], int, int]:
    cutter, found, most = WindowCutter(windows, rate=rate), [], 0
    for number, second in enumerate(seconds):
        found += cutter.add(second, number)
        most = max(most, cutter.held)
    return [*found, *cutter.finish(seconds[-1] + 0.04)], most, cutter.empty


@pytest.mark.parametrize("length", [1.0, 0.73, 2.0])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("frames", [1, 12, 25, 50, 333])
def test_windows_are_those_of_a_file(length: float, overlap: float, frames: int) -> None:
    windows = SlidingWindows(length_s=length, stride_s=length * (1 - overlap))
    found, most, empty = cut([number / 25 for number in range(frames)], windows)
    expected = windows.of(frames / 25)
    assert [tuple(window.segment) for window in found] == [pytest.approx(tuple(segment)) for segment in expected]
    for window in found:
        inside = [n for n in range(frames) if window.segment.start - 1e-6 <= n / 25 < window.segment.end - 1e-6]
        assert list(window.frames) == inside and window.fps == 25
    assert most <= 2 * length * 25 + 2 and empty == 0


def test_a_pause_leaves_out_what_is_empty_and_the_true_rate_is_taken() -> None:
    windows = SlidingWindows(length_s=1, stride_s=0.5)
    seconds = [number / 10 for number in range(20)] + [3600 + number / 10 for number in range(20)]
    found, most, empty = cut(seconds, windows, rate=30)
    assert all(window.fps == pytest.approx(10) for window in found if len(window.frames) > 1)
    assert empty > 7000 and most < 25 and len(found) < 15
    assert all(window.frames for window in found) and found[-1].segment.end == pytest.approx(seconds[-1] + 0.04)


def test_which_sources_are_live(tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "a.mp4"
    os.mkfifo(pipe)
    file.touch()
    for source in ("/dev/video0", "-", "rtsp://host/a", "udp://host:1", "https://host/live.m3u8", str(pipe)):
        assert is_live(source), source
    assert not any(map(is_live, ("https://host/a.mp4", "s3://bucket/a.mp4", str(file), "absent.mp4")))
    assert stat.S_ISFIFO(os.stat(pipe).st_mode) and live_source(str(pipe)).pipe
    secret = live_source("rtsp://me:secret@host:554/front?token=1")
    assert secret.name == "rtsp://host:554/front" and secret.sends_on and "secret" in secret.target
    assert not live_source("http://host/a.ts").sends_on


def test_streams_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"/dev/video98: there is no such camera; (this machine shows no|the cameras)"):
        live_source("/dev/video98")
    with pytest.raises(ValueError, match=r"absent: there is no such file or pipe; `mkfifo .*absent` makes a pipe"):
        live_source(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"s3://b/a: s3:// is no protocol of streams; those are http"):
        live_source("s3://b/a")
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/a.ts: cannot be opened: .*; is the sender on"):
        live_source("http://127.0.0.1:9/a.ts").open()
    (tmp_path / "text").write_text("no stream")
    with pytest.raises(ValueError, match=r"text: cannot be opened: .*"):
        live_source(str(tmp_path / "text")).open()
