"""Exactness and failures of the decoder, on files that carry their frame numbers in the picture."""

import os
import pickle
import shutil
import struct
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from mvit_video.data import pyav_source
from mvit_video.data.decode import VideoDecodeError, VideoInfo, VideoReader, probe, read_frames
from mvit_video.data.video_file import VideoFile
from mvit_video.data.video_index import (
    Orientation,
    PacketKind,
    PacketTable,
    orientation_from_matrix,
    plan,
    presentation_ranks,
)

Picture = npt.NDArray[np.uint8]
HEIGHT, WIDTH, FRAMES = 64, 96, 60
CLIPS = Path(__file__).resolve().parents[2] / ".." / "shared" / "clips"


def barcode(number: int) -> Picture:
    """A picture with `number` as eight black or white bars above a moving texture."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    wave_ = np.sin((columns + 2 * number) / 5) + np.cos((rows - number) / 7)
    picture = np.stack([128 + 50 * wave_, 128 + 40 * np.roll(wave_, 9, 1), 128 - 50 * wave_], -1).astype(np.uint8)
    for bit in range(8):
        picture[:32, 12 * bit : 12 * bit + 12] = 255 * (number >> bit & 1)
    return picture


def number_in(picture: Picture) -> int:
    """The number that `barcode` drew."""
    return sum(int(picture[8:24, 12 * bit + 3 : 12 * bit + 9].mean() > 128) << bit for bit in range(8))


@dataclass(frozen=True)
class Recipe:
    """How a test file is made."""

    name: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    mux: dict[str, str] = field(default_factory=dict)
    ticks: Callable[[int], int] = lambda number: number  # presentation time of a frame in 1/25 s
    rotation: float = 0.0
    hflip: bool = False
    cover: bool = False


def x264(params: str) -> dict[str, str]:
    return {"preset": "veryfast", "crf": "28", "x264-params": params}


CLOSED = x264("keyint=250:bframes=3:b-adapt=0:scenecut=0")
GOP12 = x264("keyint=12:min-keyint=12:bframes=2:b-adapt=0:scenecut=0")
OPEN = x264("keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:open-gop=1")
X265 = "keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:log-level=none:pools=none:frame-threads=1"
RECIPES = [
    Recipe("closed.mp4", options=CLOSED),
    Recipe("gop12.mp4", options=GOP12),
    Recipe("open.mp4", options=OPEN),
    Recipe("no_b.mp4", options=x264("keyint=20:bframes=0:ref=1")),
    Recipe("pyramid.mp4", options=x264("keyint=30:bframes=7:b-pyramid=normal:b-adapt=0:scenecut=0")),
    Recipe("hevc.mp4", "libx265", {"preset": "ultrafast", "x265-params": X265 + ":open-gop=0"}),
    Recipe("hevc_open.mp4", "libx265", {"preset": "ultrafast", "x265-params": X265 + ":open-gop=1:b-pyramid=1"}),
    Recipe("hevc_layers.mp4", "libx265", {"preset": "ultrafast", "x265-params": X265 + ":temporal-layers=3"}),
    Recipe("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "15", "auto-alt-ref": "1"}),
    Recipe("vp8.webm", "libvpx", {"deadline": "good", "cpu-used": "5", "g": "20", "auto-alt-ref": "1"}),
    Recipe("av1.mp4", "libsvtav1", {"preset": "12", "crf": "40", "g": "15", "svtav1-params": "lp=1"}),
    Recipe("asp.avi", "mpeg4", {"bf": "2", "g": "15", "qscale": "4"}),
    Recipe("asp.mp4", "mpeg4", {"bf": "2", "g": "15", "qscale": "4"}),
    Recipe("h264.avi", options=GOP12),
    Recipe("mpeg2.mpg", "mpeg2video", {"bf": "2", "g": "12", "qscale": "4"}),
    Recipe("stream.ts", options=GOP12),
    Recipe("open.ts", options=OPEN),
    Recipe("hevc.ts", "libx265", {"preset": "ultrafast", "x265-params": X265 + ":open-gop=1"}),
    Recipe("raw.h264", options=GOP12),
    Recipe("clock.mkv", options=GOP12),
    Recipe("stream.flv", options=GOP12),
    Recipe("mjpeg.avi", "mjpeg", pix_fmt="yuvj420p"),
    Recipe("fragmented.mp4", options=GOP12, mux={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    Recipe("faststart.mp4", options=GOP12, mux={"movflags": "faststart"}),
    Recipe("variable.mp4", options=GOP12, ticks=lambda n: n + n // 7 * 3 + (n > 20) * 40),
    Recipe("late.mp4", options=GOP12, ticks=lambda n: n + 37),
    Recipe("late.mkv", options=GOP12, ticks=lambda n: n + 37),
    Recipe("ten_bit.mp4", options=GOP12, pix_fmt="yuv420p10le"),
    Recipe("full_chroma.mp4", options=GOP12, pix_fmt="yuv444p"),
    Recipe("interlaced.mp4", options=x264("keyint=12:bframes=2:tff=1")),
    Recipe("rotated.mp4", options=GOP12, rotation=90),
    Recipe("upside_down.mp4", options=GOP12, rotation=180),
    Recipe("mirrored.mp4", options=GOP12, rotation=-90, hflip=True),
    Recipe("cover.mp4", options=GOP12, cover=True),
]
CUTS = ["cut_gop.mp4", "cut_open.mp4", "cut_open.ts"]


def write_video(path: Path, recipe: Recipe, numbers: Sequence[int] = range(FRAMES)) -> None:
    """Encode the barcodes of `numbers`."""
    with av.open(str(path), "w", options=recipe.mux) as container:
        if recipe.cover:
            cover = container.add_stream("mjpeg", rate=25, width=32, height=32, pix_fmt="yuvj420p")
            cover.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream(recipe.codec, rate=25, options=recipe.options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, recipe.pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 25)
        if recipe.rotation or recipe.hflip:
            stream.set_display_rotation(recipe.rotation, hflip=recipe.hflip)
        if recipe.cover:
            container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = recipe.ticks(number), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def copy_from(source: Path, target: Path, first: int, shift: int) -> None:
    """Copy the packets from position `first` on, `shift` frames earlier: what cutting without re-encoding leaves."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        ticks = round(shift / 25 / stream.time_base)
        for position, packet in enumerate(old.demux(stream)):
            if packet.size and position >= first:
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, copy
                new.mux(packet)


class Library:
    """The test files, each made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._truth: dict[str, Picture] = {}

    def path(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            if name == "cut_gop.mp4":  # starts in the middle of a GOP: 7 decoded frames are not shown
                copy_from(self.path("gop12.mp4"), path, 12, 19)
            elif name == "cut_open.mp4":  # the first key frame's leading pictures have lost what they refer to
                copy_from(self.path("open.mp4"), path, self.keys("open.mp4")[1], 20)
            elif name == "cut_open.ts":
                copy_from(self.path("open.ts"), path, self.keys("open.ts")[1], 0)
            else:
                write_video(path, next(r for r in RECIPES if r.name == name))
        return path

    def keys(self, name: str) -> list[int]:
        """Packet positions of the key frames."""
        with av.open(str(self.path(name))) as container:
            return [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]

    def truth(self, name: str) -> Picture:
        """All frames in order, by plain decoding from start to end; rotation not applied."""
        if name not in self._truth:
            self._truth[name] = decode_all(self.path(name))
        return self._truth[name]


def decode_all(path: Path) -> Picture:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        stream.thread_count, stream.thread_type = 1, "NONE"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("videos"))


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    pyav_source.clear_cache()
    yield
    pyav_source.clear_cache()


def patterns(count: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Index lists of every kind a caller may think of."""
    yield [count - 1]
    yield [0]
    yield list(range(count))
    yield list(range(count - 1, -1, -7))
    for _ in range(4):
        start = int(rng.integers(0, max(1, count - 16)))
        yield [min(count - 1, start + step * 2) for step in range(8)]
        yield rng.integers(0, count, 6).tolist()
        yield rng.integers(0, count, 2).tolist() * 2


@pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["seeking", "in_memory"])
@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES] + CUTS)
def test_equals_full_decode(library: Library, monkeypatch: pytest.MonkeyPatch, name: str, keep_bytes: int) -> None:
    monkeypatch.setattr(pyav_source, "_KEEP_BYTES", keep_bytes)
    truth = library.truth(name)
    rng = np.random.default_rng(len(name))
    with VideoReader(library.path(name)) as video:
        assert video.info.num_frames == len(truth)
        assert video.damage == ""
        for indices in patterns(len(truth), rng):
            clip = video.read(indices)
            assert clip.dtype == torch.uint8 and clip.shape[0] == len(indices)
            assert clip.shape[1:3] == (video.info.height, video.info.width)
            expected = truth[indices]
            if name == "rotated.mp4":
                expected = np.rot90(expected, 1, (1, 2))
            elif name == "upside_down.mp4":
                expected = np.rot90(expected, 2, (1, 2))
            elif name == "mirrored.mp4":
                expected = np.rot90(expected, -1, (1, 2))[:, :, ::-1]
            assert np.array_equal(clip.numpy(), expected), indices
    # A second reader works from the remembered index.
    assert np.array_equal(read_frames(library.path(name), indices).numpy(), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [(recipe.name, range(FRAMES)) for recipe in RECIPES if not recipe.rotation]
    + [("cut_gop.mp4", range(19, 60)), ("cut_open.mp4", range(20, 60)), ("cut_open.ts", range(12, 60))],
)
def test_shows_the_frame_asked_for(library: Library, name: str, expected: range) -> None:
    indices = list(range(0, len(expected), 5)) + [len(expected) - 1]
    clip = read_frames(library.path(name), indices).numpy()
    assert [number_in(picture) for picture in clip] == [expected[i] for i in indices]


@pytest.mark.parametrize("name", ["k400_arm_wrestling_demo.mp4", "kinetics_flipping_a_pancake.mkv"])
def test_real_clips_equal_full_decode(name: str) -> None:
    if not (CLIPS / name).exists():
        pytest.skip("the real clips are not here")
    truth = decode_all(CLIPS / name)
    rng = np.random.default_rng(3)
    with VideoReader(CLIPS / name) as video:
        assert video.info.num_frames == len(truth)
        for indices in patterns(len(truth), rng):
            assert np.array_equal(video.read(indices).numpy(), truth[indices])


def test_packed_b_frames_of_a_real_avi() -> None:
    """UCF101 files: two pictures in one packet, then an empty packet in the second one's place."""
    path = CLIPS / "ucf101_apply_eye_makeup_test.avi"
    if not path.exists():
        pytest.skip("the real clips are not here")
    truth = decode_all(path)
    assert probe(path) == VideoInfo(164, 25.0, 240, 320, "mpeg4", 6.56)
    for indices in patterns(len(truth), np.random.default_rng(4)):
        assert np.array_equal(read_frames(path, indices).numpy(), truth[indices])


class TestInfo:
    def test_facts(self, library: Library) -> None:
        assert probe(library.path("gop12.mp4")) == VideoInfo(60, 25.0, 64, 96, "h264", 2.4)

    def test_rotation_swaps_height_and_width(self, library: Library) -> None:
        info = probe(library.path("rotated.mp4"))
        assert (info.height, info.width) == (96, 64)

    def test_fps_of_a_variable_rate_is_the_average(self, library: Library) -> None:
        assert probe(library.path("variable.mp4")).fps == pytest.approx(60 / 4.96)  # the last frame ends at 124/25 s

    def test_millisecond_clock_does_not_blur_the_rate(self, library: Library) -> None:
        assert probe(library.path("clock.mkv")).fps == 25.0

    def test_edit_list_hides_frames(self, library: Library) -> None:
        assert probe(library.path("cut_gop.mp4")).num_frames == 41


class TestWork:
    """What is decoded and opened for a read, not how long it takes."""

    @pytest.fixture
    def fed(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        positions: list[int] = []
        feed = VideoFile.feed

        def counting(self: VideoFile, packet: av.Packet) -> list[av.VideoFrame]:
            positions.append(packet.pts)
            return feed(self, packet)

        monkeypatch.setattr(VideoFile, "feed", counting)
        return positions

    @pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["seeking", "in_memory"])
    def test_only_one_group_of_pictures_is_decoded(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, fed: list[int], keep_bytes: int
    ) -> None:
        monkeypatch.setattr(pyav_source, "_KEEP_BYTES", keep_bytes)
        with VideoReader(library.path("gop12.mp4")) as video:
            fed.clear()
            video.read([30])
        assert fed == [24, 25, 26, 28]  # I, P, referenced B, P; 27 is a B picture of no use to others

    @pytest.mark.parametrize("name", ["open.mp4", "hevc_open.mp4", "clock.mkv", "stream.ts", "cut_open.mp4", "asp.avi"])
    def test_sound_files_need_no_second_attempt(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        with VideoReader(library.path(name)) as video:
            monkeypatch.setattr(video._source, "_reopen", lambda: pytest.fail("read once more"))
            for indices in patterns(video.info.num_frames, np.random.default_rng(0)):
                video.read(indices)

    def test_repeated_frames_are_converted_once(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        written = []
        write = VideoFile.write_rgb
        monkeypatch.setattr(VideoFile, "write_rgb", lambda self, *a, **k: (written.append(1), write(self, *a, **k)))
        clip = read_frames(library.path("gop12.mp4"), [7, 3, 7, 7])
        assert len(written) == 2
        assert [number_in(picture) for picture in clip.numpy()] == [7, 3, 7, 7]

    def test_remembered_index_saves_the_scan(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        read_frames(library.path("gop12.mp4"), [0])
        monkeypatch.setattr(VideoFile, "scan", lambda *a: pytest.fail("scanned again"))
        assert number_in(read_frames(library.path("gop12.mp4"), [33])[0].numpy()) == 33

    def test_changed_file_is_indexed_again(self, library: Library, tmp_path: Path) -> None:
        path = tmp_path / "video.mp4"
        shutil.copy(library.path("gop12.mp4"), path)
        assert probe(path).num_frames == 60
        shutil.copy(library.path("cut_gop.mp4"), path)
        assert probe(path).num_frames == 41

    def test_cache_forgets_the_oldest(self, library: Library) -> None:
        cache = pyav_source.IndexCache(2)
        read_frames(library.path("gop12.mp4"), [0])
        index = next(iter(pyav_source._cache._entries.values()))
        for name in "abac":
            cache.put((name, 1, 1), index)
        assert cache.get(("b", 1, 1)) is None
        assert cache.get(("a", 1, 1)) is index


class TestRefusals:
    def test_frame_that_does_not_exist(self, library: Library) -> None:
        with pytest.raises(VideoDecodeError, match=r"gop12\.mp4: asked for frame 60 of 60$"):
            read_frames(library.path("gop12.mp4"), [0, 60])
        with pytest.raises(VideoDecodeError, match="asked for frame -1 of 60"):
            read_frames(library.path("gop12.mp4"), [-1])

    def test_no_indices(self, library: Library) -> None:
        with pytest.raises(ValueError, match="indices is empty"):
            read_frames(library.path("gop12.mp4"), [])

    def test_unknown_backend(self, library: Library) -> None:
        with pytest.raises(ValueError, match="backend='opencv': must be 'pyav' or 'decord'"):
            VideoReader(library.path("gop12.mp4"), backend="opencv")  # type: ignore[arg-type]

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(VideoDecodeError, match="No such file") as caught:
            probe(tmp_path / "none.mp4")
        assert caught.value.path == str(tmp_path / "none.mp4")
        assert caught.value.reason == "No such file or directory"

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(VideoDecodeError, match="is a directory"):
            probe(tmp_path)

    def test_fifo_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(VideoDecodeError, match="not a regular file"):
            probe(tmp_path / "pipe.mp4")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"", "empty"), (b"no video\n" * 100, "Invalid data"), (b"<html><body>404</body></html>", "Invalid data")],
        ids=["empty", "text", "html"],
    )
    def test_not_a_video(self, tmp_path: Path, content: bytes, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "video.mp4"
        path.write_bytes(content)
        with pytest.raises(VideoDecodeError, match=reason):
            probe(path)
        assert capfd.readouterr() == ("", "")

    def test_no_video_stream(self, tmp_path: Path) -> None:
        with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(16000))
        with pytest.raises(VideoDecodeError, match=r"no video stream that can be decoded \(streams: audio\)"):
            probe(tmp_path / "sound.wav")

    def test_moov_lost(self, library: Library, tmp_path: Path) -> None:
        data = library.path("gop12.mp4").read_bytes()
        (tmp_path / "video.mp4").write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(VideoDecodeError, match="cannot be opened"):
            probe(tmp_path / "video.mp4")

    def test_too_many_pixels(self, library: Library) -> None:
        path = library.path("gop12.mp4")
        for _ in range(2):  # without and with a remembered index
            with pytest.raises(VideoDecodeError, match="pictures of 96x64 exceed max_pixels=6000"):
                VideoReader(path, max_pixels=6000)
            probe(path)
        with pytest.raises(ValueError, match="max_pixels=0: must be positive"):
            VideoReader(path, max_pixels=0)

    def test_header_that_claims_huge_pictures_is_not_believed(self, library: Library, tmp_path: Path) -> None:
        size = struct.pack(">HH", WIDTH, HEIGHT)
        data = library.path("gop12.mp4").read_bytes()
        at = data.index(size, data.index(b"avc1", data.index(b"stsd")))
        (tmp_path / "video.mp4").write_bytes(data[:at] + struct.pack(">HH", 60000, 60000) + data[at + 4 :])
        clip = read_frames(tmp_path / "video.mp4", [9]).numpy()
        assert np.array_equal(clip, library.truth("gop12.mp4")[[9]])

    def test_errors_survive_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(VideoDecodeError("a.mp4", "is broken")))
        assert (type(error), error.path, error.reason, str(error)) == (
            VideoDecodeError,
            "a.mp4",
            "is broken",
            "a.mp4: is broken",
        )


class TestDamage:
    @pytest.mark.parametrize("name", ["faststart.mp4", "fragmented.mp4", "asp.avi", "h264.avi"])
    @pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
    def test_truncated_file(self, library: Library, tmp_path: Path, name: str, share: float) -> None:
        """What comes before the cut is exact; what may have other numbers than it should cannot be asked for."""
        path = tmp_path / name
        data = library.path(name).read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        try:
            video = VideoReader(path)
        except VideoDecodeError:
            assert name == "h264.avi" and share == 0.6  # fewer frames than a decoder may reorder
            return
        with video:
            count = video.info.num_frames
            assert 0 < count < FRAMES
            assert np.array_equal(video.read(range(count)).numpy(), library.truth(name)[:count])
            with pytest.raises(VideoDecodeError, match=rf"asked for frame 59 of {count} \(damaged: "):
                video.read([59])
            assert video.damage

    @pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["seeking", "in_memory"])
    @pytest.mark.parametrize(("name", "group"), [("faststart.mp4", range(24, 36)), ("hevc.mp4", range(24, 36))])
    def test_damaged_key_frame_spoils_its_group_alone(
        self,
        library: Library,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        group: range,
        keep_bytes: int,
    ) -> None:
        monkeypatch.setattr(pyav_source, "_KEEP_BYTES", keep_bytes)
        with av.open(str(library.path(name))) as container:
            key = [packet for packet in container.demux(video=0) if packet.is_keyframe][2]
        data = bytearray(library.path(name).read_bytes())
        data[key.pos + 4 : key.pos + key.size] = bytes(key.size - 4)
        path = tmp_path / name
        path.write_bytes(data)
        truth = library.truth(name)
        with VideoReader(path) as video:
            assert video.info.num_frames == FRAMES
            for frame in range(FRAMES):
                if frame in group:
                    with pytest.raises(VideoDecodeError, match=f"frame {frame} cannot be decoded"):
                        video.read([frame])
                else:
                    assert np.array_equal(video.read([frame])[0].numpy(), truth[frame])
            with pytest.raises(VideoDecodeError, match="frame 24 and 11 more cannot be decoded"):
                video.read(range(FRAMES))

    def test_nothing_can_be_decoded(self, library: Library, tmp_path: Path) -> None:
        data = bytearray(library.path("faststart.mp4").read_bytes())
        at = data.index(b"mdat") + 4
        data[at:] = bytes(len(data) - at)
        (tmp_path / "video.mp4").write_bytes(data)
        with pytest.raises(VideoDecodeError, match=r"no picture can be decoded \(no key frame\)"):
            probe(tmp_path / "video.mp4")


class TestDecord:
    def test_same_frames_where_it_is_exact(self, library: Library) -> None:
        pytest.importorskip("decord")
        clip = read_frames(library.path("gop12.mp4"), [50, 3, 3, 28], backend="decord")
        assert np.array_equal(clip.numpy(), library.truth("gop12.mp4")[[50, 3, 3, 28]])

    def test_info(self, library: Library) -> None:
        pytest.importorskip("decord")
        with VideoReader(library.path("rotated.mp4"), backend="decord") as video:
            assert video.info == VideoInfo(60, 25.0, 96, 64, "h264", 2.4)

    def test_errors(self, library: Library, tmp_path: Path) -> None:
        pytest.importorskip("decord")
        (tmp_path / "text.mp4").write_bytes(b"no video\n" * 100)
        with pytest.raises(VideoDecodeError, match=r"text\.mp4: cannot be opened"):
            read_frames(tmp_path / "text.mp4", [0], backend="decord")
        with pytest.raises(VideoDecodeError, match="asked for frame 60 of 60"):
            read_frames(library.path("gop12.mp4"), [60], backend="decord")

    def test_not_installed(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "decord", None)
        with pytest.raises(RuntimeError, match="decord is not installed; pip install decord"):
            VideoReader(library.path("gop12.mp4"), backend="decord")


class TestPlan:
    def test_runs(self) -> None:
        anchor = np.array([0, 0, 0, 0, 4, 4, 4, 4, 8, 8], np.int32)
        runs = [(s.first, s.last, sorted(s.wanted)) for s in plan(anchor, [9, 2, 1])]
        assert runs == [(0, 2, [1, 2]), (8, 9, [9])]

    def test_adjacent_groups_are_one_run(self) -> None:
        anchor = np.array([0, 0, 0, 3, 3], np.int32)
        assert [(s.first, s.last) for s in plan(anchor, [2, 3])] == [(0, 3)]

    def test_leading_picture_pulls_the_start_back(self) -> None:
        anchor = np.array([0, 0, 0, 3, 0, 3], np.int32)  # packet 4 follows key frame 3 and is shown before it
        assert [(s.first, s.last, sorted(s.wanted)) for s in plan(anchor, [3, 4])] == [(0, 4, [3, 4])]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 0, 1, 0), Orientation()),
        ((0, 1, 0, -1, 0, 0), Orientation(transpose=True, flip_columns=True)),
        ((-1, 0, 0, 0, -1, 0), Orientation(flip_rows=True, flip_columns=True)),
        ((0, -1, 0, 1, 0, 0), Orientation(transpose=True, flip_rows=True)),
        ((-1, 0, 0, 0, 1, 0), Orientation(flip_columns=True)),
        ((46341, 46341, 0, -46341, 46341, 0), Orientation()),  # 45 degrees
    ],
)
def test_orientation_from_matrix(matrix: tuple[int, ...], expected: Orientation) -> None:
    assert orientation_from_matrix([*matrix, 0, 0, 1]) == expected


@pytest.mark.parametrize(
    ("vops", "expected"),
    [
        (["I", "P", "B", "B", "P"], [0, 3, 1, 2, 4]),
        (["I", "PB", "B", "", "P"], [0, 3, 1, 2, 4]),  # packed: the empty packet takes the place of the second picture
        (["I", "PB", "B", "", "PB"], [0, 3, 1, 2, 4]),
        (["I", "", "P"], None),  # a repeated frame: only decoding tells what is shown
    ],
)
def test_mpeg4_pictures_in_order_of_presentation(vops: list[str], expected: list[int] | None) -> None:
    table = PacketTable(pts=[None] * len(vops), kinds=[PacketKind(vops=v) for v in vops])
    assert presentation_ranks(table, codec="mpeg4", container="avi") == expected
