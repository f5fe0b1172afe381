"""The backends decord and torchcodec: our side of them with stand-ins, and they themselves where they are installed."""

import dataclasses
import io
import sys
import types
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
import torch

from mvit_video.video.backends.torchcodec_decoder import _video_decoder
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import Backend, VideoDecodeError, VideoInfo, VideoReader, read_frames
from tests.video_library import Library

OTHERS: list[Backend] = ["decord", "torchcodec"]


def installed(backend: Backend) -> None:
    """Skip where a backend cannot be loaded."""
    try:
        if backend == "decord":
            __import__("decord")
        else:
            _video_decoder()
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"{backend} cannot be loaded: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("backend", OTHERS)
class TestReal:
    @pytest.fixture(autouse=True)
    def _installed(self, backend: Backend) -> None:
        installed(backend)

    def test_same_frames_where_it_is_exact(self, library: Library, backend: Backend) -> None:
        clip = read_frames(library.path("gop12.mp4"), [50, 3, 3, 28], backend=backend)
        assert np.array_equal(clip.numpy(), library.truth("gop12.mp4")[[50, 3, 3, 28]])

    def test_info(self, library: Library, backend: Backend) -> None:
        with VideoReader(library.path("rotated.mp4"), backend=backend) as video:
            assert video.info == VideoInfo(60, 25.0, 96, 64, "h264", 2.4)
            assert video.damage == ""

    def test_crop_size_and_clips(self, library: Library, backend: Backend) -> None:
        path = library.path("gop12.mp4")
        with VideoReader(path, backend=backend) as video, VideoReader(path) as ours:
            assert torch.equal(video.read([9], crop=(3, 5, 20, 31)), ours.read([9], crop=(3, 5, 20, 31)))
            scaled = video.read([9], crop=(2, 4, 40, 60), size=(30, 40)).float()
            assert (scaled - ours.read([9], crop=(2, 4, 40, 60), size=(30, 40)).float()).abs().mean() < 4
            clips = video.read_clips([[1, 2], [2, 3]])
            assert torch.equal(clips[1], ours.read([2, 3]))
            gap = video.read_yuv([9]).rgb().int() - ours.read([9]).int()
            assert gap.abs().float().mean() < 2

    def test_stretch_and_url(self, library: Library, tmp_path: Path, backend: Backend) -> None:
        data = library.path("gop12.mp4").read_bytes()
        (tmp_path / "shard.tar").write_bytes(b"head" + data + b"tail")
        fsspec.filesystem("memory").pipe_file("/one.mp4", data)
        for location in (VideoLocation("m", str(tmp_path / "shard.tar"), 4, len(data)), "memory://one.mp4"):
            clip = read_frames(location, [41], backend=backend)
            assert np.array_equal(clip.numpy(), library.truth("gop12.mp4")[[41]])

    def test_errors(self, library: Library, tmp_path: Path, backend: Backend) -> None:
        (tmp_path / "text.mp4").write_bytes(b"no video\n" * 100)
        with pytest.raises(VideoDecodeError, match=r"text\.mp4: cannot be opened"):
            read_frames(tmp_path / "text.mp4", [0], backend=backend)
        with pytest.raises(VideoDecodeError, match="asked for frame 60 of 60"):
            read_frames(library.path("gop12.mp4"), [60], backend=backend)
        with pytest.raises(VideoDecodeError, match="exceed max_pixels=6000"):
            VideoReader(library.path("gop12.mp4"), backend=backend, max_pixels=6000)

    def test_damaged_in_the_middle(self, library: Library, tmp_path: Path, backend: Backend) -> None:
        data = bytearray(library.path("faststart.mp4").read_bytes())
        data[len(data) // 3 :] = bytes(len(data) - len(data) // 3)
        (tmp_path / "video.mp4").write_bytes(data)
        with pytest.raises(VideoDecodeError, match=rf"video\.mp4: {backend} cannot (read|decode) it: "):
            read_frames(tmp_path / "video.mp4", range(60), backend=backend)


class FakeTorchCodec:
    """What we use of torchcodec.decoders.VideoDecoder: frame n is a picture of brightness n."""

    made: ClassVar[list[dict[str, object]]] = []
    count: int | None = 60
    fps: float | None = 25.0

    def __init__(self, source: object, **options: object) -> None:
        self.made.append({"source": source, **options})
        self.metadata = types.SimpleNamespace(num_frames=self.count, average_fps=self.fps)

    def get_frames_at(self, *, indices: list[int]) -> types.SimpleNamespace:
        if max(indices) > 50:
            raise IndexError("no such frame\nstack")
        return types.SimpleNamespace(data=torch.stack([torch.full((64, 96, 3), n, dtype=torch.uint8) for n in indices]))


@pytest.fixture
def torchcodec(monkeypatch: pytest.MonkeyPatch) -> type[FakeTorchCodec]:
    module = types.ModuleType("torchcodec.decoders")
    module.VideoDecoder = FakeTorchCodec  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    monkeypatch.setattr(FakeTorchCodec, "made", [])
    return FakeTorchCodec


class TestTorchCodecAdapter:
    def test_reading(self, library: Library, torchcodec: type[FakeTorchCodec]) -> None:
        with VideoReader(library.path("gop12.mp4"), backend="torchcodec") as video:
            assert video.info == VideoInfo(60, 25.0, 64, 96, "h264", 2.4)
            assert video.read([7, 2, 7])[:, 5, 6, 1].tolist() == [7, 2, 7]
        (made,) = torchcodec.made
        assert made == {
            "source": str(library.path("gop12.mp4")),
            "dimension_order": "NHWC",
            "num_ffmpeg_threads": 1,
            "seek_mode": "exact",
        }

    def test_stretch_comes_as_bytes(self, library: Library, tmp_path: Path, torchcodec: type[FakeTorchCodec]) -> None:
        data = library.path("gop12.mp4").read_bytes()
        (tmp_path / "shard.tar").write_bytes(b"head" + data + b"tail")
        read_frames(VideoLocation("m", str(tmp_path / "shard.tar"), 4, len(data)), [1], backend="torchcodec")
        assert torchcodec.made[0]["source"] == data

    def test_failures(
        self, library: Library, torchcodec: type[FakeTorchCodec], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = library.path("gop12.mp4")
        with pytest.raises(VideoDecodeError, match=r"gop12\.mp4: torchcodec cannot decode it: no such frame$"):
            read_frames(path, [55], backend="torchcodec")
        monkeypatch.setattr(torchcodec, "count", None)
        with pytest.raises(VideoDecodeError, match=r"torchcodec cannot read it: 0 frames at 25\.0 frames"):
            VideoReader(path, backend="torchcodec")

    def test_missing_rate_is_taken_from_the_header(
        self, library: Library, torchcodec: type[FakeTorchCodec], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torchcodec, "fps", None)
        with VideoReader(library.path("gop12.mp4"), backend="torchcodec") as video:
            assert video.info.fps == 25.0

    def test_not_installed(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchcodec", None)
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
        with pytest.raises(
            RuntimeError, match=r"torchcodec cannot be loaded \(.*\); pip install 'mvit_video\[torchcodec"
        ):
            VideoReader(library.path("gop12.mp4"), backend="torchcodec")

    @pytest.mark.usefixtures("torchcodec")
    def test_without_ffmpeg_no_file_is_blamed(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        """Release 0.17 can be imported without its libraries, for its decoders of images."""
        monkeypatch.setattr(sys.modules["torchcodec"], "ffmpeg_major_version", None, raising=False)
        with pytest.raises(
            RuntimeError, match=r"^backend='torchcodec': torchcodec cannot be loaded .* FFmpeg's shared"
        ):
            VideoReader(library.path("gop12.mp4"), backend="torchcodec")
        monkeypatch.setattr(sys.modules["torchcodec"], "ffmpeg_major_version", 8)
        VideoReader(library.path("gop12.mp4"), backend="torchcodec").close()


class FakeDecord(types.ModuleType):
    """What we use of decord."""

    class DECORDError(Exception):
        pass

    def __init__(self, frames: int = 60, fps: float = 25.0) -> None:
        super().__init__("decord")
        self.sources: list[object] = []
        self.levels: list[int] = []
        self.logging = types.SimpleNamespace(QUIET=-8, set_level=self.levels.append)
        outer = self

        class Reader:
            def __init__(self, source: object, *, ctx: str, num_threads: int) -> None:
                assert (ctx, num_threads) == ("cpu 0", 1)
                outer.sources.append(source)

            def __len__(self) -> int:
                return frames

            def __getitem__(self, frame: int) -> object:
                return np.zeros((64, 96, 3), np.uint8)

            def get_avg_fps(self) -> float:
                return fps

            def get_batch(self, numbers: list[int]) -> types.SimpleNamespace:
                if max(numbers) > 50:
                    raise FakeDecord.DECORDError("cannot find frame\nstack")
                batch = np.stack([np.full((64, 96, 3), n, np.uint8) for n in numbers])
                return types.SimpleNamespace(asnumpy=lambda: batch)

        self.VideoReader = Reader

    @staticmethod
    def cpu(number: int) -> str:
        return f"cpu {number}"


class TestDecordAdapter:
    def test_reading(self, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decord = FakeDecord()
        monkeypatch.setitem(sys.modules, "decord", decord)
        with VideoReader(library.path("gop12.mp4"), backend="decord") as video:
            assert video.info == VideoInfo(60, 25.0, 64, 96, "h264", 2.4)
            assert video.read([7, 2, 7])[:, 5, 6, 1].tolist() == [7, 2, 7]
            with pytest.raises(VideoDecodeError, match=r"decord cannot decode it: cannot find frame$"):
                video.read([55])
        assert decord.sources == [str(library.path("gop12.mp4"))]
        assert decord.levels == [-8]

    def test_stretch_comes_as_bytes(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        decord = FakeDecord()
        monkeypatch.setitem(sys.modules, "decord", decord)
        path = library.path("gop12.mp4")
        location = VideoLocation("m", str(path), size=path.stat().st_size)
        VideoReader(dataclasses.replace(location, url=path.as_uri()), backend="decord").close()
        (source,) = decord.sources
        assert isinstance(source, io.BytesIO) and source.read() == path.read_bytes()

    @pytest.mark.parametrize(("frames", "fps"), [(0, 25.0), (9, 0.0)])
    def test_no_frames(self, library: Library, monkeypatch: pytest.MonkeyPatch, frames: int, fps: float) -> None:
        monkeypatch.setitem(sys.modules, "decord", FakeDecord(frames, fps))
        with pytest.raises(VideoDecodeError, match=rf"decord cannot read it: {frames} frames at {fps} frames per"):
            VideoReader(library.path("gop12.mp4"), backend="decord")

    def test_not_installed(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "decord", None)
        with pytest.raises(RuntimeError, match="decord is not installed; pip install decord"):
            VideoReader(library.path("gop12.mp4"), backend="decord")
