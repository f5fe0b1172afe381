"""Crops, sizes and several clips of VideoReader.read."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from mvit_video.video import pictures
from mvit_video.video.container import VideoFile
from mvit_video.video.index import Orientation
from mvit_video.video.pictures import Box, RgbCanvas
from mvit_video.video.reader import VideoDecodeError, VideoReader, read_frames
from tests.video_library import CLIPS, HEIGHT, WIDTH, Library, Recipe, decode_all, write_video, x264

CROPS = [(0, 0, 64, 96), (2, 4, 32, 48), (3, 5, 33, 47), (63, 95, 1, 1), (1, 0, 63, 96), (17, 31, 2, 1), (0, 1, 64, 95)]
NAMES = ["gop12.mp4", "mjpeg.avi", "ten_bit.mp4", "full_chroma.mp4", "rotated.mp4", "upside_down.mp4", "mirrored.mp4"]


def turned(crop: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, left, height, width = crop
    return left, top, width, height


class TestCrop:
    @pytest.mark.parametrize("name", NAMES)
    def test_equals_the_cut_of_the_whole(self, library: Library, name: str) -> None:
        with VideoReader(library.path(name)) as video:
            whole = video.read([30, 7])
            for crop in CROPS:
                top, left, height, width = crop if video.info.height == HEIGHT else turned(crop)
                part = video.read([30, 7], crop=(top, left, height, width))
                assert torch.equal(part, whole[:, top : top + height, left : left + width]), crop

    @pytest.mark.parametrize("size", [(50, 70), (51, 70), (50, 71), (51, 71)])
    def test_pictures_of_odd_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
        path = odd_sized(tmp_path, size)
        rng = np.random.default_rng(1)
        with VideoReader(path) as video:
            assert (video.info.height, video.info.width) == size
            whole = video.read([5])
            for _ in range(20):
                top, left = int(rng.integers(0, size[0])), int(rng.integers(0, size[1]))
                height, width = int(rng.integers(1, size[0] - top + 1)), int(rng.integers(1, size[1] - left + 1))
                part = video.read([5], crop=(top, left, height, width))
                assert torch.equal(part, whole[:, top : top + height, left : left + width])

    def test_only_the_part_is_converted(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = []
        reformat = pictures.reformat
        monkeypatch.setattr(
            pictures, "reformat", lambda f, **k: (sizes.append((f.height, f.width)), reformat(f, **k))[1]
        )
        read_frames(library.path("gop12.mp4"), [3], crop=(3, 5, 9, 20))
        read_frames(library.path("gop12.mp4"), [3], crop=(3, 5, 9, 20), size=(7, 7))
        # Rows 2 to 11 and columns 4 to 25; the part itself, scaled and then converted.
        assert sizes == [(10, 22), (9, 20), (7, 7)]

    @pytest.mark.parametrize("crop", [(-1, 0, 5, 5), (0, 0, 65, 5), (0, 90, 5, 7), (0, 0, 0, 5)])
    def test_outside_the_picture(self, library: Library, crop: tuple[int, int, int, int]) -> None:
        with pytest.raises(
            ValueError, match=r"crop=\(.*\) \(top, left, height, width\) is not inside the picture, 64x96"
        ):
            read_frames(library.path("gop12.mp4"), [0], crop=crop)


def odd_sized(folder: Path, size: tuple[int, int]) -> Path:
    """A moving texture in 4:2:0 pictures of any size."""
    path = folder / "odd.mp4"
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(8):
            wave = np.sin((columns + 2 * number) / 5)
            picture = np.stack([128 + 90 * wave, 128 + 80 * np.cos(rows / 7 + wave), 128 - 90 * wave], -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24")))
        container.mux(stream.encode())
    return path


class TestSize:
    @pytest.mark.parametrize("name", NAMES)
    def test_near_a_resize_of_the_whole(self, library: Library, name: str) -> None:
        with VideoReader(library.path(name)) as video:
            height, width = video.info.height, video.info.width
            for size in [(height, width), (height * 3 // 4, width * 3 // 4), (height * 3 // 2, width * 2), (48, 49)]:
                scaled = video.read([30, 7], size=size)
                assert scaled.shape == (2, *size, 3)
                assert difference(scaled, resized(video.read([30, 7]), size)) < 5  # sharp bars: not a natural picture

    @pytest.mark.parametrize("crop", [None, (10, 20, 200, 220), (11, 21, 201, 219)])
    @pytest.mark.parametrize("size", [(112, 112), (160, 160), (224, 224), (256, 320)])
    def test_natural_pictures(self, crop: tuple[int, int, int, int] | None, size: tuple[int, int]) -> None:
        path = CLIPS / "k400_arm_wrestling_demo.mp4"
        if not path.exists():
            pytest.skip("the real clips are not here")
        with VideoReader(path) as video:
            whole = video.read([10, 200], crop=crop)
            assert difference(video.read([10, 200], crop=crop, size=size), resized(whole, size)) < 2

    def test_colours_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "flat.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.colorspace, stream.codec_context.color_range = 1, 2  # BT.709, full range
            flat = np.full((48, 64, 3), (200, 60, 30), np.uint8)
            frame = av.VideoFrame.from_ndarray(flat, "rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="JPEG"
            )
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        for options in ({}, {"crop": (3, 3, 20, 21)}, {"crop": (2, 2, 20, 20), "size": (9, 11)}, {"size": (30, 31)}):
            clip = read_frames(path, [0], **options).float()
            assert (clip - torch.tensor([200.0, 60.0, 30.0])).abs().max() < 4, options

    def test_empty(self, library: Library) -> None:
        with pytest.raises(ValueError, match=r"size=\(0, 5\): height and width must be positive"):
            read_frames(library.path("gop12.mp4"), [0], size=(0, 5))


def resized(clip: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    moved = clip.permute(0, 3, 1, 2).float()
    return interpolate(moved, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().mean())


class TestStreamThatChangesItsSize:
    def test_pictures_are_scaled_to_the_first_one(self, tmp_path: Path) -> None:
        """Two H.264 streams of different size, one behind the other."""
        for number, size in enumerate([(64, 96), (48, 64)]):
            with av.open(str(tmp_path / f"{number}.h264"), "w") as container:
                stream = container.add_stream("libx264", rate=25, options=x264("keyint=4:bframes=0"))
                stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
                for level in range(4):
                    picture = np.full((*size, 3), 40 + 50 * level, np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
                container.mux(stream.encode())
        path = tmp_path / "both.h264"
        path.write_bytes(b"".join((tmp_path / f"{number}.h264").read_bytes() for number in range(2)))
        with VideoReader(path) as video:
            assert (video.info.num_frames, video.info.height, video.info.width) == (8, 64, 96)
            whole = video.read(range(8))
            assert whole.float().mean((1, 2, 3)).round().tolist() == pytest.approx([40, 90, 140, 190] * 2, abs=3)
            assert torch.equal(video.read([6], crop=(3, 5, 20, 30)), whole[6:7, 3:23, 5:35])
            assert video.read([6], crop=(3, 5, 20, 30), size=(9, 9)).float().mean() == pytest.approx(140, abs=3)
            assert difference(video.read_yuv([1, 6]).rgb(), whole[[1, 6]]) < 1


class TestClips:
    def test_same_as_one_by_one(self, library: Library) -> None:
        truth = library.truth("open.mp4")
        wanted = [[3, 9, 15], [9, 10], [59, 3, 3]]
        with VideoReader(library.path("open.mp4")) as video:
            clips = video.read_clips(wanted)
            parts = video.read_clips(wanted, crop=(2, 2, 8, 8))
        assert [np.array_equal(c.numpy(), truth[w]) for c, w in zip(clips, wanted)] == [True] * 3
        assert [np.array_equal(c.numpy(), truth[w][:, 2:10, 2:10]) for c, w in zip(parts, wanted)] == [True] * 3

    def test_a_frame_is_decoded_once(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        fed: list[int] = []
        feed = VideoFile.feed
        with VideoReader(library.path("no_b.mp4")) as video:
            monkeypatch.setattr(VideoFile, "feed", lambda self, p: (fed.append(p.pts), feed(self, p))[1])
            video.read_clips([range(0, 16, 2), range(1, 17, 2)])
        assert fed == list(range(16))

    def test_no_clips(self, library: Library) -> None:
        with VideoReader(library.path("gop12.mp4")) as video:
            with pytest.raises(ValueError, match=r"clips of \[\] frames: give at least one clip"):
                video.read_clips([])
            with pytest.raises(ValueError, match=r"clips of \[2, 0\] frames"):
                video.read_clips([[1, 2], []])


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
def test_box_before_orientation(transpose: bool, flip_rows: bool, flip_columns: bool) -> None:
    orientation = Orientation(transpose, flip_rows, flip_columns)
    coded = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9, 1)
    presented = orientation.apply(coded)
    height, width = presented.shape[:2]
    box = Box.of((1, 2, 3, 4), height=height, width=width)
    before = box.before(orientation, height=height, width=width)
    assert np.array_equal(orientation.apply(before.cut(coded)), box.cut(presented))


def test_picture_without_conversion_is_refused(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not left as it happens to lie in memory, even though the picture came out of a later packet."""

    def draw(self: RgbCanvas, frame: av.VideoFrame, row: int) -> None:
        raise av.error.InvalidDataError(1, "no conversion")

    monkeypatch.setattr(RgbCanvas, "draw", draw)
    for name, reason in (("gop12.mp4", "the data it needs is damaged"), ("raw.h264", "no conversion")):
        with pytest.raises(VideoDecodeError, match=rf"frame 3 cannot be (de|con)\w+: {reason}"):
            read_frames(library.path(name), [3])


def test_reserved_colour_space_is_taken_for_none(tmp_path: Path) -> None:
    """FFmpeg refuses to convert pictures whose header names a colour space it does not know."""
    path = tmp_path / "space.mp4"
    write_video(path, Recipe("space.mp4", options=x264("keyint=12:colormatrix=YCgCo")), range(4))
    with pytest.raises(av.error.FFmpegError):
        decode_all(path)
    clip = read_frames(path, range(4))
    assert clip.shape == (4, HEIGHT, WIDTH, 3) and 60 < clip.float().mean() < 200
