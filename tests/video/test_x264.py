"""The same bytes from x264 for the same pictures."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from mvit_video.data.embedded import motion
from mvit_video.preparation.reencode import Encoding
from mvit_video.video import x264

AVX2 = {"threads": "1", "x264-params": "asm=avx2"}


@pytest.mark.parametrize(("flags", "options"), [("sse2 avx2 avx512f", AVX2), ("sse2 avx2", {"threads": "1"})])
def test_avx512_is_left_out_where_there_is_some(
    flags: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: avx512f\nflags\t\t: fpu {flags} rdrand\n")
    monkeypatch.setattr(x264, "Path", lambda _: cpuinfo)
    assert x264.reproducible.__wrapped__() == options


def test_unknown_processors_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x264, "Path", lambda _: tmp_path / "nothing")
    assert x264.reproducible.__wrapped__() == {"threads": "1"}


def encoded() -> bytes:
    """Four pictures of noise as the embedded data set would write them."""
    pictures = motion.to_yuv(np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8))
    return motion.encode_h264(pictures, fps=8, crf=20)


def test_what_must_be_the_same_is_encoded_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The options arrive: here one that makes every picture a key frame."""
    monkeypatch.setattr(x264, "reproducible", lambda: {"threads": "1", "x264-params": "keyint=1"})
    assert Encoding().options()["x264-params"] == "keyint=1"
    with av.open(io.BytesIO(encoded())) as file:
        assert [packet.is_keyframe for packet in file.demux(video=0) if packet.size] == [True] * 4


@pytest.mark.skipif("avx512f" in Path("/proc/cpuinfo").read_text(), reason="x264's AVX-512 is what may differ")
@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="x264's AVX2 would not run")
def test_the_bytes_are_those_of_machines_without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x264, "reproducible", lambda: AVX2)
    restricted = encoded()
    monkeypatch.setattr(x264, "reproducible", lambda: {"threads": "1"})
    assert encoded() == restricted
