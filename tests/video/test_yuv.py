"""YUV clips: what is in them, and their conversion to RGB against FFmpeg's."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mvit_video.video.index import Orientation
from mvit_video.video.pictures import YuvCanvas, plane_rows
from mvit_video.video.reader import VideoReader, YuvFrames, read_frames
from tests.video_library import CLIPS, Library

SPACES = {0: "bt601", 1: "bt709", 2: "bt601", 4: "fcc", 5: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
NAMES = [
    "gop12.mp4",
    "mjpeg.avi",
    "ten_bit.mp4",
    "full_chroma.mp4",
    "rotated.mp4",
    "mirrored.mp4",
    "open.mp4",
    "asp.avi",
]


def natural(height: int, width: int) -> av.VideoFrame:
    """A 4:2:0 picture of smooth waves that uses the whole range of brightness."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for number, plane in enumerate(frame.planes):
        rows, columns = np.mgrid[0 : plane.height, 0 : plane.width]
        reach = 30 if number else 60
        plane_rows(plane)[...] = 128 + reach * np.sin(columns / 5 + number) + reach * np.cos(rows / 7)
    return frame


def drawn(frame: av.VideoFrame) -> YuvFrames:
    canvas = YuvCanvas(1, coded=(frame.height, frame.width), orientation=Orientation())
    canvas.draw(frame, 0)
    return canvas.frames()


class TestRgb:
    @pytest.mark.parametrize("size", [(64, 96), (64, 97), (65, 96), (65, 97), (2, 2)])
    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("space", SPACES)
    def test_near_the_conversion_of_ffmpeg(self, size: tuple[int, int], full: bool, space: int) -> None:
        frame = natural(*size)
        frame.colorspace, frame.color_range = space if space != 10 else 9, 2 if full else 1
        expected = frame.to_ndarray(format="rgb24").astype(int)
        frame.colorspace = space
        frames = drawn(frame)
        assert (frames.matrix, frames.full_range) == (SPACES[space], full)
        gap = np.abs(frames.rgb()[0].numpy() - expected)
        assert gap.max() <= (3 if size[0] % 2 else 1)
        assert gap.mean() < 0.1

    @pytest.mark.parametrize("name", NAMES)
    def test_same_frames_as_read(self, library: Library, name: str) -> None:
        with VideoReader(library.path(name)) as video:
            indices = [31, 4, 4, 50]
            frames = video.read_yuv(indices)
            gap = (frames.rgb().int() - video.read(indices).int()).abs()
            height, width = video.info.height, video.info.width
        assert frames.y.shape == (4, height, width) and frames.uv.shape == (4, 2, height // 2, width // 2)
        assert frames.y.dtype == frames.uv.dtype == torch.uint8
        assert torch.equal(frames.y[1], frames.y[2]) and torch.equal(frames.uv[1], frames.uv[2])
        if name in ("full_chroma.mp4", "ten_bit.mp4"):  # FFmpeg converts them without the step through this layout
            assert gap.float().mean() < 2.5
        else:
            assert gap.max() <= 2 and gap.float().mean() < 0.5

    def test_real_clip(self) -> None:
        path = CLIPS / "basketball_test_video_structuralize.mp4"
        if not path.exists():
            pytest.skip("the real clips are not here")
        with VideoReader(path) as video:
            frames = video.read_yuv(range(0, 300, 30))
            gap = (frames.rgb().int() - video.read(range(0, 300, 30)).int()).abs()
        assert gap.max() <= 1 and gap.float().mean() < 0.01

    def test_full_range_is_seen(self, library: Library) -> None:
        assert read_frames(library.path("mjpeg.avi"), [0], layout="yuv420").full_range
        assert not read_frames(library.path("gop12.mp4"), [0], layout="yuv420").full_range


class TestFrames:
    def test_planes_are_the_decoder_s(self, library: Library) -> None:
        frames = read_frames(library.path("gop12.mp4"), [20], layout="yuv420")
        with av.open(str(library.path("gop12.mp4"))) as container:
            picture = list(container.decode(video=0))[20]
        planes = picture.to_ndarray()
        assert np.array_equal(frames.y[0].numpy(), planes[:64])
        assert np.array_equal(frames.uv[0].numpy().reshape(32, 96), planes[64:])

    def test_to(self) -> None:
        frames = drawn(natural(4, 6))
        moved = frames.to("meta")
        assert moved.y.device.type == moved.uv.device.type == "meta"
        assert (moved.matrix, moved.full_range, len(moved)) == (frames.matrix, frames.full_range, 1)

    def test_colours_of_the_first_picture_hold_for_all(self) -> None:
        first, second = natural(32, 48), natural(32, 48)
        first.colorspace, first.color_range = 1, 2
        second.colorspace, second.color_range = 6, 1
        canvas = YuvCanvas(2, coded=(32, 48), orientation=Orientation())
        canvas.draw(first, 1)
        canvas.draw(second, 0)
        frames = canvas.frames()
        assert (frames.matrix, frames.full_range) == ("bt709", True)
        gap = np.abs(frames.rgb()[0].numpy().astype(int) - second.to_ndarray(format="rgb24"))
        assert gap.mean() < 3  # twice through 8 bits of half the colour

    @pytest.mark.parametrize("orientation", [Orientation(flip_rows=True), Orientation(transpose=True)])
    def test_odd_size_turned(self, orientation: Orientation) -> None:
        canvas = YuvCanvas(1, coded=(31, 48), orientation=orientation)
        canvas.draw(natural(31, 48), 0)
        frames = canvas.frames()
        height, width = (48, 31) if orientation.transpose else (31, 48)
        assert frames.y.shape == (1, height, width)
        assert frames.uv.shape == (1, 2, (height + 1) // 2, (width + 1) // 2)

    def test_other_pixel_formats(self, tmp_path: Path) -> None:
        """RGB and grey come as YUV of BT.601."""
        for format_ in ("rgb24", "gray", "gbrp", "bgra"):
            flat = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 77, np.uint8), "rgb24")
            frame = flat if format_ == "rgb24" else flat.reformat(format=format_)
            frames = drawn(frame)
            assert frames.matrix == "bt601"
            gap = frames.rgb().int() - torch.from_numpy(frame.to_rgb().to_ndarray().astype(np.int32))
            assert gap.abs().max() <= 3, format_

    def test_arguments(self, library: Library) -> None:
        with pytest.raises(ValueError, match="layout='nv12': must be 'rgb' or 'yuv420'"):
            read_frames(library.path("gop12.mp4"), [0], layout="nv12")  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="crop and size work with layout='rgb'"):
            read_frames(library.path("gop12.mp4"), [0], layout="yuv420", size=(4, 4))  # type: ignore[call-overload]
